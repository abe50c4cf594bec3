"""What each policy came to over the whole replay: the rows of the page's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    move_seconds, straggler_seconds : float
        Time that serving stood still for moves, and that it waited for every layer's last GPU.
    plan_seconds : float or None
        Time of a decision; None where none was made.
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
    straggler_seconds: float
    plan_seconds: float | None

    @property
    def seconds(self) -> float:
        """Time that serving takes, moving included."""
        return self.straggler_seconds + self.move_seconds


def score(replay: Replay) -> Score:
    """Add a replay up."""
    f = replay.figures()
    return Score(
        name=f["policy"],
        balancedness=f["balancedness"],
        worst_window=f["worst_window"],
        oracle=f["oracle"],
        rebalances=f["rebalances"],
        paid=f["paid"],
        moves=f["moves"],
        bytes_moved=f["bytes"],
        move_seconds=f["move_seconds"],
        straggler_seconds=f["straggler_seconds"],
        plan_seconds=f["plan_ms"] / 1e3 if f["asked"] else None,
    )
