"""A picture of placements: the load of every GPU in every layer, as heat maps side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evenload.io import replace_file
from evenload.report.digits import down, up
from evenload.report.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

_MOST = 4.0
_TICKS = (0.25, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)


def check_plot_path(path: str | os.PathLike[str]) -> None:
    """Raise before any work is done where the picture could not be made.

    Raises
    ------
    ValueError
        If the file's ending is none of .png, .svg, .pdf, or matplotlib is not installed.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        ending = f"the ending {suffix!r}" if suffix else "no ending"
        raise ValueError(
            f"{path}: pictures with {ending} are not known; use one of {', '.join(SUFFIXES)}"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "pictures need matplotlib, which is not installed; pip install 'evenload[plot]'"
        ) from None


def _limit(summaries: Sequence[Summary]) -> float:
    """How far the colours reach: from 1/limit to limit times the mean.

    At least 1.1, so that rounding shows no colour, and at most 4, so that one outlier does not wash
    out the rest.
    """
    low = min(float(np.nanmin(s.relative_load)) for s in summaries)
    high = max(float(np.nanmax(s.relative_load)) for s in summaries)
    return min(max(high, 1.0 / max(low, 0.25), 1.1), _MOST)


def _figures(summary: Summary) -> str:
    mean, worst = float(summary.balancedness.mean()), float(summary.balancedness.min())
    return (
        f"balancedness {down(mean, 4)} mean, {down(worst, 4)} worst\n"
        f"straggler time {up(summary.straggler_time, 3)} x ideal"
    )


def _draw_panel(axes: Any, summary: Summary, norm: Any, num_nodes: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    image = axes.imshow(
        summary.relative_load, norm=norm, cmap="RdBu_r", aspect="auto", interpolation="nearest"
    )
    G = summary.relative_load.shape[1]
    for node in range(1, num_nodes):
        axes.axvline(node * G // num_nodes - 0.5, color="black", linewidth=0.8)
    axes.set_title(summary.name, fontsize=12, fontweight="bold", pad=38)
    axes.text(
        0.5, 1.02, _figures(summary), transform=axes.transAxes, ha="center", va="bottom", fontsize=9
    )
    legend = ["lines: nodes"] if num_nodes > 1 else []
    if np.isnan(summary.relative_load).any():
        axes.patch.set(hatch="////", edgecolor="0.8")  # shows through where there is no number
        legend.append("hatched: gone")
    axes.set_xlabel(f"GPU ({', '.join(legend)})" if legend else "GPU")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    return image


def _draw_bar(figure: Figure, image: Any, axes: list[Any], limit: float) -> None:
    bar = figure.colorbar(
        image, ax=axes, aspect=30, pad=0.02, extend="both" if limit == _MOST else "neither"
    )
    ticks = [t for t in _TICKS if 1.0 / limit <= t <= limit]
    spread = [t for t in ticks if t == 1.0 or abs(math.log(t)) > math.log(limit) / 6]
    bar.minorticks_off()
    bar.set_ticks(spread, labels=[f"{t:g}" for t in spread])
    bar.set_label("GPU load / mean of the layer")


def draw_heatmaps(title: str, summaries: Sequence[Summary], num_nodes: int = 1) -> Figure:
    """Draw the load of each GPU relative to its layer's mean, one heat map a placement.

    Parameters
    ----------
    title : str
        What the load and the cluster are.
    summaries : sequence of Summary
        One panel each, from left to right, all on one colour scale centred at the mean.
    num_nodes : int
        Nodes; lines mark where one ends.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot; nothing global changes.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    L = summaries[0].relative_load.shape[0]
    height = float(np.clip(2.4 + 0.075 * L, 3.6, 8.0))
    figure = Figure(figsize=(1.6 + 4.2 * len(summaries), height), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=11)
    row = figure.subplots(1, len(summaries), sharey=True, squeeze=False)[0]
    limit = _limit(summaries)
    norm = LogNorm(1.0 / limit, limit, clip=True)
    images = [_draw_panel(axes, s, norm, num_nodes) for axes, s in zip(row, summaries, strict=True)]
    row[0].set_ylabel("MoE layer")
    _draw_bar(figure, images[-1], list(row), limit)
    return figure


def save_heatmaps(
    path: str | os.PathLike[str], title: str, summaries: Sequence[Summary], num_nodes: int = 1
) -> None:
    """Draw heat maps into a file, which appears whole or not at all.

    Parameters
    ----------
    path : path-like
        Ends in .png, .svg or .pdf.
    title, summaries, num_nodes
        As `draw_heatmaps`.

    Raises
    ------
    ValueError
        As `check_plot_path`.
    OSError
        If the file cannot be written.
    """
    check_plot_path(path)
    figure = draw_heatmaps(title, summaries, num_nodes)
    with replace_file(path) as stream:
        figure.savefig(stream, format=Path(path).suffix.lower().removeprefix("."))
