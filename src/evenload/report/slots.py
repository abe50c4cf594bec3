"""What each number of slots reaches: in words, in JSON, and as a curve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.io import replace_file
from evenload.redundancy import Point, Redundancy
from evenload.report.digits import down, up
from evenload.report.heatmap import check_plot_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_TICKS = 10
_MOST_LINES = 12


def slots_lines(found: Redundancy | None) -> list[str]:
    """Return a line for each number of slots tried, those between left out where they are many.

    None if the number of slots was given.
    """
    if found is None:
        return []
    lines = [f"slots tried for a balancedness of {found.wanted:g}, mean over layers:"]
    hidden = len(found.curve) - _MOST_LINES
    for index, point in enumerate(found.curve):
        if 0 < index <= hidden:
            continue
        if index == hidden + 1 > 1:
            lines.append(f"  {'...':>6} and {hidden} more between; --json has them all")
        lines.append(
            f"  {point.num_slots:>6} slots ({_redundant(found, point)} redundant): "
            f"{down(point.balancedness)} (even sharing: at most {up(point.bound)})"
        )
    return lines


def _redundant(found: Redundancy, point: Point) -> int:
    return point.num_slots - found.plan.placement.num_experts


def slots_entry(found: Redundancy | None) -> dict[str, Any]:
    """Return the curve as an entry of a JSON object; none if the slots were given."""
    if found is None:
        return {}
    curve = [
        {
            "num_slots": point.num_slots,
            "redundant": _redundant(found, point),
            "balancedness": point.balancedness,
            "bound": point.bound,
        }
        for point in found.curve
    ]
    return {"redundancy": {"wanted": found.wanted, "curve": curve}}


def draw_slots_curve(found: Redundancy) -> Figure:
    """Draw the balancedness that each number of slots reaches, with its bound and what is wanted.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot; nothing global changes.
    """
    from matplotlib.figure import Figure

    redundant = [_redundant(found, point) for point in found.curve]
    reached = [point.balancedness for point in found.curve]
    bound = [point.bound for point in found.curve]
    figure = Figure(figsize=(7.0, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    half = 0.35 * found.plan.placement.cluster.num_gpus
    wanted = axes.axhline(found.wanted, color="tab:green", linestyle="--", linewidth=1.0, zorder=1)
    # Only the tried numbers exist: the bound is a bar at each, and reached is joined lightly.
    limits = axes.hlines(
        bound, [r - half for r in redundant], [r + half for r in redundant], color="0.35"
    )
    axes.plot(redundant, reached, "-", color="tab:blue", alpha=0.35, linewidth=1.2)
    (dots,) = axes.plot(redundant, reached, "o", color="tab:blue", markersize=6)
    names = {
        f"wanted: {found.wanted:g}": wanted,
        "proven bound, tokens shared evenly": limits,
        f"reached by {found.plan.solver}": dots,
    }
    axes.legend(
        list(names.values()),
        list(names),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    _label_points(axes, found)
    _name_axes(axes, found)
    return figure


def _ticked(found: Redundancy) -> tuple[Point, ...]:
    """Return the points that get a tick and a figure: no more than fit, the outer ones always."""
    every = -(-len(found.curve) // _MOST_TICKS)
    return (*found.curve[:-every:every], found.curve[-1])


def _label_points(axes: Any, found: Redundancy) -> None:
    """Write the figure below each point that has a tick."""
    for point in _ticked(found):
        axes.annotate(
            down(point.balancedness, 4),
            (_redundant(found, point), point.balancedness),
            textcoords="offset points",
            xytext=(0, -9),
            ha="center",
            va="top",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
        )


def _name_axes(axes: Any, found: Redundancy) -> None:
    """Set ticks at tried sizes only, no more than fit, and leave room around the outer ones."""
    placement = found.plan.placement
    gpus = placement.cluster.num_gpus
    tried = [_redundant(found, point) for point in found.curve]
    axes.set_xticks([_redundant(found, point) for point in _ticked(found)])
    room = max(gpus / 2, 0.05 * (tried[-1] - tried[0]))
    axes.set_xlim(tried[0] - room, tried[-1] + room)
    lowest = min(found.wanted, *(point.balancedness for point in found.curve))
    height = max(1.0 - lowest, 0.001)
    axes.set_ylim(lowest - 0.18 * height, 1.0 + 0.06 * height)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel(
        f"redundant experts (slots of a layer beyond its {placement.num_experts} experts; "
        f"{gpus} GPUs)"
    )
    axes.set_ylabel("balancedness, mean over layers")
    axes.grid(alpha=0.3)


def save_slots_curve(path: str | os.PathLike[str], found: Redundancy) -> None:
    """Draw the curve into a file, which appears whole or not at all.

    Raises
    ------
    ValueError
        As `heatmap.check_plot_path`.
    OSError
        If the file cannot be written.
    """
    check_plot_path(path)
    with replace_file(path) as stream:
        draw_slots_curve(found).savefig(stream, format=Path(path).suffix.lower().removeprefix("."))
