// What the page was made with, and how its numbers are read.
const data = JSON.parse(document.getElementById("data").textContent);
const GAP = 65535;

// Undo pack.py: little-endian 16-bit counts of `step` in base64, GAP where there is no number.
function unpack(text, step) {
  const bytes = atob(text);
  const values = new Float64Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    const count = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
    values[i] = count === GAP ? NaN : count * step;
  }
  return values;
}

// Plotly reads some HTML in names; a policy may be called anything.
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const names = data.policies.map(plain);
const byId = (id) => document.getElementById(id);
const whole = (value) => Math.round(value).toLocaleString("en");

// Where a run of windows is drawn: its middle.
const middles = (runs) => runs.first.map((first, i) => (first + runs.last[i]) / 2);
const spans = (runs) => runs.first.map((first, i) =>
  first === runs.last[i] ? `window ${first}` : `windows ${first} to ${runs.last[i]}`);
