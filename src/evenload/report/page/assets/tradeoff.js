// Balance against moves.
function rule(t, y, text, color, dash, below) {
  return {
    shape: { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color, width: 1.5, dash } },
    note: {
      xref: "paper", x: 1, y, xanchor: "right", yanchor: below ? "top" : "bottom", text, showarrow: false,
      font: { color, size: 12 },
    },
  };
}

function drawTradeoff(t) {
  const d = data.tradeoff;
  const curves = d.curves.map((members) => ({
    type: "scatter", mode: "lines", x: members.map((i) => d.x[i]), y: members.map((i) => d.y[i]),
    line: { color: t.policy[members.includes(data.hero) ? data.hero : members[0]], width: 1.5 }, opacity: 0.55, hoverinfo: "skip", showlegend: false,
  }));
  const points = names.map((name, i) => ({
    type: "scatter", mode: "markers+text", x: [d.x[i]], y: [d.y[i]], name, text: [name], textposition: d.labels[i], cliponaxis: false,
    textfont: { color: t.ink, size: 13 },
    marker: { symbol: data.styles[i].mark, size: i === data.hero ? 14 : 11, color: t.policy[i], line: { color: t.paper, width: 1 } },
    hovertemplate: "balancedness %{y:.4f}<br>%{x:,.1f} experts moved per window<extra>%{fullData.name}</extra>",
    showlegend: false,
  }));
  const rules = [];
  if (d.start !== null) rules.push(rule(t, d.start, "starting placement", t.quiet, "dash", true));
  if (d.oracle !== null) rules.push(rule(t, d.oracle, "oracle", t.ink, "dot", false));
  return draw("tradeoff-chart", [...curves, ...points], layout(t, {
    xaxis: axis(t, "experts moved per window, all layers", { range: d.x_range }),
    yaxis: axis(t, "balancedness", { range: d.y_range }), hovermode: "closest",
    shapes: rules.map((r) => r.shape), annotations: rules.map((r) => r.note),
  }));
}
