"""Pictures by matplotlib: GPU loads, what numbers of slots take, and the page's figures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import unescape
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import keep_numpy
from evenload.extras import needed
from evenload.io import replace_file
from evenload.report.labels import PLACES
from evenload.report.palette import DASHES, LIGHT, MARKS, PAGE, variables
from evenload.report.text import check_ending, counted, down, up

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evenload.io import AnyPath
    from evenload.plan import Plan
    from evenload.replay import Replay
    from evenload.report.compare import Summary
    from evenload.sizing import Advice, Size

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = variables("light")
_MOST = 4.0  # times the mean that colours reach to
_STEPS: Sequence[Sequence[float]] = (
    (1, 2, 5),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    [n / 10 for n in range(10, 100, 2)],
    [n / 100 for n in range(100, 1000, 5)],
)
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


def _figure(width: float, height: float, dpi: int) -> Figure:
    """Return an empty figure that is not registered with pyplot; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


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


def draw_maps(
    title: str,
    panels: Sequence[tuple[str, NDArray[np.float64], str]],
    num_nodes: int,
    colours: Any = "RdBu_r",
    dpi: int = 120,
) -> Figure:
    """Draw heat maps of relative loads [L, G] side by side on one scale of colours around the mean.

    A panel is a name, the loads, and what is said below the name. Lines are between nodes; a GPU
    that is gone (NaN) is hatched; one without load, which has no logarithm, takes the lowest
    colour. The figure is not registered with pyplot; nothing global changes.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    height = float(np.clip(2.4 + 0.075 * len(panels[0][1]), 3.6, 8.0))
    figure = _figure(1.6 + 4.2 * len(panels), height, dpi)
    figure.suptitle(title, fontsize=11)
    row = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    limit = colour_limit(relative for _, relative, _ in panels)
    how = {"norm": LogNorm(1.0 / limit, limit, clip=True), "cmap": colours}
    for axes, (name, relative, says) in zip(row, panels, strict=True):
        image = axes.imshow(relative, aspect="auto", interpolation="nearest", **how)
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
        axes.set_title(
            _literal(name), fontsize=12, fontweight="bold", pad=26 + 12 * says.count("\n")
        )
        place = {"ha": "center", "va": "bottom", "transform": axes.transAxes}
        axes.text(0.5, 1.02, says, fontsize=9, **place)
    row[0].set_ylabel("MoE layer")
    extend = "both" if limit == _MOST else "neither"
    bar = figure.colorbar(image, ax=row, aspect=30, pad=0.02, extend=extend)
    ticks = colour_ticks(limit, apart=6)
    bar.minorticks_off()
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.set_label("GPU load / mean of the layer")
    return figure


def draw_heatmaps(title: str, summaries: Sequence[Summary], num_nodes: int = 1) -> Figure:
    """Draw the load of each GPU relative to its layer's mean, one heat map a placement."""
    panels = [(s.name, s.relative_load, balance_words(s)) for s in summaries]
    return draw_maps(title, panels, num_nodes)


def balance_words(s: Summary) -> str:
    """Say in two lines how balanced a placement is."""
    mean, worst = down(s.balancedness.mean(), 4), down(s.balancedness.min(), 4)
    return (
        f"balancedness {mean} mean, {worst} worst\nstraggler time {up(s.straggler_time, 3)} x ideal"
    )


def plan_summaries(plan: Plan) -> tuple[str, list[Summary]]:
    """Return a title, and what ran before a plan, or experts in order, beside the plan."""
    from evenload.report.compare import Context, compare_plan

    problem = replace(plan.problem, rewrap=keep_numpy)  # of tensors all is told in numbers
    placement = plan.placement.rewrapped(keep_numpy)
    told = replace(plan, problem=problem, placement=placement)
    title = Context("load", placement.num_layers, placement.num_experts, placement.cluster).title()
    return title, compare_plan(problem.load, told, None, num_groups=problem.num_groups)


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def drawn(draw: Callable[[Any], Figure], what: Any, path: AnyPath | None) -> Any:
    """Draw a plan or a replay, and save the picture where a path is given.

    A notebook shows a figure that pyplot does not know only by a method like this one.
    """
    check_plot_path("x.png" if path is None else path)
    figure: Any = draw(what)
    figure._repr_png_ = partial(_png, figure)
    if path is not None:
        save_figure(path, figure)
    return figure


def draw_plan(plan: Plan) -> Figure:
    """Draw the load of each GPU before and under a plan."""
    title, summaries = plan_summaries(plan)
    return draw_heatmaps(title, summaries, plan.placement.cluster.num_nodes)


def draw_replay(replay: Replay) -> Figure:
    """Draw the balancedness of each window, and when experts moved."""
    figure = _figure(8.0, 3.9, 120)
    axes = figure.subplots()
    windows, colour = replay.windows, COLOURS["--policy-0"]
    reached, grey = replay.balancedness, COLOURS["--quiet"]
    if not np.isnan(replay.oracle).any():
        axes.plot(windows, replay.oracle.mean(axis=1), ":", color=grey, label="oracle")
    axes.plot(windows, replay.start_balancedness.mean(axis=1), "--", color=grey, label="unmoved")
    axes.plot(windows, reached.mean(axis=1), color=colour, label="mean of layers")
    axes.plot(windows, reached.min(axis=1), color=colour, linewidth=0.8, label="worst layer")
    at = np.searchsorted(windows, replay.rebalance_window)
    axes.plot(windows[at], reached.mean(axis=1)[at], "^", color=colour, label="experts move")
    axes.set_title(_literal(f"{replay.policy} on {replay.cluster}"), fontsize=11)
    axes.set_xlabel("window")
    axes.set_ylabel("balancedness")
    axes.legend(fontsize=8)
    return figure


# ---- how many slots to buy -------------------------------------------------------------------


def draw_sizes(advices: Sequence[Advice]) -> Figure:
    """Draw the time that numbers of slots take against their memory, a curve for each of GPUs.

    A star marks what is recommended, an open circle experts in order. Phases have a plot each.
    """
    first = advices[0]
    phases, known = list(first.none.in_sample), first.none.weight_bytes is not None
    gpus = dict(zip(dict.fromkeys(advice.num_gpus for advice in advices), cycle(LIGHT)))
    ways = dict(zip(dict.fromkeys(of.dispatch for of in advices), cycle(DASHES.values())))
    figure = _figure(7.5, 1.2 + 3.4 * len(phases), 130)
    rows = list(figure.subplots(len(phases), 1, sharex=True, squeeze=False)[:, 0])
    scale = 1e6 if first.time_source else 1.0

    def point(size: Size, phase: str) -> tuple[float, float]:
        taken = (size.weight_bytes or 0.0) / 1e9 if known else float(size.cluster.slots_per_gpu)
        return taken, scale * (size.next_window or size.in_sample)[phase]

    for axes, phase in zip(rows, phases, strict=True):
        for advice in advices:
            colour, dash = gpus[advice.num_gpus], ways[advice.dispatch][0]
            points = [point(size, phase) for size in advice.sizes]
            under = f", {advice.dispatch}" if len(ways) > 1 else ""
            label = f"{counted(advice.num_gpus, 'GPU')}{under}"
            how = {"marker": "o", "markersize": 4, "color": colour, "label": label}
            axes.plot(*zip(*points, strict=True), dash, **how)
            star = {"markersize": 15, "mec": "white", "color": colour, "zorder": 5}
            axes.plot(*point(advice.trivial, phase), "o", mfc="none", mec=colour, zorder=4)
            if advice.fits:
                axes.plot(*point(advice.chosen, phase), "*", **star)
        _draw_times(
            axes, "µs per layer and batch" if first.time_source else "x ideal", phase, first.unseen
        )
    rows[0].plot([], [], "o", mfc="none", mec="0.35", label="experts in order")
    rows[0].plot([], [], "*", color="0.35", markersize=11, label="recommended")
    legend = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3}
    rows[0].legend(frameon=False, fontsize=9, **legend)
    what = "GB of experts per GPU, all layers" if known else "slots per GPU"
    rows[-1].set_xlabel(what)
    return figure


def _draw_times(axes: Any, unit: str, phase: str, unseen: bool) -> None:
    """Give the axis of times few round ticks, on a scale where the same saving is as high."""
    from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_yticks(nice_ticks(low, high))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    where = "next window" if unseen else "in-sample"
    axes.set_ylabel(f"{f'{phase}: ' if phase else ''}{unit}, {where}")
    axes.grid(alpha=0.3)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return up to about ten ticks of a logarithmic scale, each a number of few digits."""
    for steps in _STEPS:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [float(f"{s * 10.0**p:.6g}") for p in powers for s in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            return ticks[:: -(-len(ticks) // 10)]
    return ticks


# ---- the page's figures, for papers ----------------------------------------------------------


def _literal(text: str) -> str:
    """Keep matplotlib from reading mathematics in a text; plotly reads some HTML in its own."""
    return unescape(text.replace("<br>", "\n")).replace("$", r"\$")


def _draw_points(axes: Any, trace: Mapping[str, Any]) -> None:
    """Draw a line, its marks and their names."""
    scale = 0.65  # from plotly's pixels to points
    x, y, line, marks = trace["x"], trace["y"], trace.get("line", {}), trace.get("marker", {})
    colour = COLOURS[line.get("color") or marks["color"]]
    if "lines" in trace["mode"]:
        name = _literal(trace["name"]) if trace.get("showlegend", True) else None
        how = {"label": name, "alpha": trace.get("opacity"), "zorder": line["width"]}
        how["drawstyle"] = "steps-post" if line.get("shape") == "hv" else "default"
        dash, width = DASHES[line.get("dash", "solid")][0], scale * line["width"]
        axes.plot(x, y, dash, color=colour, linewidth=width, **how)
    if "markers" in trace["mode"]:
        symbols = marks.get("symbol", "circle")
        symbols = [symbols] * len(x) if isinstance(symbols, str) else symbols
        for symbol in sorted(set(symbols)):
            at = [
                (left, up_) for left, up_, one in zip(x, y, symbols, strict=True) if one == symbol
            ]
            face = "white" if symbol.endswith("-open") else colour
            size = {"markersize": scale * marks.get("size", 6), "zorder": 4}
            shape = MARKS[symbol.removesuffix("-open")][0]
            axes.plot(*zip(*at, strict=True), shape, mfc=face, mec=colour, **size)
    for left, up_, text in zip(x, y, trace.get("text", ()), strict=False):
        across, above = PLACES[trace["textposition"]]
        far = 7.0 if 0 in (across, above) else 5.0
        offset = {"xytext": (far * across, far * above), "textcoords": "offset points"}
        ha, va = ("center", "left", "right")[across], ("center", "bottom", "top")[above]
        axes.annotate(_literal(text), (left, up_), ha=ha, va=va, fontsize=10, **offset)


def colour_map(name: str) -> Any:
    """Return a scale of the page's colours as matplotlib has them: ``evenness`` or ``heat``."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, PAGE["light"][name])


def _draw_heat(figure: Figure, axes: Any, trace: Mapping[str, Any]) -> None:
    x, y = trace["x"], trace["y"]
    half = (x[-1] - x[0]) / max(len(x) - 1, 1) / 2 or 0.5
    image = axes.imshow(
        trace["z"], cmap=colour_map("heat"), vmin=0.0,
        aspect="auto", interpolation="nearest",
        extent=(x[0] - half, x[-1] + half, len(y) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(range(len(y)), y, fontsize=8)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=22)
    bar.set_label(trace["colorbar"]["title"]["text"])


def _draw_axis(axes: Any, x: Mapping[str, Any], y: Mapping[str, Any]) -> None:
    """Name the axes, and keep the frame out of the way."""
    axes.set_xlabel(_literal(x["title"]["text"]), color=COLOURS["--quiet"])
    axes.set_ylabel(_literal(y["title"]["text"]), color=COLOURS["--quiet"])
    axes.tick_params(colors=COLOURS["--quiet"], labelcolor=COLOURS["--ink"])
    if y.get("showgrid", True):
        axes.grid(color=COLOURS["--faint"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(COLOURS["--faint"])
    axes.set(**{f"{name}lim": of["range"] for name, of in (("x", x), ("y", y)) if "range" in of})
    if "ticktext" in y:
        axes.set_yticks(y["tickvals"], map(_literal, y["ticktext"]))
    if y["zeroline"]:
        axes.axhline(0.0, color=COLOURS[y["zerolinecolor"]], linewidth=0.8, zorder=1)
    if "%" in y.get("tickformat", ""):
        axes.yaxis.set_major_formatter("{x:.0%}")


def draw_chart(chart: Mapping[str, Any], height: float) -> Figure:
    """Draw one of the page's figures, as plotly reads it, in the page's light colours.

    What there is of plotly's words is what `evenload.report.charts` uses. The height is in inches.
    """
    layout = chart["layout"]
    axes_of = {name.replace("axis", ""): of for name, of in layout.items() if "yaxis" in name}
    spans = [of.get("domain", (0.0, 1.0)) for of in axes_of.values()]
    figure = _figure(7.5, height, 200)
    ratios = [top - bottom for bottom, top in spans]
    rows = figure.subplots(len(spans), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, (name, of) in zip(rows, axes_of.items(), strict=True):
        for trace in chart["data"]:
            if trace.get("yaxis", "y") == name:
                if trace["type"] == "heatmap":
                    _draw_heat(figure, axes, trace)
                else:
                    _draw_points(axes, trace)
        below = layout["xaxis"] if axes is rows[-1] else {"title": {"text": ""}}
        _draw_axis(axes, below, of)
        if names := axes.get_legend_handles_labels()[1]:
            columns = min(len(names), max(1, 95 // (max(map(len, names)) + 6)))
            place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": columns}
            axes.legend(frameon=False, fontsize=9, **place)
    for shape, note in zip(layout.get("shapes", ()), layout.get("annotations", ()), strict=True):
        line, up_ = shape["line"], note["yanchor"]
        how = {"color": COLOURS[line["color"]], "linestyle": DASHES[line["dash"]][0]}
        rows[0].axhline(shape["y0"], linewidth=1.0, zorder=1, **how)
        text = {"color": how["color"], "xycoords": ("axes fraction", "data"), "fontsize": 9}
        text |= {"xytext": (-2, 2 if up_ == "bottom" else -2), "textcoords": "offset points"}
        rows[0].annotate(note["text"], (1.0, note["y"]), ha="right", va=up_, **text)
    return figure
