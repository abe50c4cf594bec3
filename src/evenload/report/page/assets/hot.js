// The hottest experts of a layer over time, and how many of them stay it.
const hot = { ...data.hot, load: unpack(data.hot.load, data.hot.step) };

function hotRows(layer) {
  const B = hot.columns.first.length;
  const X = hot.experts[layer].length;
  return Array.from({ length: X }, (_, i) => Array.from(hot.load.subarray((layer * X + i) * B, (layer * X + i + 1) * B)));
}

function drawHot(t) {
  const layer = Number(byId("hot-layer").value);
  byId("hot-number").textContent = `${layer} (of 0 to ${hot.experts.length - 1})`;
  byId("hot-layer").setAttribute("aria-valuetext", `layer ${layer}`);
  const x = middles(hot.columns);
  const when = spans(hot.columns);
  const rows = hotRows(layer);
  const most = Math.max(...rows.map((row) => Math.max(...row)));
  const map = {
    type: "heatmap", x, y: hot.experts[layer].map((e) => `expert ${e}`), z: rows, zmin: 0, zmax: most, colorscale: t.heat, customdata: rows.map(() => when),
    colorbar: { title: { text: "load / mean", side: "right", font: { size: 12, color: t.quiet } }, thickness: 12, outlinewidth: 0, len: 0.62, y: 1, ypad: 0, yanchor: "top", tickfont: { color: t.quiet } },
    hovertemplate: "%{y}, %{customdata}<br>%{z:.2f} x the layer's mean<extra></extra>",
  };
  const kept = (y, name, style) => ({
    type: "scatter", mode: x.length <= 40 ? "lines+markers" : "lines", x, y, yaxis: "y2", name, line: style, hovertemplate: `%{y:.0%} ${name}<extra></extra>`,
  });
  return draw("hot-chart", [
    map,
    kept(hot.since_last, "since the column before", { color: t.policy[data.hero], width: 2 }),
    kept(hot.since_first, "since the first column", { color: t.ink, width: 1.5, dash: "dot" }),
  ], layout(t, {
    xaxis: axis(t, "window", { anchor: "y2", showgrid: false }),
    yaxis: axis(t, "", { domain: [0.38, 1], autorange: "reversed", showgrid: false, type: "category", dtick: 1, tickfont: { size: 11 } }),
    yaxis2: axis(t, "still among<br>the hottest", { domain: [0, 0.25], range: [0, 1.06], tickformat: ".0%", nticks: 4 }),
    legend: { orientation: "h", x: 0, y: 0.255, yanchor: "bottom", font: { color: t.ink } },
    hovermode: "closest",
  }));
}

function prepareHot() {
  const slider = byId("hot-layer");
  slider.max = hot.experts.length - 1;
  slider.value = hot.layer;
  slider.addEventListener("input", () => drawHot(theme()));
}
