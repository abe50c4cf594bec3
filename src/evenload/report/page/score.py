"""What each policy came to over the whole replay: the rows of the page's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from evenload.replay import Replay


@dataclass(frozen=True)
class Score:
    """A policy's figures, over all served windows and layers.

    Parameters
    ----------
    name : str
    balancedness, worst_window : float
        Mean over windows and layers; the least mean over layers of any window.
    oracle : float or None
        Mean balancedness of the oracle, where the replay has one.
    rebalances, paid : int
        How often experts moved, and how often that paid for itself.
    moves, bytes_moved : int, float
        Experts moved, and what crossed the links, bytes.
    move_seconds, plan_seconds, straggler_seconds : float
        Time spent moving and planning, and waiting for the heaviest GPU of every layer.
    """

    name: str
    balancedness: float
    worst_window: float
    oracle: float | None
    rebalances: int
    paid: int
    moves: int
    bytes_moved: float
    move_seconds: float
    plan_seconds: float
    straggler_seconds: float

    @property
    def seconds(self) -> float:
        """Time that serving takes, moving included."""
        return self.straggler_seconds + self.move_seconds


def score(replay: Replay) -> Score:
    """Add a replay up."""
    oracle = float(np.mean(replay.oracle))
    return Score(
        name=replay.policy,
        balancedness=float(np.mean(replay.balancedness)),
        worst_window=float(np.mean(replay.balancedness, axis=1).min()),
        oracle=None if np.isnan(oracle) else oracle,
        rebalances=len(replay.rebalance_window),
        paid=int(np.sum(replay.paid)),
        moves=int(np.sum(replay.moves)),
        bytes_moved=float(np.sum(replay.bytes)),
        move_seconds=float(np.sum(replay.move_seconds)),
        plan_seconds=float(np.sum(replay.plan_seconds)),
        straggler_seconds=float(np.sum(replay.straggler_seconds)),
    )
