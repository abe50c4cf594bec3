"""Moves, what they bring, and which rebalances paid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evenload.report.page.pictures.style import (
    QUIET,
    legend_above,
    line_of,
    literal,
    mark_of,
    middles,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.report.page.story import Story


def _paid(axes: Any, story: Story) -> None:
    """Mark every rebalance in its policy's row, full where it paid."""
    for policy, moving in enumerate(story.movings):
        x = story.windows[moving.at]
        color = line_of(story, policy)["color"]
        for paid, face in ((True, color), (False, "white")):
            at = x[moving.paid == paid]
            axes.plot(
                at,
                np.full(len(at), policy),
                mark_of(story, policy),
                markerfacecolor=face,
                markeredgecolor=color,
                markersize=5 if len(x) <= 100 else 3,
            )
    count = len(story.names)
    axes.set_yticks(range(count), [literal(name) for name in story.names])
    axes.set_ylim(count - 0.4, -0.6)


def draw_moving(story: Story) -> Figure:
    """Draw experts moved so far, seconds saved so far, and a row of rebalances for each policy."""
    x = middles(story, story.buckets)
    strip = 0.22 * len(story.names)
    figure = new_figure(7.5, 4.6 + strip)
    ratios = [1.6, 1.6, strip]
    upper, lower, rows = figure.subplots(3, 1, sharex=True, height_ratios=ratios)
    for policy, moving in enumerate(story.movings):
        style = line_of(story, policy)
        upper.plot(x, moving.moved, drawstyle="steps-post", **style)
        lower.plot(x, moving.saved, **style)
    lower.axhline(0.0, color=QUIET, linewidth=0.8, zorder=1)
    _paid(rows, story)
    tidy(upper, "", "experts moved")
    tidy(lower, "", "seconds saved")
    tidy(rows, "window (full marks: the rebalance paid for itself)", "")
    legend_above(figure, upper)
    return figure
