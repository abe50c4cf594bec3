"""Everything a page or its pictures show, computed once from replays and their trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from evenload.report.page.answer import answer, hero
from evenload.report.page.check import check_replays
from evenload.report.page.hot import Hot, hot_experts
from evenload.report.page.pack import BYTES_A_NUMBER
from evenload.report.page.sample import Buckets, Int, spaced
from evenload.report.page.scan import Float, scan
from evenload.report.page.score import Score, score
from evenload.report.page.series import Balance, Moving, moving
from evenload.report.page.settings import shared_and_own
from evenload.report.page.tradeoff import Tradeoff, tradeoff

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace

MOST_POINTS = 1000  # of a line: more than a screen has pixels for
MOST_COLUMNS = 120  # of the heat map of hot experts
MOST_SHOWN = 120  # windows on the slider
MAP_BYTES = 4 * 2**20  # for all heat maps of GPU loads
_LONGEST = 28


@dataclass(frozen=True, eq=False)
class Story:
    """What is shown.

    Parameters
    ----------
    title, subtitle, answer : str
    names : tuple of str
        The policies', short enough for a legend.
    hero : int
        The policy that the answer is about.
    scores : tuple of Score
    start_balancedness, start_seconds : float
        Mean balancedness of the placement at the start, and the time serving would take with it.
    tradeoff : Tradeoff
    windows : int64 ndarray, [W]
        Numbers of the windows served.
    buckets : Buckets
        Runs of windows that a point of a line stands for.
    balances : tuple of Balance
    start : Balance
    oracle : Balance or None
    movings : tuple of Moving
    shown : int64 ndarray, [N]
        Indices of the windows that have heat maps.
    maps : float64 ndarray, [P + 1, N, L, G]
        See `scan.Scan`.
    num_nodes : int
    columns : Buckets
        Runs of windows that a column of the hot experts stands for.
    hot : Hot
    num_experts : int
    settings : dict of str to str
        Those that all replays share.
    own_settings : dict of str to list of str
        The others, with a value for each replay.
    """

    title: str
    subtitle: str
    answer: str
    names: tuple[str, ...]
    hero: int
    scores: tuple[Score, ...]
    start_balancedness: float
    start_seconds: float
    tradeoff: Tradeoff
    windows: Int
    buckets: Buckets
    balances: tuple[Balance, ...]
    start: Balance
    oracle: Balance | None
    movings: tuple[Moving, ...]
    shown: Int
    maps: Float
    num_nodes: int
    columns: Buckets
    hot: Hot
    num_experts: int
    settings: dict[str, str]
    own_settings: dict[str, list[str]]

    @property
    def shows_start(self) -> bool:
        """Whether the starting placement needs a line of its own: nobody kept it."""
        return all(score.moves for score in self.scores)


def shorten(name: str) -> str:
    """Cut a long name in the middle, where names of one kind tend to be alike."""
    if len(name) <= _LONGEST:
        return name
    half = (_LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _subtitle(replay: Replay, trace: Trace) -> str:
    c = replay.cluster
    nodes = f" in {c.num_nodes} nodes" if c.num_nodes > 1 else ""
    return (
        f"{trace.num_layers} layers of {trace.num_experts} experts, {c.num_slots} slots on "
        f"{c.num_gpus} GPU{'s' if c.num_gpus > 1 else ''}{nodes}, "
        f"{len(replay.windows):,} window{'s' if len(replay.windows) > 1 else ''} served"
    )


def _shown(replays: Sequence[Replay], layers: int) -> Int:
    first = replays[0]
    each = (1 + len(replays)) * layers * first.cluster.num_gpus * BYTES_A_NUMBER
    most = int(min(MOST_SHOWN, max(MAP_BYTES // each, 2)))
    return spaced(len(first.windows), most)


def _oracle(replays: Sequence[Replay], buckets: Buckets) -> Balance | None:
    for replay in replays:
        if not np.isnan(replay.oracle).any():
            return Balance.of(replay.oracle, buckets)
    return None


def tell(replays: Sequence[Replay], trace: Trace) -> Story:
    """Compute everything that is shown.

    Parameters
    ----------
    replays : sequence of Replay
        At least one; of one trace, over the same windows, on one cluster.
    trace : Trace
        The trace they served; walked over once.

    Raises
    ------
    ValueError
        As `check.check_replays`.
    """
    replays = check_replays(replays, trace)
    first = replays[0]
    W, L = first.balancedness.shape
    buckets, columns = Buckets.of(W, MOST_POINTS), Buckets.of(W, MOST_COLUMNS)
    shown = _shown(replays, L)
    seen = scan(replays, trace, shown, columns)
    scores = tuple(score(replay) for replay in replays)
    names = tuple(shorten(replay.policy) for replay in replays)
    start_seconds = float((np.asarray(first.mean_seconds) / seen.start_balancedness).sum())
    start_mean = float(seen.start_balancedness.mean())
    settings, own = shared_and_own(replays, trace)
    return Story(
        title=f"Replay of {PurePath(trace.source).name or 'a trace'}",
        subtitle=_subtitle(first, trace),
        answer=answer(scores, start_seconds),
        names=names,
        hero=hero(scores),
        scores=scores,
        start_balancedness=start_mean,
        start_seconds=start_seconds,
        tradeoff=tradeoff(scores, names, start_mean, W),
        windows=np.asarray(first.windows, np.int64),
        buckets=buckets,
        balances=tuple(Balance.of(replay.balancedness, buckets) for replay in replays),
        start=Balance.of(seen.start_balancedness, buckets),
        oracle=_oracle(replays, buckets),
        movings=tuple(moving(replay, seen.start_balancedness, buckets) for replay in replays),
        shown=shown,
        maps=seen.maps,
        num_nodes=first.cluster.num_nodes,
        columns=columns,
        hot=hot_experts(seen.share),
        num_experts=trace.num_experts,
        settings=settings,
        own_settings=own,
    )
