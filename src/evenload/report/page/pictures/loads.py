"""Load per GPU before and after, in one window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evenload.report.page.pictures.style import INK, QUIET, START_NAME, literal, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.report.page.sample import Float
    from evenload.report.page.story import Story

_COLOURS = ("#2166ac", "#8dbbdc", "#f7f7f5", "#f0a46f", "#b03a06")  # as theme.js has them
_MOST = 4.0
_TICKS = (0.25, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 4.0)


def _panel(axes: Any, relative: Float, name: str, norm: Any, story: Story) -> Any:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    colours = LinearSegmentedColormap.from_list("evenness", _COLOURS).with_extremes(bad="0.85")
    # Loads of zero have no logarithm; the norm clips them to the lowest colour.
    shown = np.ma.masked_invalid(np.maximum(relative, 1e-3))
    image = axes.imshow(shown, norm=norm, cmap=colours, aspect="auto", interpolation="nearest")
    for node in range(1, story.num_nodes):
        axes.axvline(node * relative.shape[1] // story.num_nodes - 0.5, color=INK, linewidth=0.7)
    balance = 1.0 / np.nanmax(relative, axis=1)
    axes.set_title(
        f"{literal(name)}\nbalancedness {balance.mean():.3f}, worst layer {balance.min():.3f}",
        fontsize=10,
    )
    axes.set_xlabel("GPU (lines: nodes)" if story.num_nodes > 1 else "GPU", color=QUIET)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    axes.tick_params(colors=QUIET, labelcolor=INK, labelsize=9)
    return image


def draw_loads(story: Story) -> Figure:
    """Draw the last window served, with the starting placement and the answer's policy."""
    from matplotlib.colors import LogNorm

    before, after = story.maps[0, -1], story.maps[story.hero + 1, -1]
    both = np.concatenate([before, after])
    low, high = float(np.nanmin(both)), float(np.nanmax(both))
    limit = min(max(high, 1.0 / max(low, 0.25), 1.1), _MOST)
    figure = new_figure(7.5, float(np.clip(1.8 + 0.06 * before.shape[0], 3.0, 5.6)))
    left, right = figure.subplots(1, 2, sharey=True)
    norm = LogNorm(1.0 / limit, limit, clip=True)
    _panel(left, before, START_NAME, norm, story)
    image = _panel(right, after, story.names[story.hero], norm, story)
    left.set_ylabel(f"layer (window {story.windows[-1]})", color=QUIET)
    bar = figure.colorbar(image, ax=[left, right], aspect=28, pad=0.02)
    bar.minorticks_off()
    ticks = [t for t in _TICKS if 1.0 / limit <= t <= limit]
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.ax.tick_params(labelsize=9)
    bar.set_label("GPU load / mean of the layer", color=QUIET)
    return figure
