"""Balance against moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenload.report.page.pictures.style import (
    INK,
    QUIET,
    START_NAME,
    line_of,
    literal,
    mark_of,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.report.page.story import Story

_SIDE = {"left": (-1.0, "right"), "center": (0.0, "center"), "right": (1.0, "left")}
_LEVEL = {"top": (1.0, "bottom"), "middle": (0.0, "center"), "bottom": (-1.0, "top")}


def _rule(axes: Any, level: float, text: str, color: str, dash: str, va: str) -> None:
    axes.axhline(level, color=color, linestyle=dash, linewidth=1.0, zorder=1)
    axes.annotate(
        text,
        (1.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2 if va == "bottom" else -2),
        textcoords="offset points",
        ha="right",
        va=va,
        color=color,
        fontsize=9,
    )


def _point(axes: Any, story: Story, policy: int) -> None:
    curve, style = story.tradeoff, line_of(story, policy)
    at = (curve.x[policy], curve.y[policy])
    size = 10 if policy == story.hero else 8
    axes.plot(*at, mark_of(story, policy), color=style["color"], markersize=size, zorder=4)
    vertical, horizontal = curve.labels[policy].split()
    (x, ha), (y, va) = _SIDE[horizontal], _LEVEL[vertical]
    reach = 7.0 if 0.0 in (x, y) else 5.0
    axes.annotate(
        literal(story.names[policy]),
        at,
        xytext=(reach * x, reach * y),
        textcoords="offset points",
        ha=ha,
        va=va,
        color=INK,
        fontsize=10,
    )


def draw_tradeoff(story: Story) -> Figure:
    """Draw a point for every policy, and a line through those of one kind."""
    curve = story.tradeoff
    figure = new_figure(7.5, 3.9)
    axes = figure.subplots()
    axes.set(xlim=curve.x_range, ylim=curve.y_range)
    for members in curve.curves:
        chosen = story.hero if story.hero in members else members[0]
        x, y = [curve.x[i] for i in members], [curve.y[i] for i in members]
        color = line_of(story, chosen)["color"]
        axes.plot(x, y, color=color, linewidth=1.2, alpha=0.55, zorder=2)
    oracle = next((s.oracle for s in story.scores if s.oracle is not None), None)
    if oracle is not None:
        _rule(axes, oracle, "oracle", INK, ":", "bottom")
    if story.shows_start:
        _rule(axes, story.start_balancedness, START_NAME, QUIET, "--", "top")
    for policy in range(len(story.names)):
        _point(axes, story, policy)
    tidy(axes, "experts moved per window, all layers", "balancedness")
    return figure
