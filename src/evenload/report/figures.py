"""Pictures by matplotlib: GPU loads, what numbers of slots reach, and the page's figures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io import replace_file
from evenload.report.palette import DASHES, FEW_POINTS, LIGHT, MARKS, PAGE
from evenload.report.text import check_ending, down, up
from evenload.report.tradeoff import PLACES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.redundancy import Redundancy
    from evenload.report.compare import Summary
    from evenload.report.story import Level, Story

SUFFIXES = (".png", ".svg", ".pdf")
INK, QUIET, FAINT = (PAGE["light"][name] for name in ("ink", "quiet", "faint"))
_DPI = 200  # of those for papers
_CHARACTERS = 95  # of a legend, side by side
_MOST = 4.0  # times the mean that colours reach to
_MOST_TICKS = 10  # of the curve of slots
_TICKS = (0.25, 0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)


def check_plot_path(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless a picture can be made: .png, .svg or .pdf, by matplotlib."""
    check_ending(path, SUFFIXES, "pictures with {} are not known")
    needed("matplotlib", "matplotlib", "plot", "a picture")


def save_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Save a figure in the format that the path's ending names, whole or not at all."""
    check_plot_path(path)
    with replace_file(path) as stream:
        figure.savefig(stream, format=Path(path).suffix.lower().removeprefix("."))


# ---- heat maps -------------------------------------------------------------------------------


def colour_limit(relative: Iterable[NDArray[np.float64]]) -> float:
    """How far the colours of relative loads reach: from 1/limit to limit times the mean.

    At least 1.1, so that rounding shows no colour, and at most 4, so that one outlier does not wash
    out the rest.
    """
    values = np.concatenate([np.ravel(of) for of in relative])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return min(max(high, 1.0 / max(low, 0.25), 1.1), _MOST)


def colour_ticks(limit: float, apart: float) -> list[float]:
    """Return ticks of a logarithmic scale to `limit`, those near 1 by its 1/`apart` left out."""
    ticks = [t for t in _TICKS if 1.0 / limit <= t <= limit]
    return [t for t in ticks if t == 1.0 or abs(math.log(t)) > math.log(limit) / apart]


def colour_norm(relative: Iterable[NDArray[np.float64]]) -> Any:
    """Return matplotlib's logarithmic scale of colours around 1, to the limit of relative loads."""
    from matplotlib.colors import LogNorm

    limit = colour_limit(relative)
    return LogNorm(1.0 / limit, limit, clip=True)


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """Return an empty figure that is not registered with pyplot; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def draw_panel(
    axes: Any, relative: NDArray[np.float64], norm: Any, num_nodes: int, colours: Any
) -> Any:
    """Draw relative loads [L, G] as a heat map with lines between nodes; return matplotlib's image.

    A GPU that is gone (NaN) is hatched; one without load, which has no logarithm, takes the lowest
    colour.
    """
    from matplotlib.ticker import MaxNLocator

    how = {"aspect": "auto", "interpolation": "nearest", "cmap": colours}
    image = axes.imshow(relative, norm=norm, **how)
    for node in range(1, num_nodes):
        at = node * relative.shape[1] // num_nodes - 0.5
        axes.axvline(at, color="black", linewidth=0.8)
    legend = ["lines: nodes"] if num_nodes > 1 else []
    if np.isnan(relative).any():
        axes.patch.set(hatch="////", edgecolor="0.8")  # shows through where there is no number
        legend.append("hatched: gone")
    axes.set_xlabel(f"GPU ({', '.join(legend)})" if legend else "GPU")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    return image


def draw_scale(figure: Figure, image: Any, axes: list[Any]) -> None:
    """Draw the scale of colours beside heat maps."""
    limit = image.norm.vmax
    extend = "both" if limit == _MOST else "neither"
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.02, extend=extend)
    ticks = colour_ticks(limit, apart=6)
    bar.minorticks_off()
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.set_label("GPU load / mean of the layer")


def draw_heatmaps(title: str, summaries: Sequence[Summary], num_nodes: int = 1) -> Figure:
    """Draw the load of each GPU relative to its layer's mean, one heat map a placement.

    All are on one colour scale centred at the mean, with lines between nodes. The figure is not
    registered with pyplot; nothing global changes.
    """
    L = summaries[0].relative_load.shape[0]
    height = float(np.clip(2.4 + 0.075 * L, 3.6, 8.0))
    figure = new_figure(1.6 + 4.2 * len(summaries), height, dpi=120)
    figure.suptitle(title, fontsize=11)
    row = list(figure.subplots(1, len(summaries), sharey=True, squeeze=False)[0])
    norm = colour_norm(summary.relative_load for summary in summaries)
    for axes, s in zip(row, summaries, strict=True):
        image = draw_panel(axes, s.relative_load, norm, num_nodes, "RdBu_r")
        axes.set_title(s.name, fontsize=12, fontweight="bold", pad=38)
        mean, worst = float(s.balancedness.mean()), float(s.balancedness.min())
        figures = (
            f"balancedness {down(mean, 4)} mean, {down(worst, 4)} worst\n"
            f"straggler time {up(s.straggler_time, 3)} x ideal"
        )
        place = {"ha": "center", "va": "bottom", "transform": axes.transAxes}
        axes.text(0.5, 1.02, figures, fontsize=9, **place)
    row[0].set_ylabel("MoE layer")
    draw_scale(figure, image, row)
    return figure


# ---- the curve of slots ----------------------------------------------------------------------


def draw_slots_curve(found: Redundancy) -> Figure:
    """Draw the balancedness that each number of slots reaches, with its bound and what is wanted.

    The figure is not registered with pyplot; nothing global changes.
    """
    placement = found.plan.placement
    gpus, E = placement.cluster.num_gpus, placement.num_experts
    tried = [point.num_slots - E for point in found.curve]
    reached = [point.balancedness for point in found.curve]
    figure = new_figure(7.0, 4.2, dpi=120)
    axes: Any = figure.subplots()
    wanted = axes.axhline(found.wanted, color="tab:green", linestyle="--", linewidth=1.0, zorder=1)
    # Only the tried numbers exist: the bound is a bar at each, and reached is joined lightly.
    left, right = ([t + side * 0.35 * gpus for t in tried] for side in (-1, 1))
    limits = axes.hlines([point.bound for point in found.curve], left, right, color="0.35")
    axes.plot(tried, reached, "-", color="tab:blue", alpha=0.35, linewidth=1.2)
    (dots,) = axes.plot(tried, reached, "o", color="tab:blue", markersize=6)
    names = (
        f"wanted: {found.wanted:g}",
        "proven bound, tokens shared evenly",
        f"reached by {found.plan.solver}",
    )
    legend = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
    axes.legend((wanted, limits, dots), names, frameon=False, fontsize=9, **legend)
    # Ticks and figures at tried sizes only, no more than fit, the outer ones always.
    every = -(-len(tried) // _MOST_TICKS)
    ticked = [*range(len(tried))[:-every:every], len(tried) - 1]
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    below = {"textcoords": "offset points", "xytext": (0, -9), "ha": "center", "va": "top"}
    for i in ticked:
        axes.annotate(down(reached[i], 4), (tried[i], reached[i]), fontsize=9, bbox=box, **below)
    axes.set_xticks([tried[i] for i in ticked])
    room = max(gpus / 2, 0.05 * (tried[-1] - tried[0]))
    axes.set_xlim(tried[0] - room, tried[-1] + room)
    lowest = min(found.wanted, *reached)
    height = max(1.0 - lowest, 0.001)
    axes.set_ylim(lowest - 0.18 * height, 1.0 + 0.06 * height)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel(f"redundant experts (slots of a layer beyond its {E} experts; {gpus} GPUs)")
    axes.set_ylabel("balancedness, mean over layers")
    axes.grid(alpha=0.3)
    return figure


# ---- the page's figures, for papers ----------------------------------------------------------


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
        across, up = PLACES[place]
        ha, va = ("right", "center", "left")[across + 1], ("top", "center", "bottom")[up + 1]
        far = 7.0 if 0 in (across, up) else 5.0
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
    x, count = story.runs.middles, len(story.names)
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
    norm, colours = colour_norm(shown), _colours("evenness")
    names = ("starting placement", _literal(story.names[story.hero]))
    for axes, relative, name in zip(both, shown, names, strict=True):
        image = draw_panel(axes, relative, norm, story.num_nodes, colours)
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
