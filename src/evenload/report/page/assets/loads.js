// Heat maps of GPU loads, two side by side, with a slider over windows.
const loads = (() => {
  const d = data.loads;
  const maps = d.maps.map((text) => unpack(text, d.step));
  let low = 1, high = 1;
  for (const of of maps) for (const value of of) {
    if (value > high) high = value;
    if (value < low) low = value;
  }
  const limit = Math.min(Math.max(high, 1 / Math.max(low, 0.25), 1.1), 4);
  return { ...d, maps, limit, size: d.layers * d.gpus };
})();
const mapNames = ["starting placement", ...data.policies];

function mapRows(map, window) {
  const at = (layer) => window * loads.size + layer * loads.gpus;
  return Array.from({ length: loads.layers }, (_, layer) =>
    Array.from(loads.maps[map].subarray(at(layer), at(layer) + loads.gpus), (v) => (Number.isNaN(v) ? null : v)));
}

// Balancedness of a layer is what even loads, 1, are of the heaviest.
function balanceOf(rows) {
  const each = rows.map((row) => 1 / Math.max(...row.filter((v) => v !== null)));
  return { mean: each.reduce((a, b) => a + b) / each.length, worst: Math.min(...each) };
}

function drawMap(side, t) {
  const rows = mapRows(Number(byId(`loads-${side}`).value), Number(byId("loads-window").value));
  const { mean, worst } = balanceOf(rows);
  byId(`loads-${side}-says`).textContent = `balancedness ${mean.toFixed(3)}, worst layer ${worst.toFixed(3)}`;
  const reach = Math.log2(loads.limit);
  const each = loads.gpus / loads.nodes;
  const shapes = Array.from({ length: loads.nodes - 1 }, (_, n) => ({
    type: "line", yref: "paper", y0: 0, y1: 1, x0: (n + 1) * each - 0.5, x1: (n + 1) * each - 0.5, line: { color: t.ink, width: 1 },
  }));
  const z = rows.map((row) => row.map((v) => (v === null ? null : Math.log2(Math.max(v, 1e-3)))));
  const trace = {
    type: "heatmap", z, customdata: rows, zmin: -reach, zmax: reach, colorscale: t.evenness, showscale: false, xgap: loads.gpus <= 64 ? 1 : 0,
    hovertemplate: "layer %{y}, GPU %{x}<br>%{customdata:.3f} x the layer's mean<extra></extra>",
  };
  const ticks = { showgrid: false, tickformat: "d", nticks: 10 };
  return draw(`loads-${side}-chart`, [trace], layout(t, {
    xaxis: axis(t, loads.nodes > 1 ? "GPU (lines: nodes)" : "GPU", ticks), yaxis: axis(t, "layer", { ...ticks, autorange: "reversed" }),
    margin: { l: 52, r: 2, t: 8, b: 44 }, shapes,
  }));
}

function drawScale(t) {
  const reach = Math.log2(loads.limit);
  const ticks = [0.25, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4].filter((v) => Math.abs(Math.log2(v)) <= reach + 1e-9);
  const spread = ticks.filter((v) => v === 1 || Math.abs(Math.log2(v)) > reach / 5);
  const stops = t.evenness.map(([at, color]) => `${color} ${100 * at}%`).join(",");
  const labels = spread.map((v) => `<i style="left:${50 + (50 * Math.log2(v)) / reach}%">${v}</i>`).join("");
  byId("loads-scale").innerHTML = `<span>less</span><div class="bar" style="background:linear-gradient(to right,${stops})">${labels}</div>` +
    "<span>more load than the mean of the layer</span>";
}

function drawLoads(t) {
  drawScale(t);
  showWindow();
  return Promise.all([drawMap("left", t), drawMap("right", t)]);
}

function showWindow() {
  const slider = byId("loads-window");
  const number = loads.windows[Number(slider.value)];
  byId("loads-number").textContent = `${number} (of ${loads.windows[0]} to ${loads.windows[loads.windows.length - 1]})`;
  slider.setAttribute("aria-valuetext", `window ${number}`);
}

function prepareLoads() {
  const slider = byId("loads-window");
  slider.max = loads.windows.length - 1;
  slider.value = slider.max;
  for (const [side, chosen] of [["left", 0], ["right", data.hero + 1]]) {
    const select = byId(`loads-${side}`);
    mapNames.forEach((name, i) => select.add(new Option(name, i, i === chosen, i === chosen)));
    select.addEventListener("change", () => drawMap(side, theme()));
  }
  slider.addEventListener("input", () => drawLoads(theme()));
  let timer = null;
  const button = byId("loads-play");
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
    button.setAttribute("aria-pressed", "false");
  };
  const step = () => {
    if (slider.value === slider.max) return stop();
    slider.value = Number(slider.value) + 1;
    return drawLoads(theme());
  };
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (slider.value === slider.max) slider.value = 0;
    button.textContent = "Pause";
    button.setAttribute("aria-pressed", "true");
    timer = setInterval(step, 250);
    return drawLoads(theme());
  });
}
