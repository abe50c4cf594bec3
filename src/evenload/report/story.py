"""Everything a page or its pictures show, computed once from replays and their trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.placement import Placement
from evenload.replay import Replay
from evenload.report.compare import relative_load
from evenload.report.figures import colour_limit
from evenload.report.palette import styles
from evenload.report.saved import check_together
from evenload.report.text import shorten
from evenload.report.words import answer, hero
from evenload.trace import Trace

Float = NDArray[np.float64]
Int = NDArray[np.int64]

MOST_POINTS = 1000  # of a line: more than a screen has pixels for
MOST_COLUMNS = 120  # of the heat map of hot experts
MOST_SHOWN = 120  # windows on the slider
MAP_BYTES = 4 * 2**20  # for all heat maps of GPU loads
BYTES_A_NUMBER = 2 * 4 / 3  # of a heat map: 16 bits in base64
MOST_EXPERTS = 16  # hot ones of a layer
_LONGEST = 27  # characters of a name in a legend


# ---- fewer windows than were served ----------------------------------------------------------


def spaced(num: int, most: int) -> Int:
    """Return at most `most` of the indices 0 to ``num - 1``, evenly spaced, both ends included."""
    count = min(num, max(most, 1))
    return np.unique(np.linspace(0, num - 1, count).round().astype(np.int64))


class Runs:
    """Windows in runs of nearly equal length, in order; one window each where `most` suffices."""

    def __init__(self, windows: Int, most: int) -> None:
        num = len(windows)
        edges = np.linspace(0, num, min(num, most) + 1).round().astype(np.int64)
        self.first, self.end = edges[:-1], edges[1:]  # where each begins, and where it ends
        self.sizes = np.diff(edges)  # windows in each run, int64 [B]
        self.ends = windows[self.first], windows[self.end - 1]  # numbers of first and last window
        self.middles: Float = (self.ends[0] + self.ends[1]) / 2.0  # where runs are drawn

    def mean(self, values: Float) -> Float:
        """Average along the first axis: [W, ...] -> [B, ...]."""
        sums = np.add.reduceat(values, self.first, axis=0)
        return np.asarray(sums / self.sizes.reshape(-1, *(1,) * (values.ndim - 1)))

    def last(self, values: NDArray[Any]) -> NDArray[Any]:
        """Take what a running sum has come to by the end of each run: [W, ...] -> [B, ...]."""
        return np.asarray(values[self.end - 1])

    def rule(self, what: str) -> str:
        """Say in one sentence what a point, or whatever is drawn, stands for."""
        least, most = int(self.sizes.min()), int(self.sizes.max())
        each = f"{most}" if least == most else f"{least} to {most}"
        mean = f"the mean of {each} windows that follow each other"
        return f"Every {what} is {'one window' if most == 1 else mean}."


# ---- what is drawn ---------------------------------------------------------------------------


class Level(NamedTuple):
    """What policies are measured by, with the style of its line in plotly's words."""

    name: str
    reached: Float  # balancedness, [W, L]
    colour: str
    dash: str
    anchor: str  # where its name touches the line


class Hot(NamedTuple):
    """Hot experts over time: the X of each layer with the highest peaks, largest mean first.

    The hottest are an eighth of all experts; what stays of them is a mean over layers.
    """

    experts: Int  # [L, X]
    load: Float  # relative to the layer's mean, [L, X, B]
    since_last: Float  # part of the hottest that was among them in the run before, [B]
    since_first: Float  # and in the first one, [B]
    layer: int  # whose hot experts change most


def _hot(share: Float) -> Hot:
    """Find the hot experts in loads relative to their layer's mean, [B, L, E]."""
    B, _, E = share.shape
    peak, mean = share.max(axis=0), share.mean(axis=0)
    highest = np.argsort(-peak, axis=1, kind="stable")[:, :MOST_EXPERTS]
    by_mean = np.argsort(-np.take_along_axis(mean, highest, axis=1), axis=1, kind="stable")
    experts = np.take_along_axis(highest, by_mean, axis=1)
    load = np.take_along_axis(share, experts[None], axis=2).transpose(1, 2, 0)
    count = max(1, E // 8)
    order = np.argsort(-share, axis=2, kind="stable")[..., :count]  # the lowest number on ties
    hottest = np.zeros(share.shape, bool)
    np.put_along_axis(hottest, order, True, axis=2)
    before = hottest[np.maximum(np.arange(B) - 1, 0)]
    kept_last = (hottest & before).sum(axis=2) / count
    kept_first = (hottest & hottest[0]).sum(axis=2) / count
    layer = int(kept_first.mean(axis=0).argmin())
    return Hot(experts, load, kept_last.mean(axis=1), kept_first.mean(axis=1), layer)


class Story:
    """All that a page or its pictures show of P policies.

    The trace is the one that the replays served, and is walked over once; `ValueError` as
    `saved.check_together`.
    """

    def __init__(self, replays: Sequence[Replay], trace: Trace) -> None:
        check_together(replays, trace)
        first = replays[0]
        W, L = first.balancedness.shape
        self.title = f"Replay of {PurePath(trace.source).name or 'a trace'}"
        self.replays = replays
        self.rows = [replay.figures() for replay in replays]
        self.dispatches = list(dict.fromkeys(replay.dispatch for replay in replays))
        for row in self.rows if len(self.dispatches) > 1 else ():
            row["policy"] += f" ({row['dispatch']})"
        self.names = [shorten(row["policy"], _LONGEST) for row in self.rows]  # for a legend
        self.hero = hero(self.rows)  # the policy that the answer is about
        self.styles = styles(len(replays), self.hero)
        self.num_nodes = first.cluster.num_nodes
        self.windows: Int = first.windows  # numbers of those served
        self.runs, self.columns = Runs(self.windows, MOST_POINTS), Runs(self.windows, MOST_COLUMNS)
        bytes_a_window = (1 + len(replays)) * L * first.cluster.num_gpus * BYTES_A_NUMBER
        # Indices of the windows that have heat maps.
        self.shown = spaced(W, int(min(MOST_SHOWN, max(MAP_BYTES // bytes_a_window, 2))))
        # What the placement at the start reaches under each dispatch, [W, L].
        self.start = {r.dispatch: r.start_balancedness for r in reversed(replays)}
        self.start = {dispatch: self.start[dispatch] for dispatch in self.dispatches}
        # GPU load over the layer's mean, first with that placement under the first dispatch:
        # [P + 1, N, L, G].
        share, self.maps = self._walk(replays, trace)
        self.colour_limit = colour_limit([self.maps])
        self.hot = _hot(share)
        self.above, self.below = self._levels(replays)
        self.answer = answer(self.rows)

    @property
    def kept(self) -> list[tuple[Level, dict[str, Any]]]:
        """The starting placement where nobody kept it, with figures as a policy's."""
        mean = self.replays[0].mean_seconds
        found = []
        for level in self.below:
            seconds = float((mean / level.reached).sum())
            still = ("rebalances", "moves", "moved_bytes", "move_seconds", "net_seconds", "asked")
            row = self.rows[0] | dict.fromkeys(still, 0) | {
                "balancedness": float(level.reached.mean()),
                "worst_window": float(level.reached.mean(axis=1).min()),
                "regret": None,
                "straggler_time": seconds / float(mean.sum()),
                "window_seconds": seconds / len(mean),
                "total_seconds": seconds,
            }  # fmt: skip
            found.append((level, row))
        return found

    def _levels(self, replays: Sequence[Replay]) -> tuple[list[Level], list[Level]]:
        """Return the oracle and the starting placement under each dispatch, where they are shown.

        The starting placement needs a line of its own where nobody kept it.
        """
        above, below = [], []
        for dispatch, reached in self.start.items():
            under = f" ({dispatch})" if len(self.dispatches) > 1 else ""
            own = [replay for replay in replays if replay.dispatch == dispatch]
            known = [replay.oracle for replay in own if not np.isnan(replay.oracle).any()]
            above += [Level(f"oracle{under}", of, "ink", "dot", "bottom") for of in known[:1]]
            if all(replay.moves.any() for replay in own):
                below.append(Level(f"starting placement{under}", reached, "quiet", "dash", "top"))
        return above, below

    def _walk(self, replays: Sequence[Replay], trace: Trace) -> tuple[Float, Float]:
        """Walk over the served windows once; no more than one window of loads is held.

        Returns the load of each expert relative to its layer's mean, averaged over each
        run of windows, [B, L, E]; and `maps`.
        """
        first, E, sizes = replays[0], trace.num_experts, self.columns.sizes
        L = first.balancedness.shape[1]
        made = [
            {k: Placement(r.placements[k], r.cluster, E) for k in {0, *r.served[self.shown]}}
            for r in replays
        ]
        start, at = made[0][0], {int(w): n for n, w in enumerate(self.shown)}
        share = np.zeros((len(sizes), L, E))
        maps = np.empty((1 + len(replays), len(at), L, first.cluster.num_gpus))
        run_of = np.repeat(np.arange(len(sizes)), sizes)
        merged = trace.merged(first.merge)
        for w, number in enumerate(first.windows):
            load = merged.window(int(number))
            mean = load.mean(axis=1, keepdims=True)
            relative = np.divide(load, mean, out=np.ones_like(load), where=mean > 0.0)
            share[run_of[w]] += relative / sizes[run_of[w]]
            if w in at:
                served = [
                    (of[r.served[w]], r.dispatch) for of, r in zip(made, replays, strict=True)
                ]
                for p, (placement, way) in enumerate([(start, first.dispatch), *served]):
                    gpu_load = placement.gpu_load(load, dispatch=way)
                    maps[p, at[w]] = relative_load(gpu_load, first.cluster.capacity)
        return share, maps
