"""What all pictures have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenload.report.page.palette import styles
from evenload.report.page.sample import Buckets, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.report.page.story import Story

MARKS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "x": "X",
    "cross": "P",
    "star": "*",
    "triangle-down": "v",
}
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
INK, QUIET, FAINT = "#1c2127", "#59626d", "#e6e9ed"
START_NAME = "starting placement"
_CHARACTERS = 95  # of a legend, side by side


def literal(text: str) -> str:
    """Keep matplotlib from reading mathematics in a name."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that is not registered with pyplot; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def line_of(story: Story, policy: int) -> dict[str, Any]:
    """Return how matplotlib draws a policy's line."""
    style = styles(len(story.names), story.hero)[policy]
    return {
        "color": style["light"],
        "linestyle": DASHES[str(style["dash"])],
        "linewidth": 2.0 if policy == story.hero else 1.3,
        "label": literal(story.names[policy]),
        "zorder": 3.0 if policy == story.hero else 2.0,
    }


def mark_of(story: Story, policy: int) -> str:
    """Return a policy's mark."""
    return MARKS[str(styles(len(story.names), story.hero)[policy]["mark"])]


def middles(story: Story, runs: Buckets) -> Float:
    """Return where runs of windows are drawn: the middle of their numbers, [B]."""
    first, last = story.windows[runs.edges[:-1]], story.windows[runs.edges[1:] - 1]
    return (first + last) / 2.0


def tidy(axes: Any, xlabel: str, ylabel: str) -> None:
    """Name the axes, and keep the frame out of the way."""
    axes.set_xlabel(xlabel, color=QUIET)
    axes.set_ylabel(ylabel, color=QUIET)
    axes.tick_params(colors=QUIET, labelcolor=INK, labelsize=9)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def legend_above(figure: Figure, axes: Any) -> None:
    """Put the legend of some axes above the figure, in as many columns as its names let fit."""
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, _CHARACTERS // (max(map(len, names)) + 6))
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=min(columns, len(names)),
        frameon=False,
        fontsize=9,
    )
