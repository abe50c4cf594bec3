// What all figures have in common.
const CONFIG = {
  responsive: true, displayModeBar: false, showTips: false,
};

function axis(t, title, more) {
  return {
    title: { text: title, font: { size: 13, color: t.quiet }, standoff: 8 }, color: t.quiet, gridcolor: t.faint, linecolor: t.faint,
    zeroline: false, automargin: true, ...more,
  };
}

function layout(t, more) {
  return {
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: t.ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 64, r: 14, t: 10, b: 44 },
    hoverlabel: { bgcolor: t.wash, bordercolor: t.faint, font: { color: t.ink, size: 13 }, namelength: -1 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: t.ink }, itemwidth: 30 },
    ...more,
  };
}

// A line over time with few points gets marks too, so that one window alone is seen.
function over(t, policy, x, y, more) {
  const few = x.length <= 40;
  return {
    type: "scatter", mode: few ? "lines+markers" : "lines", name: names[policy], x, y, line: line(t, policy),
    marker: { symbol: data.styles[policy].mark, size: 7, color: t.policy[policy] }, ...more,
  };
}

function draw(id, traces, figure) {
  return Plotly.react(id, traces, figure, CONFIG);
}
