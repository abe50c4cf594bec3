"""Balancedness from window to window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenload.report.page.pictures.style import (
    INK,
    QUIET,
    START_NAME,
    legend_above,
    line_of,
    mark_of,
    middles,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.report.page.story import Story

_FEW = 40


def draw_balance(story: Story) -> Figure:
    """Draw the mean over layers of every policy, with the oracle above them."""
    x = middles(story, story.buckets)
    figure = new_figure(7.5, 3.9)
    axes = figure.subplots()
    if story.oracle is not None:
        axes.plot(x, story.oracle.mean, color=INK, linestyle=":", linewidth=1.2, label="oracle")
    for policy, balance in enumerate(story.balances):
        mark = mark_of(story, policy) if len(x) <= _FEW else None
        axes.plot(x, balance.mean, marker=mark, markersize=4, **line_of(story, policy))
    if story.shows_start:
        axes.plot(x, story.start.mean, color=QUIET, linestyle="--", label=START_NAME)
    tidy(axes, "window", "balancedness, mean over layers")
    legend_above(figure, axes)
    return figure
