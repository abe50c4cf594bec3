"""The page's figures as pictures for papers, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from evenload.report.figures import colour_limit, draw_panel, draw_scale, new_figure
from evenload.report.palette import DASHES, LIGHT, MARKS, PAGE
from evenload.report.story import FEW_POINTS, Level, Story

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, FAINT = (PAGE["light"][name] for name in ("ink", "quiet", "faint"))
_DPI = 200
_CHARACTERS = 95  # of a legend, side by side


# ---- what all have in common -----------------------------------------------------------------


def _literal(text: str) -> str:
    """Keep matplotlib from reading mathematics in a name."""
    return text.replace("$", r"\$")


def _colours(name: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, PAGE["light"][name])


def _line(story: Story, policy: int) -> dict[str, Any]:
    style, (width, order) = story.styles[policy], (2.0, 3.0) if policy == story.hero else (1.3, 2.0)
    line = {"color": LIGHT[style.colour], "linestyle": DASHES[style.dash][0], "linewidth": width}
    return line | {"label": _literal(story.names[policy]), "zorder": order}


def _level(level: Level) -> dict[str, Any]:
    return {"color": PAGE["light"][level.colour], "linestyle": DASHES[level.dash][0]}


def _mark(story: Story, policy: int) -> str:
    return MARKS[story.styles[policy].mark][0]


def _tidy(axes: Any, xlabel: str, ylabel: str) -> None:
    """Name the axes, and keep the frame out of the way."""
    axes.set_xlabel(xlabel, color=QUIET)
    axes.set_ylabel(ylabel, color=QUIET)
    axes.tick_params(colors=QUIET, labelcolor=INK, labelsize=9)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def _legend_above(figure: Figure, axes: Any) -> None:
    """Put the legend of some axes above the figure, in as many columns as its names let fit."""
    handles, names = axes.get_legend_handles_labels()
    columns = min(len(names), max(1, _CHARACTERS // (max(map(len, names)) + 6)))
    place = {"loc": "outside upper left", "ncols": columns}
    figure.legend(handles, names, frameon=False, fontsize=9, **place)


# ---- the pictures ----------------------------------------------------------------------------

_SIDE = {"left": (-1.0, "right"), "center": (0.0, "center"), "right": (1.0, "left")}
_LEVEL = {"top": (1.0, "bottom"), "middle": (0.0, "center"), "bottom": (-1.0, "top")}


def draw_tradeoff(story: Story) -> Figure:
    """Draw a point for every policy, and a line through those of one kind."""
    curve = story.tradeoff
    figure = new_figure(7.5, 3.9, _DPI)
    axes: Any = figure.subplots()
    axes.set(xlim=curve.x_range, ylim=curve.y_range)
    for members in curve.curves:
        color = LIGHT[story.colour_of(members)]
        x, y = [curve.x[i] for i in members], [curve.y[i] for i in members]
        axes.plot(x, y, color=color, linewidth=1.2, alpha=0.55, zorder=2)

    where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "fontsize": 9}
    for level in story.below + story.above:
        axes.axhline(level.mean, linewidth=1.0, zorder=1, **_level(level))
        off = (-2, 2 if level.anchor == "bottom" else -2)
        where |= {"color": PAGE["light"][level.colour], "va": level.anchor, "xytext": off}
        axes.annotate(level.name, (1.0, level.mean), textcoords="offset points", **where)
    for i, place in enumerate(curve.labels):
        at, size = (curve.x[i], curve.y[i]), 10 if i == story.hero else 8
        color = LIGHT[story.styles[i].colour]
        axes.plot(*at, _mark(story, i), color=color, markersize=size, zorder=4)
        vertical, horizontal = place.split()
        (across, ha), (up, va) = _SIDE[horizontal], _LEVEL[vertical]
        far = 7.0 if 0.0 in (across, up) else 5.0
        reach = {"xytext": (far * across, far * up), "textcoords": "offset points"}
        name = _literal(story.names[i])
        axes.annotate(name, at, ha=ha, va=va, color=INK, fontsize=10, **reach)
    _tidy(axes, "experts moved per window, all layers", "balancedness")
    return figure


def draw_balance(story: Story) -> Figure:
    """Draw the mean over layers of every policy from window to window, with the oracle above."""
    x = story.runs.middles
    figure = new_figure(7.5, 3.9, _DPI)
    axes: Any = figure.subplots()
    for level in story.above:
        axes.plot(x, level.balance.mean, linewidth=1.2, label=level.name, **_level(level))
    for policy, balance in enumerate(story.balances):
        mark = _mark(story, policy) if len(x) <= FEW_POINTS else None
        axes.plot(x, balance.mean, marker=mark, markersize=4, **_line(story, policy))
    for level in story.below:
        axes.plot(x, level.balance.mean, linewidth=1.5, label=level.name, **_level(level))
    _tidy(axes, "window", "balancedness, mean over layers")
    _legend_above(figure, axes)
    return figure


def draw_moving(story: Story) -> Figure:
    """Draw experts moved so far, seconds saved so far, and a row of rebalances for each policy."""
    x = story.runs.middles
    count = len(story.names)
    figure = new_figure(7.5, 4.6 + 0.22 * count, _DPI)
    ratios = [1.6, 1.6, 0.22 * count]
    upper, lower, rows = figure.subplots(3, 1, sharex=True, height_ratios=ratios)
    for policy, moving in enumerate(story.movings):
        style, color = _line(story, policy), LIGHT[story.styles[policy].colour]
        upper.plot(x, moving.moved, drawstyle="steps-post", **style)
        lower.plot(x, moving.saved, **style)
        for paid, face in ((True, color), (False, "white")):
            at = moving.at[moving.paid == paid]
            size = 5 if len(moving.at) <= 100 else 3
            mark = {"markerfacecolor": face, "markeredgecolor": color, "markersize": size}
            rows.plot(at, np.full(len(at), policy), _mark(story, policy), **mark)
    lower.axhline(0.0, color=QUIET, linewidth=0.8, zorder=1)
    rows.set_yticks(range(count), [_literal(name) for name in story.names])
    rows.set_ylim(count - 0.4, -0.6)
    _tidy(upper, "", "experts moved")
    _tidy(lower, "", "seconds saved")
    _tidy(rows, "window (full marks: the rebalance paid for itself)", "")
    _legend_above(figure, upper)
    return figure


def draw_loads(story: Story) -> Figure:
    """Draw the last window served, with the starting placement and the answer's policy."""
    shown = story.maps[[0, story.hero + 1], -1]
    figure = new_figure(7.5, float(np.clip(1.8 + 0.06 * shown.shape[1], 3.0, 5.6)), _DPI)
    both = list(figure.subplots(1, 2, sharey=True))
    limit, colours = colour_limit(shown), _colours("evenness")
    names = ("starting placement", _literal(story.names[story.hero]))
    for axes, relative, name in zip(both, shown, names, strict=True):
        image = draw_panel(axes, relative, limit, story.num_nodes, colours)
        each = 1.0 / np.nanmax(relative, axis=1)
        balance = f"balancedness {each.mean():.3f}, worst layer {each.min():.3f}"
        axes.set_title(f"{name}\n{balance}", fontsize=10)
        axes.xaxis.label.set_color(QUIET)
        axes.tick_params(colors=QUIET, labelcolor=INK, labelsize=9)
    both[0].set_ylabel(f"layer (window {story.windows[-1]})", color=QUIET)
    draw_scale(figure, image, both)
    return figure


def draw_hot(story: Story) -> Figure:
    """Draw the hottest experts of the layer where they change most, and how many of them stay."""
    hot, x = story.hot, story.columns.middles
    experts, load = hot.experts[hot.layer], hot.load[hot.layer]
    figure = new_figure(7.5, 5.0, _DPI)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1.0])
    extent = (story.windows[0] - 0.5, story.windows[-1] + 0.5, len(experts) - 0.5, -0.5)
    how = {"aspect": "auto", "interpolation": "nearest", "extent": extent}
    image = upper.imshow(load, cmap=_colours("heat"), vmin=0.0, **how)
    bar = figure.colorbar(image, ax=upper, pad=0.01, aspect=22)
    bar.set_label("load / mean", color=QUIET)
    _tidy(upper, "", f"experts of layer {hot.layer}")
    upper.set_yticks(range(len(experts)), [str(e) for e in experts], fontsize=8)
    upper.grid(visible=False)
    ours = LIGHT[story.styles[story.hero].colour]
    lower.plot(x, 100 * hot.since_last, color=ours, label="since the column before")
    rest = {"color": INK, "linestyle": ":", "label": "since the first column"}
    lower.plot(x, 100 * hot.since_first, **rest)
    lower.set_ylim(0, 106)
    _tidy(lower, "window", "still among the\nhottest, %")
    where = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": 2}
    lower.legend(frameon=False, fontsize=9, **where)
    return figure


PICTURES: dict[str, Callable[[Story], Figure]] = {
    "tradeoff": draw_tradeoff,
    "balance": draw_balance,
    "moving": draw_moving,
    "loads": draw_loads,
    "hot": draw_hot,
}
