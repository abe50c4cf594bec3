"""The figure of `benchmarks.gap`: a box a size and effort, and a point a layer with its optimum."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

LEAST = 1e-6  # drawn at least here: a logarithm has no zero
COLOURS = {"standard": "C0", "thorough": "C1"}
WIDTH = 0.36
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.04), "ncols": 3}
PARTS = (("distance", "C3", "optimum - joint"), ("slack", "C7", "bound - optimum"))


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the figure."""
    figure_of(result).savefig(path, dpi=150, format="png")


def figure_of(result: dict[str, Any]) -> Figure:
    """Draw boxes of the gaps on the left; on the right what is left against proven optima."""
    figure = Figure(figsize=(13, 1.6 + 0.3 * max(8, len(result["sizes"]))), layout="constrained")
    if result["exact"]:
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _optima(right, result["exact"])
    else:
        left = figure.subplots()
    _boxes(left, result["sizes"])
    return figure


def _boxes(axes: Any, sizes: list[dict[str, Any]]) -> None:
    for effort, shift in (("standard", -WIDTH / 2), ("thorough", WIDTH / 2)):
        boxes = [_box(size["percentiles"][effort]) for size in sizes]
        places = [row + shift for row in range(len(sizes))]
        look = {"facecolor": COLOURS[effort], "alpha": 0.6}
        axes.bxp(boxes, positions=places, widths=WIDTH * 0.85, orientation="horizontal",
                 patch_artist=True, boxprops=look, medianprops={"color": "black"},
                 flierprops={"marker": ".", "markersize": 4})  # fmt: skip
        axes.plot([], [], "s", color=COLOURS[effort], alpha=0.6, label=f"joint {effort}")
    for row, size in enumerate(sizes):
        if size["wanted"] is not None:
            axes.plot([size["wanted"]] * 2, [row - 0.45, row + 0.45], "-", color="C2", linewidth=2)
    axes.plot([], [], "-", color="C2", linewidth=2, label="most wanted of standard's median")
    axes.legend(fontsize="small", **BELOW)
    title = "Bound - balancedness over layers: 5, 25, 50, 75, 95 %, and the largest"
    _finish(axes, [size["name"] for size in sizes], title)


def _box(values: dict[str, float]) -> dict[str, Any]:
    whislo, q1, med, q3, whishi, most = (
        max(LEAST, values[percent]) for percent in ("5", "25", "50", "75", "95", "100")
    )
    return {"whislo": whislo, "q1": q1, "med": med, "q3": q3, "whishi": whishi, "fliers": [most]}


def _optima(axes: Any, results: list[dict[str, Any]]) -> None:
    for (key, colour, label), shift in zip(PARTS, (-0.15, 0.15), strict=True):
        points = [(max(LEAST, value), row + shift)
                  for row, result in enumerate(results) for value in result[key]]  # fmt: skip
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.5, label=label)
    axes.legend(fontsize="small", **BELOW)
    names = [f"{result['name']}, K = {result['slots_per_gpu']}" for result in results]
    _finish(axes, names, f"Against proven optima, a point a layer ({LEAST:g}: none)")


def _finish(axes: Any, names: list[str], title: str) -> None:
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title(title, fontsize="medium")
    axes.grid(visible=True, axis="x", alpha=0.25)
