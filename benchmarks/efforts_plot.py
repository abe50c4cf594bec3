"""The figure of `benchmarks.efforts`: gap against time, a panel a size, every point labelled."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import labels

PANELS = ("288/32 lognormal 1.0", "320/64 lognormal 1.0", "288/96 lognormal 1.0",
          "288/144 lognormal 0.5", "288/144 zipf 1.0", "strict 288/144 lognormal 1.0")  # fmt: skip
PEERS = {
    "DeepSeek EPLB": "DeepSeek",
    "SGLang 0.5.23": "SGLang",
    "SGLang 0.5.23 vec": "SGLang vec",
    "vLLM 0.33.0": "vLLM",
}
LEAST_GAP = 1e-5  # drawn at least here: a logarithm has no zero


def draw(result: dict[str, Any], path: Path) -> None:
    """Write one log-log panel for each of the panels' sizes that were measured."""
    chosen = [size for name in PANELS for size in result["sizes"] if size["name"] == name]
    chosen = chosen or result["sizes"][:1]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)  # labels are measured before the figure is written
    grid = figure.subplots(rows, columns, squeeze=False)
    panels = list(zip(grid.flat, chosen, strict=False))
    for axes in list(grid.flat)[len(chosen) :]:
        axes.remove()
    for axes, size in panels:
        _points(axes, size)
    figure.suptitle("Gap to the proven bound against time: lower left is better", fontsize=11)
    figure.draw_without_rendering()  # places are final, so labels can be put where there is room
    figure.set_layout_engine("none")
    for axes, size in panels:
        _labels(axes, size)
    figure.savefig(path, format="png")


def _place(planner: dict[str, Any]) -> tuple[float, float]:
    return planner["ms"], max(LEAST_GAP, planner["gap_mean"])


def _colour(name: str) -> str:
    return "C7" if name in PEERS else "C3" if name.startswith("joint") else "C0"


def _efforts(size: dict[str, Any]) -> list[tuple[float, float]]:
    return [_place(p) for p in size["planners"] if p["name"].startswith("joint")]


def _points(axes: Any, size: dict[str, Any]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="ms a plan", ylabel="mean gap")
    axes.set_title(f"{size['name']} (bound {size['bound']:.4f})", fontsize="medium")
    for planner in size["planners"]:
        axes.plot(*_place(planner), "o", color=_colour(planner["name"]), markersize=6)
    axes.plot(*zip(*_efforts(size), strict=True), "-", color="C3", alpha=0.5, linewidth=1)
    gaps = [_place(planner)[1] for planner in size["planners"]]
    axes.margins(x=0.45)
    reach = max(max(gaps) / min(gaps), 3.0)
    axes.set_ylim(min(gaps) / reach**0.35, max(gaps) * reach**0.35)
    axes.grid(visible=True, which="major", alpha=0.25)


def _labels(axes: Any, size: dict[str, Any]) -> None:
    names = [planner["name"] for planner in size["planners"]]
    points = [_place(planner) for planner in size["planners"]]
    labels.write(
        axes,
        [PEERS.get(name, name) for name in names],
        points,
        [_colour(name) for name in names],
        _efforts(size),
    )
