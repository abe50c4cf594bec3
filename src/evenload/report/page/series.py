"""What changes from window to window: balance, moves and what they bring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evenload.report.page.sample import Buckets

if TYPE_CHECKING:
    from evenload.replay import Replay

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Balance:
    """Balancedness over time, float64 [B] each: mean over layers, and of the worst layer."""

    mean: Float
    worst: Float

    @classmethod
    def of(cls, balancedness: Float, buckets: Buckets) -> Balance:
        """Average [W, L] over layers (or take the worst one), then over runs of windows."""
        values = np.asarray(balancedness)
        return cls(buckets.mean(values.mean(axis=1)), buckets.mean(values.min(axis=1)))


@dataclass(frozen=True, eq=False)
class Moving:
    """What a policy moved, and what that brought.

    Parameters
    ----------
    moved : float64 ndarray, [B]
        Experts moved so far.
    saved : float64 ndarray, [B]
        Seconds saved so far against the placement at the start, those spent moving taken off.
    at : int64 ndarray, [R]
        Index of the window that each rebalance came with.
    moves, seconds, paid : ndarray, [R]
        Experts moved, seconds that took, and whether it paid for itself.
    """

    moved: Float
    saved: Float
    at: Int
    moves: Int
    seconds: Float
    paid: NDArray[np.bool_]


def moving(replay: Replay, start_balancedness: Float, buckets: Buckets) -> Moving:
    """Add up what a policy moved and saved.

    Parameters
    ----------
    replay : Replay
    start_balancedness : float64 ndarray, [W, L]
        What the placement at the start reaches.
    buckets : Buckets
    """
    windows = np.asarray(replay.windows)
    at = np.minimum(np.searchsorted(windows, replay.rebalance_window), len(windows) - 1)
    moves = np.asarray(replay.moves).sum(axis=1)
    seconds = np.asarray(replay.move_seconds, np.float64)
    moved, spent = np.zeros(len(windows)), np.zeros(len(windows))
    np.add.at(moved, at, moves)
    np.add.at(spent, at, seconds)
    start_seconds = np.asarray(replay.mean_seconds) / start_balancedness
    saved = (start_seconds - replay.straggler_seconds).sum(axis=1) - spent
    return Moving(
        moved=buckets.last(moved.cumsum()),
        saved=buckets.last(saved.cumsum()),
        at=at.astype(np.int64),
        moves=moves,
        seconds=seconds,
        paid=np.asarray(replay.paid, bool),
    )
