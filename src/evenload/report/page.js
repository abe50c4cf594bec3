// Draws the figures in the page's colours, light or dark, and works the controls above them.
const byId = (id) => document.getElementById(id);
const { figures, balance, loads, hot } = JSON.parse(byId("data").textContent);
const CONFIG = { responsive: true, displayModeBar: false, showTips: false };
const GAP = 65535;

// A colour in a figure, and the font, is the name of one of the page's CSS variables: put in what that is.
const style = getComputedStyle(document.documentElement);
function styled(value, key = "") {
  if (Array.isArray(value)) return value.map((item) => styled(item, key));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, styled(item, name)]));
  }
  const named = typeof value === "string" && value.startsWith("--") && /color|family/.test(key);
  return named ? style.getPropertyValue(value).trim() : value;
}

function draw(id) {
  const { data, layout } = styled(figures[id]);
  return Plotly.react(id, data, layout, CONFIG);
}

// Undo pack() of charts.py: little-endian 16-bit counts of `step` in base64, GAP where there is no number.
function unpack(text, step) {
  const bytes = atob(text);
  return Array.from({ length: bytes.length / 2 }, (_, i) => {
    const count = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
    return count === GAP ? null : count * step;
  });
}

function rowsOf(values, from, rows, columns) {
  return Array.from({ length: rows }, (_, i) => values.slice(from + i * columns, from + (i + 1) * columns));
}

// Balance over time: the mean of the layers or the worst one.
function showBalance() {
  const what = document.querySelector('input[name="balance"]:checked').value;
  figures["balance-chart"].data.forEach((line, i) => { line.y = balance[what][i]; });
  return draw("balance-chart");
}

// Load per GPU: two maps side by side, of one window.
const maps = loads.maps.map((text) => unpack(text, loads.step));
const slider = byId("loads-window");

function showMap(side) {
  const { layers, gpus } = loads;
  const rows = rowsOf(maps[byId(`loads-${side}`).value], slider.value * layers * gpus, layers, gpus);
  const each = rows.map((row) => 1 / Math.max(...row)); // even loads, 1, over the heaviest
  const mean = each.reduce((a, b) => a + b) / layers;
  byId(`loads-${side}-says`).textContent = `balancedness ${mean.toFixed(3)}, worst layer ${Math.min(...each).toFixed(3)}`;
  const [map] = figures[`loads-${side}-chart`].data;
  map.z = rows.map((row) => row.map((load) => (load === null ? null : Math.log2(Math.max(load, 1e-3)))));
  map.customdata = rows;
  return draw(`loads-${side}-chart`);
}

function showWindow() {
  const number = loads.windows[slider.value];
  byId("loads-number").textContent = `${number} (of ${loads.windows[0]} to ${loads.windows.at(-1)})`;
  slider.setAttribute("aria-valuetext", `window ${number}`);
  return Promise.all(["left", "right"].map(showMap));
}

let timer = null;
function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(next, 250) : null;
  byId("loads-play").textContent = on ? "Pause" : "Play";
  byId("loads-play").setAttribute("aria-pressed", String(on));
}
function next() {
  if (slider.value === slider.max) return play(false);
  slider.value = Number(slider.value) + 1;
  return showWindow();
}

// Hot experts of one layer.
const hotLoads = unpack(hot.load, hot.step);

function showLayer() {
  const layer = Number(byId("hot-layer").value);
  byId("hot-number").textContent = `${layer} (of 0 to ${hot.experts.length - 1})`;
  byId("hot-layer").setAttribute("aria-valuetext", `layer ${layer}`);
  const [map] = figures["hot-chart"].data;
  const [experts, columns] = [hot.experts[layer], map.x.length];
  map.y = experts.map((expert) => `expert ${expert}`);
  map.z = rowsOf(hotLoads, layer * experts.length * columns, experts.length, columns);
  map.zmax = Math.max(...map.z.flat());
  return draw("hot-chart");
}

document.querySelectorAll('input[name="balance"]').forEach((choice) => choice.addEventListener("change", showBalance));
["left", "right"].forEach((side) => byId(`loads-${side}`).addEventListener("change", () => showMap(side)));
slider.addEventListener("input", showWindow);
byId("loads-play").addEventListener("click", () => {
  if (timer !== null) return play(false);
  if (slider.value === slider.max) slider.value = 0;
  play(true);
  return showWindow();
});
byId("hot-layer").addEventListener("input", showLayer);

const shown = [draw("tradeoff-chart"), showBalance(), draw("moving-chart"), showWindow(), showLayer()];
await Promise.all(shown);
document.documentElement.dataset.drawn = "yes";
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Object.keys(figures).forEach(draw));
