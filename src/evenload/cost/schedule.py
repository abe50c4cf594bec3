"""Which transfers run at the same time, and how long they take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evenload.moves import Moves, node_of
from evenload.threads import spread

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Moves in rounds, layer after layer; in a round each GPU talks to one other at most.

    Two GPUs may send to each other in one round. A round lasts as long as its slowest transfer.

    Parameters
    ----------
    moves : Moves
    round_number : int64 ndarray, [M]
        Round of each move, from 0 in each layer.
    num_rounds : int64 ndarray, [L, 2]
        Rounds of each layer inside nodes only, and with transfers between nodes (which come first).
    layer_seconds : float64 ndarray, [L]
        Time from the previous layer's end until a layer is all there.
    expert_bytes : float
    """

    moves: Moves
    round_number: Int
    num_rounds: Int
    layer_seconds: Float
    expert_bytes: float

    @classmethod
    def of(cls, moves: Moves, expert_bytes: float, near: float, far: float) -> Schedule:
        """Put moves into rounds that last `near` seconds inside a node, and `far` across nodes."""
        from evenload.core.transfers import transfer_rounds

        L, G = moves.after.num_layers, moves.after.cluster.num_gpus
        number, rounds = np.empty(len(moves), np.int64), np.empty((L, 2), np.int64)
        node, start = node_of(moves.after), moves.first_of_layer
        links = np.bincount(moves.layer * G + moves.target, minlength=L * G)
        sent = moves.source >= 0
        links += np.bincount((moves.layer * G + moves.source)[sent], minlength=L * G)
        most = 2 * int(links.max(initial=0))

        def run(first: int, end: int) -> None:
            scratch = np.empty((2, most, G), np.int64)
            layers = start[first : end + 1], node, *scratch, number, rounds[first:end]
            transfer_rounds(moves.source, moves.target, *layers)

        spread(L, len(moves), run)
        return cls(moves, number, rounds, rounds @ np.array([near, far]), expert_bytes)

    @property
    def seconds(self) -> float:
        """Time until the last layer is all there."""
        return float(self.layer_seconds.sum())

    @cached_property
    def finished(self) -> Float:
        """When each layer is all there, in seconds from the start: float64 [L]."""
        return np.cumsum(self.layer_seconds)

    @property
    def layer_bytes(self) -> Float:
        """Bytes that cross a link in each layer, float64 [L]."""
        return np.diff(self.moves.first_of_layer) * self.expert_bytes

    @property
    def num_bytes(self) -> float:
        """Bytes that cross a link."""
        return len(self.moves) * self.expert_bytes

    @property
    def spare_experts(self) -> int:
        """Experts that a GPU receives in one layer, at most: it needs memory beside its slots."""
        if not len(self.moves):
            return 0
        pair = self.moves.layer * self.moves.after.cluster.num_gpus + self.moves.target
        return int(np.bincount(pair).max())
