// Balancedness of every policy from window to window.
function drawBalance(t) {
  const what = document.querySelector('input[name="balance"]:checked').value;
  const x = middles(data.windows);
  const hovertemplate = "%{y:.4f}<extra>%{fullData.name}</extra>";
  const traces = data.balance.map((of, i) => over(t, i, x, of[what], { hovertemplate }));
  const rest = { type: "scatter", mode: "lines", x, hovertemplate };
  if (data.start) traces.push({ ...rest, y: data.start[what], name: "starting placement", line: START(t) });
  if (data.oracle) traces.unshift({ ...rest, y: data.oracle[what], name: "oracle", line: ORACLE(t) });
  return draw("balance-chart", traces, layout(t, {
    xaxis: axis(t, "window", { hoverformat: "d" }), yaxis: axis(t, "balancedness", { tickformat: ".2~f" }), hovermode: "x unified",
  }));
}

document.querySelectorAll('input[name="balance"]').forEach((choice) =>
  choice.addEventListener("change", () => drawBalance(theme())));
