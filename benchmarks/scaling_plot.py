"""The figure of `benchmarks.scaling`."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.scaling import a_layer, exponent, position


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the log-log plot of time a layer against each axis, with a line of S log S."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="size of the axis", ylabel="microseconds a layer"
    )
    for axis, points in result["axes"].items():
        if axis != "largest":
            _line(axes, axis, points)
    references = [points for axis, points in result["axes"].items() if axis[0] == "S"]
    for points, label in zip(references, ("S log S", None), strict=True):
        _reference(axes, points, label)
    (largest,) = result["axes"]["largest"]
    axes.plot(largest["size"][2], a_layer(largest), "k*", markersize=11,
              label="largest: 94 x 512, 4096 slots, 1024 GPUs")  # fmt: skip
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150, format="png")


def _line(axes: Any, axis: str, points: list[dict[str, Any]]) -> None:
    sizes = [position(axis, point) for point in points]
    label = f"{axis} (exponent {exponent(axis, points):+.2f})"
    axes.plot(sizes, [a_layer(point) for point in points], "o-", label=label)


def _reference(axes: Any, points: list[dict[str, Any]], label: str | None) -> None:
    slots = np.array([position("S", point) for point in points])
    shape = slots * np.log2(slots)
    axes.plot(slots, shape / shape[0] * a_layer(points[0]), "k--", label=label)
