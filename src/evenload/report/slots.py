"""What each number of slots reaches: in words, in JSON, and as a curve."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.formats.write import atomic_write
from evenload.redundancy import Redundancy
from evenload.report.digits import down, up
from evenload.report.heatmap import check_plot_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def slots_lines(found: Redundancy | None) -> list[str]:
    """Return a line for each number of slots tried; none if they were given."""
    if found is None:
        return []
    lines = [f"slots tried for a balancedness of {found.wanted:g}:"]
    for point in found.curve:
        lines.append(
            f"  {point.num_slots:>6} slots: {down(point.balancedness)} (at most {up(point.bound)})"
        )
    return lines


def slots_entry(found: Redundancy | None) -> dict[str, Any]:
    """Return the curve as an entry of a JSON object; none if the slots were given."""
    if found is None:
        return {}
    curve = [
        {"num_slots": p.num_slots, "balancedness": p.balancedness, "bound": p.bound}
        for p in found.curve
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

    placement = found.plan.placement
    num_experts, gpus = placement.num_experts, placement.cluster.num_gpus
    redundant = [point.num_slots - num_experts for point in found.curve]
    figure = Figure(figsize=(7.0, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    reached = [point.balancedness for point in found.curve]
    axes.plot(redundant, [p.bound for p in found.curve], "--", color="gray", label="proven bound")
    axes.plot(redundant, reached, "o-", label=f"reached by {found.plan.solver}")
    axes.axhline(found.wanted, color="tab:green", linewidth=0.8, label=f"wanted: {found.wanted:g}")
    axes.annotate(
        f"{redundant[-1]} redundant",
        (redundant[-1], reached[-1]),
        textcoords="offset points",
        xytext=(-6, -16),
        ha="right",
    )
    axes.set_xlabel(f"redundant experts (slots beyond {num_experts}) on {gpus} GPUs")
    axes.set_ylabel("balancedness, mean over layers")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    return figure


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
    with atomic_write(path) as stream:
        draw_slots_curve(found).savefig(stream, format=Path(path).suffix.lower().removeprefix("."))
