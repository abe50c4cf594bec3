"""The figure of `benchmarks.drift`: balance against moves, a panel a trace and number of GPUs."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLUMNS = 3
MARKS = {"never": ("k", "x"), "once": ("k", "+"), "DeepSeek EPLB, last window": ("C0", "s"),
         "vLLM 0.33.0, last window": ("C2", "D"), "joint, last window": ("C4", "^")}  # fmt: skip


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a panel for each trace: the curve of prices, and a point for each other policy."""
    traces = [trace for trace in result["traces"] if trace["windows"] >= COLUMNS]
    rows = -(-len(traces) // COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, 3.2 * rows), layout="constrained", dpi=150)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, trace in zip(grid.flat, traces, strict=False):
        _panel(axes, trace)
    for axes in list(grid.flat)[len(traces) :]:
        axes.remove()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    figure.suptitle("Balancedness of the next window against moves: upper left is better")
    figure.savefig(path, format="png")


def _panel(axes: Any, trace: dict[str, Any]) -> None:
    slots = trace["layers"] * trace["slots"]
    curve = [p for p in trace["policies"] if p["price"] is not None]
    axes.plot([p["moves"] / slots for p in curve], [p["balancedness"] for p in curve], "o-",
              color="C3", markersize=4, label="incremental, price of a move 0 to 0.02")  # fmt: skip
    for policy in trace["policies"]:
        if policy["name"] in MARKS:
            colour, mark = MARKS[policy["name"]]
            axes.plot(policy["moves"] / slots, policy["balancedness"], mark, color=colour,
                      linestyle="none", label=policy["name"])  # fmt: skip
    axes.axhline(trace["oracle"], color="0.6", linewidth=1, linestyle=":", label="oracle")
    axes.set_title(f"{trace['name']}, {trace['gpus']} GPUs, {trace['slots']} slots", fontsize=9)
    axes.set_xlabel("moves a window / slots", fontsize=8)
    axes.set_ylabel("balancedness", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, alpha=0.25)
