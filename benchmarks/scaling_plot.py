"""The figure of `benchmarks.scaling`: each axis, and beside it each effort."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.scaling import a_layer, exponent, position

TICKS = (256, 512, 1024, 2048, 4096)


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the log-log plot of time a layer against each axis, with a line of S log S."""
    efforts = result.get("efforts", {})
    figure = Figure(figsize=(15, 6.4) if efforts else (8, 5), layout="constrained")
    panels = figure.subplots(1, 2 if efforts else 1, sharey=True, squeeze=False)[0]
    for axes in panels:
        axes.set(xscale="log", yscale="log", xlabel="size of the axis")
    axes = panels[0]
    axes.set_ylabel("microseconds a layer")
    for axis, points in result["axes"].items():
        if axis != "largest":
            _line(axes, axis, points)
    references = [points for axis, points in result["axes"].items() if axis[0] == "S"]
    for points, label in zip(references, ("S log S", None), strict=True):
        _reference(axes, points, label)
    (largest,) = result["axes"]["largest"]
    axes.plot(largest["size"][2], a_layer(largest), "k*", markersize=11,
              label="largest: 94 x 512, 4096 slots, 1024 GPUs")  # fmt: skip
    if efforts:
        _efforts(panels[1], efforts)
    for axes in panels:
        axes.grid(visible=True, which="both", alpha=0.2)
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=150, format="png")


def _efforts(axes: Any, efforts: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Draw a colour an effort and a style an axis."""
    axes.set_title("layers that have to be searched", fontsize="medium")
    axes.set_xticks(TICKS, map(str, TICKS), minor=False)
    axes.set_xticks([], minor=True)
    for colour, (name, lines) in enumerate(efforts.items()):
        for style, (axis, points) in zip(("o:", "o-", "s--"), lines.items(), strict=True):
            _line(axes, axis, points, style, f"{name}: ", f"C{colour}")
    below = (0.5, -0.1)  # nine lines leave no room inside
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=below, ncols=2)


def _line(
    axes: Any,
    axis: str,
    points: list[dict[str, Any]],
    style: str = "o-",
    before: str = "",
    colour: str | None = None,
) -> None:
    sizes = [position(axis, point) for point in points]
    label = f"{before}{axis} (exponent {exponent(axis, points):+.2f})"
    axes.plot(sizes, [a_layer(point) for point in points], style, color=colour, label=label)


def _reference(axes: Any, points: list[dict[str, Any]], label: str | None) -> None:
    slots = np.array([position("S", point) for point in points])
    shape = slots * np.log2(slots)
    axes.plot(slots, shape / shape[0] * a_layer(points[0]), "k--", label=label)
