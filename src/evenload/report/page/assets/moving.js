// What moved, what that brought, and which rebalances paid.
// Names beside the rows, cut in the middle so that they leave room for the plot.
function shorter(name) {
  return plain(name.length <= 20 ? name : `${name.slice(0, 9)}…${name.slice(-10)}`);
}

function paidMarks(t, policy) {
  const d = data.moving[policy];
  const color = t.policy[policy];
  return {
    type: "scatter", mode: "markers", x: d.at, y: d.at.map(() => policy), yaxis: "y3", name: names[policy], showlegend: false,
    marker: {
      symbol: d.paid.map((paid) => data.styles[policy].mark + (paid ? "" : "-open")), size: d.at.length > 150 ? 5 : 9, color,
      line: { color, width: 1.5 },
    },
    customdata: d.at.map((_, i) => [whole(d.moves[i]), d.seconds[i], d.paid[i] ? "paid for itself" : "did not pay"]),
    hovertemplate: "window %{x}: %{customdata[2]}<br>%{customdata[0]} experts moved in %{customdata[1]:.3~s}s<extra>%{fullData.name}</extra>",
  };
}

function drawMoving(t) {
  const x = middles(data.windows);
  const P = names.length;
  const height = 390 + 24 * P;
  const strip = (24 * P) / (height - 60);
  const middle = strip + 0.05 + (0.95 - strip) / 2;
  byId("moving-chart").style.height = `${height}px`;
  const traces = data.moving.flatMap((d, i) => [
    over(t, i, x, d.moved, { mode: "lines", line: { ...line(t, i), shape: "hv" }, legendgroup: i, hovertemplate: "%{y:,d} moved<extra>%{fullData.name}</extra>" }),
    over(t, i, x, d.saved, { mode: "lines", yaxis: "y2", legendgroup: i, showlegend: false, hovertemplate: "%{y:.4~s}s saved<extra>%{fullData.name}</extra>" }),
    paidMarks(t, i),
  ]);
  return draw("moving-chart", traces, layout(t, {
    xaxis: axis(t, "window", { anchor: "y3", hoverformat: "d", range: x.length > 1 ? undefined : [x[0] - 1, x[0] + 1] }),
    yaxis: axis(t, "experts moved", { domain: [middle + 0.03, 1], rangemode: "tozero", tickformat: ",~s" }),
    yaxis2: axis(t, "seconds saved", { domain: [strip + 0.05, middle - 0.03], zeroline: true, zerolinecolor: t.quiet, tickformat: "~s" }),
    yaxis3: axis(t, "", {
      domain: [0, strip], range: [P - 0.4, -0.6], tickvals: names.map((_, i) => i), ticktext: data.policies.map(shorter), showgrid: true, fixedrange: true,
    }),
    hovermode: "closest",
  }));
}
