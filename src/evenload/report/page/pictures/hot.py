"""The hot experts of the layer where they change most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenload.report.page.pictures.style import (
    INK,
    QUIET,
    line_of,
    middles,
    new_figure,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.report.page.story import Story

_COLOURS = ("#f4f6f9", "#c3d7ea", "#76a9d3", "#2a6fa9", "#0b2f55")  # as theme.js has them


def draw_hot(story: Story) -> Figure:
    """Draw the load of the hottest experts over time, and how many of them stay it."""
    from matplotlib.colors import LinearSegmentedColormap

    hot, x = story.hot, middles(story, story.columns)
    experts, load = hot.experts[hot.layer], hot.load[hot.layer]
    figure = new_figure(7.5, 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1.0])
    first, last = story.windows[0] - 0.5, story.windows[-1] + 0.5
    image = upper.imshow(
        load,
        cmap=LinearSegmentedColormap.from_list("heat", _COLOURS),
        vmin=0.0,
        aspect="auto",
        interpolation="nearest",
        extent=(first, last, len(experts) - 0.5, -0.5),
    )
    bar = figure.colorbar(image, ax=upper, pad=0.01, aspect=22)
    bar.set_label("load / mean", color=QUIET)
    tidy(upper, "", f"experts of layer {hot.layer}")
    upper.set_yticks(range(len(experts)), [str(e) for e in experts], fontsize=8)
    upper.grid(visible=False)
    ours = line_of(story, story.hero)["color"]
    rest = {"color": INK, "linestyle": ":"}
    lower.plot(x, 100 * hot.since_last, color=ours, label="since the column before")
    lower.plot(x, 100 * hot.since_first, label="since the first column", **rest)
    lower.set_ylim(0, 106)
    tidy(lower, "window", "still among the\nhottest, %")
    lower.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False, fontsize=9)
    return figure
