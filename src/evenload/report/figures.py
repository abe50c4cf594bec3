"""Pictures by matplotlib: the load of every GPU in every layer, and what numbers of slots reach."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io import replace_file
from evenload.report.text import check_ending, down, up

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.redundancy import Redundancy
    from evenload.report.compare import Summary

SUFFIXES = (".png", ".svg", ".pdf")

_MOST = 4.0  # times the mean that colours reach to
_MOST_TICKS = 10  # of the curve of slots
_TICKS = (0.25, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)


def check_plot_path(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless a picture can be made: .png, .svg or .pdf, by matplotlib."""
    check_ending(path, SUFFIXES, "pictures with {} are not known")
    needed("matplotlib", "matplotlib", "plot", "a picture")


def save_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Save a figure in the format that the path's ending names, whole or not at all."""
    check_plot_path(path)
    with replace_file(path) as stream:
        figure.savefig(stream, format=Path(path).suffix.lower().removeprefix("."))


# ---- heat maps -------------------------------------------------------------------------------


def colour_limit(relative: Iterable[NDArray[np.float64]]) -> float:
    """How far the colours of relative loads reach: from 1/limit to limit times the mean.

    At least 1.1, so that rounding shows no colour, and at most 4, so that one outlier does not wash
    out the rest.
    """
    values = np.concatenate([np.ravel(of) for of in relative])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return min(max(high, 1.0 / max(low, 0.25), 1.1), _MOST)


def colour_ticks(limit: float, apart: float) -> list[float]:
    """Return ticks of a logarithmic scale to `limit`, those near 1 by its 1/`apart` left out."""
    ticks = [t for t in _TICKS if 1.0 / limit <= t <= limit]
    return [t for t in ticks if t == 1.0 or abs(math.log(t)) > math.log(limit) / apart]


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """Return an empty figure that is not registered with pyplot; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def draw_panel(
    axes: Any, relative: NDArray[np.float64], limit: float, num_nodes: int, colours: Any
) -> Any:
    """Draw relative loads [L, G] as a heat map with lines between nodes; return matplotlib's image.

    A GPU that is gone (NaN) is hatched; one without load, which has no logarithm, takes the lowest
    colour.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    how = {"aspect": "auto", "interpolation": "nearest", "cmap": colours}
    image = axes.imshow(relative, norm=LogNorm(1.0 / limit, limit, clip=True), **how)
    for node in range(1, num_nodes):
        at = node * relative.shape[1] // num_nodes - 0.5
        axes.axvline(at, color="black", linewidth=0.8)
    legend = ["lines: nodes"] if num_nodes > 1 else []
    if np.isnan(relative).any():
        axes.patch.set(hatch="////", edgecolor="0.8")  # shows through where there is no number
        legend.append("hatched: gone")
    axes.set_xlabel(f"GPU ({', '.join(legend)})" if legend else "GPU")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    return image


def draw_scale(figure: Figure, image: Any, axes: list[Any]) -> None:
    """Draw the scale of colours beside heat maps."""
    limit = image.norm.vmax
    bar = figure.colorbar(
        image, ax=axes, aspect=30, pad=0.02, extend="both" if limit == _MOST else "neither"
    )
    ticks = colour_ticks(limit, apart=6)
    bar.minorticks_off()
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.set_label("GPU load / mean of the layer")


def draw_heatmaps(title: str, summaries: Sequence[Summary], num_nodes: int = 1) -> Figure:
    """Draw the load of each GPU relative to its layer's mean, one heat map a placement.

    All are on one colour scale centred at the mean, with lines between nodes. The figure is not
    registered with pyplot; nothing global changes.
    """
    L = summaries[0].relative_load.shape[0]
    height = float(np.clip(2.4 + 0.075 * L, 3.6, 8.0))
    figure = new_figure(1.6 + 4.2 * len(summaries), height, dpi=120)
    figure.suptitle(title, fontsize=11)
    row = list(figure.subplots(1, len(summaries), sharey=True, squeeze=False)[0])
    limit = colour_limit(summary.relative_load for summary in summaries)
    for axes, s in zip(row, summaries, strict=True):
        image = draw_panel(axes, s.relative_load, limit, num_nodes, "RdBu_r")
        axes.set_title(s.name, fontsize=12, fontweight="bold", pad=38)
        mean, worst = float(s.balancedness.mean()), float(s.balancedness.min())
        figures = (
            f"balancedness {down(mean, 4)} mean, {down(worst, 4)} worst\n"
            f"straggler time {up(s.straggler_time, 3)} x ideal"
        )
        place = {"ha": "center", "va": "bottom", "transform": axes.transAxes}
        axes.text(0.5, 1.02, figures, fontsize=9, **place)
    row[0].set_ylabel("MoE layer")
    draw_scale(figure, image, row)
    return figure


# ---- the curve of slots ----------------------------------------------------------------------


def draw_slots_curve(found: Redundancy) -> Figure:
    """Draw the balancedness that each number of slots reaches, with its bound and what is wanted.

    The figure is not registered with pyplot; nothing global changes.
    """
    placement = found.plan.placement
    gpus, E = placement.cluster.num_gpus, placement.num_experts
    tried = [point.num_slots - E for point in found.curve]
    reached = [point.balancedness for point in found.curve]
    figure = new_figure(7.0, 4.2, dpi=120)
    axes: Any = figure.subplots()
    wanted = axes.axhline(found.wanted, color="tab:green", linestyle="--", linewidth=1.0, zorder=1)
    # Only the tried numbers exist: the bound is a bar at each, and reached is joined lightly.
    left, right = ([t + side * 0.35 * gpus for t in tried] for side in (-1, 1))
    limits = axes.hlines([point.bound for point in found.curve], left, right, color="0.35")
    axes.plot(tried, reached, "-", color="tab:blue", alpha=0.35, linewidth=1.2)
    (dots,) = axes.plot(tried, reached, "o", color="tab:blue", markersize=6)
    names = (
        f"wanted: {found.wanted:g}",
        "proven bound, tokens shared evenly",
        f"reached by {found.plan.solver}",
    )
    legend = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
    axes.legend((wanted, limits, dots), names, frameon=False, fontsize=9, **legend)
    # Ticks and figures at tried sizes only, no more than fit, the outer ones always.
    every = -(-len(tried) // _MOST_TICKS)
    ticked = [*range(len(tried))[:-every:every], len(tried) - 1]
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    below = {"textcoords": "offset points", "xytext": (0, -9), "ha": "center", "va": "top"}
    for i in ticked:
        axes.annotate(down(reached[i], 4), (tried[i], reached[i]), fontsize=9, bbox=box, **below)
    axes.set_xticks([tried[i] for i in ticked])
    room = max(gpus / 2, 0.05 * (tried[-1] - tried[0]))
    axes.set_xlim(tried[0] - room, tried[-1] + room)
    lowest = min(found.wanted, *reached)
    height = max(1.0 - lowest, 0.001)
    axes.set_ylim(lowest - 0.18 * height, 1.0 + 0.06 * height)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel(f"redundant experts (slots of a layer beyond its {E} experts; {gpus} GPUs)")
    axes.set_ylabel("balancedness, mean over layers")
    axes.grid(alpha=0.3)
    return figure
