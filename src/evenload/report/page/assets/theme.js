// Colours of the figures, which follow the page's: light or dark.
const darkMode = window.matchMedia("(prefers-color-scheme: dark)");

// From little to much load: both ends far from the paper, the middle, which is even, near it.
const EVENNESS = {
  light: [[0, "#2166ac"], [0.25, "#8dbbdc"], [0.5, "#f7f7f5"], [0.75, "#f0a46f"], [1, "#b03a06"]],
  dark: [[0, "#7fc4ff"], [0.25, "#2d6ea3"], [0.5, "#22272e"], [0.75, "#b85c1c"], [1, "#ffb27a"]],
};
const HEAT = {
  light: [[0, "#f4f6f9"], [0.25, "#c3d7ea"], [0.5, "#76a9d3"], [0.75, "#2a6fa9"], [1, "#0b2f55"]],
  dark: [[0, "#1d232b"], [0.25, "#1f4468"], [0.5, "#2f76ae"], [0.75, "#74b6e6"], [1, "#e9f6ff"]],
};

function theme() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const mode = darkMode.matches ? "dark" : "light";
  return {
    mode, paper: read("paper"), ink: read("ink"), quiet: read("quiet"), faint: read("faint"), wash: read("wash"),
    evenness: EVENNESS[mode], heat: HEAT[mode],
    policy: data.styles.map((style) => style[mode]),
  };
}

function line(t, policy) {
  const style = data.styles[policy];
  return { color: t.policy[policy], width: style.width, dash: style.dash };
}

const ORACLE = (t) => ({ color: t.ink, width: 1.5, dash: "dot" });
const START = (t) => ({ color: t.quiet, width: 1.5, dash: "dash" });

// The marks in the table, which are a legend of all figures.
const MARKS = {
  "circle": "M11 1.5a4 4 0 1 0 .001 0z", "square": "M7 1.7h7.6v7.6H7z", "diamond": "M11 .5l5 5-5 5-5-5z",
  "triangle-up": "M11 1l4.8 8.5H6.2z", "triangle-down": "M11 10L6.2 1.5h9.6z",
  "x": "M7.5 1L11 4.3 14.5 1 16 2.6 12.7 5.5 16 8.6 14.5 10 11 6.8 7.5 10 6 8.6 9.3 5.5 6 2.6z",
  "cross": "M9.5 1h3v3h3v3h-3v3h-3V7h-3V4h3z", "star": "M11 .3l1.5 3.5 3.7.3-2.8 2.5.9 3.7L11 8.3l-3.3 2 .9-3.7-2.8-2.5 3.7-.3z",
};
const SVG_DASH = { solid: "", dash: "6 3", dot: "2 3", dashdot: "6 2 2 2" };

function drawSwatches(t) {
  for (const place of document.querySelectorAll(".swatch")) {
    const start = place.dataset.policy === "start";
    const style = start ? { dash: "dash", width: 1.5 } : data.styles[place.dataset.policy];
    const color = start ? t.quiet : t.policy[place.dataset.policy];
    const mark = start ? "" : `<path d="${MARKS[style.mark]}" fill="${color}"/>`;
    place.innerHTML = `<svg width="22" height="11" viewBox="0 0 22 11"><path d="M0 5.5h22" stroke="${color}" ` +
      `stroke-width="${style.width}" stroke-dasharray="${SVG_DASH[style.dash]}"/>${mark}</svg>`;
  }
}
