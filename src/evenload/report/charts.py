"""The page's figures as plotly reads them, and the numbers that its controls put into them.

Figures are plain dicts, whose bytes do not depend on plotly's version and which need no import of
it. A colour is the name of one of the page's CSS variables, ``--ink``: the page's script puts in
what it is, light or dark.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.report.labels import place_labels
from evenload.report.palette import FEW_POINTS, STEPS
from evenload.report.story import Float, Level, Story
from evenload.report.text import shorten, show_seconds

Figure = dict[str, Any]
Trace = dict[str, Any]  # what plotly calls one: a line, some marks, a heat map

GAP = 65535  # stands for a number that is not there
_FINEST = 1e-3
_ROOM = 0.07  # at each end of an axis, of what it has to reach over
_PLOT = (640.0, 300.0)  # what names are placed for, in pixels; many plots are wider
_NUMBER = re.compile(r"\d+(\.\d+)?")
_CAPTION = 20  # characters of a name beside a row
_NAME = "<extra>%{fullData.name}</extra>"  # at the end of what a point says


# ---- numbers ---------------------------------------------------------------------------------


def step_for(largest: float) -> float:
    """Return the step to round to: a thousandth, or as coarse as the largest number needs."""
    return max(_FINEST, largest / (GAP - 1))


def pack(values: NDArray[np.float64], step: float) -> str:
    """Round numbers >= 0 to multiples of `step`, little-endian uint16 in base64; NaN is `GAP`."""
    counts = np.nan_to_num(np.rint(values / step), nan=GAP)
    return base64.b64encode(counts.astype("<u2").tobytes()).decode("ascii")


def _rounded(values: Iterable[float], digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


def _significant(values: Iterable[float]) -> list[float]:
    """Round to six significant digits: seconds may be of any size."""
    return [float(f"{value:.6g}") for value in values]


# ---- what all figures have in common ---------------------------------------------------------


def _axis(title: str, **more: Any) -> dict[str, Any]:
    font = {"size": 13, "color": "--quiet"}
    return {
        "title": {"text": title, "font": font, "standoff": 8}, "color": "--quiet",
        "gridcolor": "--faint", "linecolor": "--faint", "zeroline": False, "automargin": True,
    } | more  # fmt: skip


def _legend(y: float) -> dict[str, Any]:
    legend = {"orientation": "h", "x": 0, "y": y, "yanchor": "bottom", "itemwidth": 30}
    return legend | {"font": {"color": "--ink"}}


def _figure(data: list[Trace], **layout: Any) -> Figure:
    clear = "rgba(0,0,0,0)"
    hover = {"bgcolor": "--wash", "bordercolor": "--faint", "namelength": -1}
    common = {
        "font": {"family": "--font", "size": 13, "color": "--ink"},
        "paper_bgcolor": clear, "plot_bgcolor": clear,
        "margin": {"l": 64, "r": 14, "t": 10, "b": 44},
        "hoverlabel": hover | {"font": {"color": "--ink", "size": 13}},
        "legend": _legend(1.02),
    }  # fmt: skip
    return {"data": data, "layout": common | layout}


def _scale(name: str) -> list[tuple[float, str]]:
    """Return the colours of a heat map: a list of the page's, from the lowest."""
    return [(i / (STEPS - 1), f"--{name}-{i}") for i in range(STEPS)]


def _mode(x: list[float]) -> str:
    return "lines+markers" if len(x) <= FEW_POINTS else "lines"


def _marks(story: Story, policy: int, size: int) -> dict[str, Any]:
    style = story.styles[policy]
    return {"symbol": style.mark, "size": size, "color": f"--policy-{style.colour}"}


def _named(story: Story, policy: int, **trace: Any) -> Trace:
    return {"type": "scatter", "name": escape(story.names[policy], quote=False), **trace}


def _over(story: Story, policy: int, y: list[float], **more: Any) -> Trace:
    """Return a policy's line over windows."""
    style, x = story.styles[policy], story.runs.middles.tolist()
    line = {"color": f"--policy-{style.colour}", "width": style.width, "dash": style.dash}
    made = _named(story, policy, mode=_mode(x), x=x, y=y, line=line)
    return made | {"marker": _marks(story, policy, 7), **more}


# ---- the figures -----------------------------------------------------------------------------


def _reach(values: Sequence[float], room: float) -> tuple[float, float]:
    """Return what an axis reaches over: the values and a part of their width at both ends."""
    low, high = min(values), max(values)
    width = (high - low) or max(abs(high), 1.0) * 0.1
    return low - room * width, high + room * width


def _tradeoff(story: Story) -> Figure:
    """Return a point for every policy, and a curve for those whose names differ in numbers only."""
    families: dict[tuple[str, str], list[int]] = {}
    moved = [row["moves"] / row["num_windows"] for row in story.rows]
    reached = [row["balancedness"] for row in story.rows]
    levels = (*story.start.values(), *(level.reached for level in story.above))
    known = [float(of.mean()) for of in levels]
    x_range, y_range = _reach((0.0, *moved), _ROOM), _reach((*reached, *known), 2 * _ROOM)

    def pixels(across: float, up: float) -> tuple[float, float]:
        right = (across - x_range[0]) / (x_range[1] - x_range[0])
        high = (up - y_range[0]) / (y_range[1] - y_range[0])
        return _PLOT[0] * right, _PLOT[1] * (1.0 - high)

    for i, row in enumerate(story.rows):
        name = _NUMBER.sub("N", row["policy"].partition(",")[0])
        families.setdefault((name, row["dispatch"]), []).append(i)
    curves = [sorted(of, key=lambda i: (moved[i], i)) for of in families.values() if len(of) > 1]
    points = list(map(pixels, moved, reached))
    lines = [(points[i], points[j]) for curve in curves for i, j in pairwise(curve)]
    lines += [(pixels(x_range[0], at), pixels(x_range[1], at)) for at in known]
    places = place_labels(points, story.names, _PLOT, lines)
    x, y, data = _significant(moved), _rounded(reached, 5), []
    for members in curves:
        colour = story.styles[story.hero if story.hero in members else members[0]].colour
        data.append({
            "type": "scatter", "mode": "lines", "x": [x[i] for i in members],
            "y": [y[i] for i in members], "opacity": 0.55, "hoverinfo": "skip",
            "line": {"color": f"--policy-{colour}", "width": 1.5}, "showlegend": False,
        })  # fmt: skip
    for i, name in enumerate(story.names):
        marks = _marks(story, i, 14 if i == story.hero else 11)
        data.append(_named(
            story, i, mode="markers+text", x=[x[i]], y=[y[i]], text=[escape(name, quote=False)],
            textposition=places[i], textfont={"color": "--ink", "size": 13},
            cliponaxis=False, showlegend=False,
            marker=marks | {"line": {"color": "--paper", "width": 1}},
            hovertemplate=f"balancedness %{{y:.4f}}<br>%{{x:,.1f}} experts moved per window{_NAME}",
        ))  # fmt: skip
    shapes, notes = [], []
    for level in story.below + story.above:
        mean, line = round(float(level.reached.mean()), 5), _level(level)
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": mean, "y1": mean,
                       "line": line})  # fmt: skip
        notes.append({"xref": "paper", "x": 1, "y": mean, "xanchor": "right", "text": level.name,
                      "yanchor": level.anchor, "showarrow": False,
                      "font": {"color": line["color"], "size": 12}})  # fmt: skip
    return _figure(
        data,
        xaxis=_axis("experts moved per window, all layers", range=x_range),
        yaxis=_axis("balancedness", range=y_range),
        hovermode="closest",
        shapes=shapes,
        annotations=notes,
    )


def _level(level: Level) -> dict[str, Any]:
    return {"color": f"--{level.colour}", "width": 1.5, "dash": level.dash}


def _balance(story: Story) -> tuple[Figure, dict[str, list[list[float]]]]:
    """Return the figure and, under ``mean`` and ``worst``, what its lines show, in their order."""
    level = {"type": "scatter", "mode": "lines", "x": story.runs.middles.tolist()}
    shown = [
        *((of.reached, level | {"name": of.name, "line": _level(of)}) for of in story.above),
        *((of.balancedness, _over(story, i, [])) for i, of in enumerate(story.replays)),
        *((of.reached, level | {"name": of.name, "line": _level(of)}) for of in story.below),
    ]
    mean = [_rounded(story.runs.mean(reached.mean(axis=1)), 4) for reached, _ in shown]
    worst = [_rounded(story.runs.mean(reached.min(axis=1)), 4) for reached, _ in shown]
    say = {"hovertemplate": f"%{{y:.4f}}{_NAME}"}
    figure = _figure(
        [trace | say | {"y": y} for (_, trace), y in zip(shown, mean, strict=True)],
        xaxis=_axis("window", hoverformat="d"),
        yaxis=_axis("balancedness", tickformat=".2~f"),
        hovermode="x unified",
    )
    return figure, {"mean": mean, "worst": worst}


def moving_height(story: Story) -> int:
    """Return the height of the figure of moves in pixels: a row of marks for each policy."""
    return 390 + 24 * len(story.names)


def _moves(story: Story, policy: int) -> tuple[Trace, Trace, Trace]:
    """Return the experts moved so far, the seconds saved so far, and a mark for each rebalance.

    What is saved is against the placement at the start, the time spent moving taken off.
    """
    replay, x, W = story.replays[policy], story.runs.middles, len(story.windows)
    at = np.minimum(np.searchsorted(story.windows, replay.rebalance_window), W - 1)
    moves, seconds = replay.moves.sum(axis=1), _significant(replay.move_seconds)
    gained = (replay.mean_seconds / story.start[replay.dispatch] - replay.straggler_seconds).sum(
        axis=1
    )
    saved = (gained - np.bincount(at, replay.move_seconds, W)).cumsum()
    moved = np.bincount(at, moves, W).cumsum().astype(np.int64)
    lines = {"mode": "lines" if len(x) > 1 else "lines+markers", "legendgroup": policy}
    upper = _over(story, policy, story.runs.last(moved).tolist(), **lines)
    upper["line"]["shape"] = "hv"
    sums = _significant(story.runs.last(saved))
    lower = _over(story, policy, sums, yaxis="y2", showlegend=False, **lines)
    upper["hovertemplate"] = f"%{{y:,d}} moved{_NAME}"
    lower["hovertemplate"] = f"%{{y:.4~s}}s saved{_NAME}"
    marks, said = _marks(story, policy, 9), ("lost", "saved")
    marks["size"] = 5 if len(at) > 150 else 9
    marks["symbol"] = [
        marks["symbol"] + ("" if net > 0.0 else "-open") for net in replay.net_seconds
    ]
    marks["line"] = {"color": marks["color"], "width": 1.5}
    paid = _named(
        story, policy, mode="markers", x=story.windows[at].tolist(), y=[policy] * len(at),
        yaxis="y3", showlegend=False, marker=marks,
        customdata=[
            [f"{count:,}", time, f"{said[bool(net > 0.0)]} {show_seconds(abs(float(net)))}"]
            for count, time, net in zip(moves, seconds, replay.net_seconds, strict=True)
        ],
        hovertemplate="window %{x}: %{customdata[2]}<br>%{customdata[0]} experts moved in "
        "%{customdata[1]:.3~s}s" + _NAME,
    )  # fmt: skip
    return upper, lower, paid


def _moving(story: Story) -> Figure:
    x, P = story.runs.middles, len(story.names)
    strip = 24 * P / (moving_height(story) - 60)
    middle = strip + 0.05 + (0.95 - strip) / 2
    around = {"range": [x[0] - 1, x[0] + 1]} if len(x) == 1 else {}
    captions = [escape(shorten(row["policy"], _CAPTION), quote=False) for row in story.rows]
    rows = {"tickvals": list(range(P)), "ticktext": captions}
    zero = {"zeroline": True, "zerolinecolor": "--quiet"}
    upper, lower = [middle + 0.03, 1], [strip + 0.05, middle - 0.03]
    return _figure(
        [trace for policy in range(P) for trace in _moves(story, policy)],
        xaxis=_axis("window", anchor="y3", hoverformat="d", **around),
        yaxis=_axis("experts moved", domain=upper, rangemode="tozero", tickformat=",~s"),
        yaxis2=_axis("seconds saved", domain=lower, tickformat="~s", **zero),
        yaxis3=_axis("", domain=[0, strip], range=[P - 0.4, -0.6], fixedrange=True, **rows),
        hovermode="closest",
    )


def _map(story: Story) -> Figure:
    """Return a heat map of GPU loads, which is empty: the script puts in what is chosen."""
    L, G = story.maps.shape[2:]
    reach, nodes = math.log2(story.colour_limit), story.num_nodes
    trace = {
        "type": "heatmap", "zmin": -reach, "zmax": reach, "colorscale": _scale("evenness"),
        "showscale": False, "xgap": 1 if G <= 64 else 0,
        "hovertemplate": "layer %{y}, GPU %{x}<br>%{customdata:.3f} x the layer's mean"
        "<extra></extra>",
    }  # fmt: skip
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1,
            "line": {"color": "--ink", "width": 1}}  # fmt: skip
    ends = [n * G / nodes - 0.5 for n in range(1, nodes)]

    def ticks(count: int) -> dict[str, Any]:
        every = {"dtick": 1} if count <= 10 else {"nticks": 10}  # no tick between two of few
        return {"showgrid": False, "tickformat": "d", **every}

    return _figure(
        [trace],
        xaxis=_axis("GPU (lines: nodes)" if nodes > 1 else "GPU", **ticks(G)),
        yaxis=_axis("layer", autorange="reversed", **ticks(L)),
        margin={"l": 52, "r": 2, "t": 8, "b": 44},
        shapes=[line | {"x0": end, "x1": end} for end in ends],
    )


def _hot(story: Story) -> Figure:
    """Return the figure of hot experts; the script puts in the load of the chosen layer's."""
    hot, x = story.hot, story.columns.middles.tolist()
    when = [
        f"window {first}" if first == last else f"windows {first} to {last}"
        for first, last in zip(*story.columns.ends, strict=True)
    ]
    bar = {
        "title": {"text": "load / mean", "side": "right", "font": {"size": 12, "color": "--quiet"}},
        "thickness": 12, "outlinewidth": 0, "len": 0.62, "y": 1, "ypad": 0, "yanchor": "top",
        "tickfont": {"color": "--quiet"},
    }  # fmt: skip
    heat = {
        "type": "heatmap", "x": x, "zmin": 0, "colorscale": _scale("heat"), "colorbar": bar,
        "customdata": [when] * hot.experts.shape[1],
        "hovertemplate": "%{y}, %{customdata}<br>%{z:.2f} x the layer's mean<extra></extra>",
    }  # fmt: skip

    def kept(part: Float, name: str, **line: Any) -> Trace:
        return {
            "type": "scatter", "mode": _mode(x), "x": x, "y": _rounded(part, 3), "yaxis": "y2",
            "name": name, "line": line, "hovertemplate": f"%{{y:.0%}} {name}<extra></extra>",
        }  # fmt: skip

    ours = f"--policy-{story.styles[story.hero].colour}"
    rows = {"domain": [0.38, 1], "type": "category", "dtick": 1, "tickfont": {"size": 11}}
    part = {"domain": [0, 0.25], "range": [0, 1.06], "tickformat": ".0%", "nticks": 4}
    return _figure(
        [
            heat,
            kept(hot.since_last, "since the column before", color=ours, width=2),
            kept(hot.since_first, "since the first column", color="--ink", width=1.5, dash="dot"),
        ],
        xaxis=_axis("window", anchor="y2", showgrid=False),
        yaxis=_axis("", autorange="reversed", showgrid=False, **rows),
        yaxis2=_axis("still among<br>the hottest", **part),
        legend=_legend(0.255),
        hovermode="closest",
    )


def page_data(story: Story) -> dict[str, Any]:
    """Return what the page's script draws, as plain numbers and texts; loads are packed."""
    balance, balances = _balance(story)
    step, hot_step = (step_for(float(np.nanmax(of))) for of in (story.maps, story.hot.load))
    L, G = story.maps.shape[2:]
    return {
        "figures": {
            "tradeoff-chart": _tradeoff(story),
            "balance-chart": balance,
            "moving-chart": _moving(story),
            "loads-left-chart": _map(story),
            "loads-right-chart": _map(story),
            "hot-chart": _hot(story),
        },
        "balance": balances,
        "loads": {
            "windows": story.windows[story.shown].tolist(), "layers": L, "gpus": G,
            "step": step, "maps": [pack(of, step) for of in story.maps],
        },
        "hot": {
            "experts": story.hot.experts.tolist(),
            "step": hot_step, "load": pack(story.hot.load, hot_step),
        },
    }  # fmt: skip


def stills(story: Story) -> list[tuple[str, Figure, float]]:
    """Return the figures that stand on their own, with what the page's script puts in at first.

    A name, the figure, and its height in inches.
    """
    moving, hot, (balance, _) = _moving(story), _hot(story), _balance(story)
    layer = story.hot.layer
    hot["data"][0] |= {"y": story.hot.experts[layer].tolist(), "z": story.hot.load[layer]}
    for figure, axis, title in (
        (balance, "yaxis", "balancedness, mean over layers"),
        (moving, "xaxis", "window (full marks: the rebalance saved time)"),
        (hot, "yaxis", f"experts of layer {layer}"),
    ):
        figure["layout"][axis]["title"]["text"] = title
    height = moving_height(story) / 100 + 0.7
    return [("tradeoff", _tradeoff(story), 3.9), ("balance", balance, 3.9),
            ("moving", moving, height), ("hot", hot, 5.0)]  # fmt: skip
