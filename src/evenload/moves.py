"""What has to cross links between two placements, and from where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Int
from evenload.cluster import Cluster
from evenload.placement import Placement, check_gpus, check_same


def keep_slots(placement: Placement, current: Placement) -> Placement:
    """Reorder the slots of each GPU so that an expert that was there keeps its slot.

    What each GPU holds stays the same, so loads and moves do. vLLM does the same to its plans
    (``preserve_intragpu_slots``); vllm-ascend refuses a plan in which a kept expert changes its
    slot. Placements of other layers, experts or clusters than each other are a `ValueError`.
    """
    check_same(current, placement, "current")
    rows = in_old_slots(placement.rows, current.rows, placement.cluster)
    return Placement(rows, placement.cluster, placement.num_experts)


def in_old_slots(new: NDArray[Any], old: NDArray[Any], cluster: Cluster) -> NDArray[Any]:
    """Do what `keep_slots` does for slots [L, S]; numbers in `old` may be other than experts."""
    from evenload.core.transfers import keep_slots as compiled

    result = np.array(new, np.int64, order="C")
    num_experts = int(result.max()) + 1
    compiled(result, np.ascontiguousarray(old, np.int64), cluster.first_slot, num_experts)
    return result


def transfers(before: Int, old: Cluster, after: Int, new: Cluster) -> Int:
    """List what crosses a link between two maps, int64 [M, 5]: the columns of `Moves`.

    The maps are what is in the slots [L, S], -1 for nothing, on an old and a new cluster; only GPUs
    that are alive in the new one send.
    """
    from evenload.core.evaluate import count_arrivals
    from evenload.core.transfers import transfer_sources

    experts = 1 + int(max(before.max(), after.max()))
    held = before, old.first_slot, after, new.first_slot, experts
    count = np.empty(len(after), np.int64)
    count_arrivals(*held, count)
    move = np.empty((int(count.sum()), 5), np.int64)
    transfer_sources(*held, np.array(new.alive, np.uint8), new.node_of_gpu, move)
    return move


@dataclass(frozen=True, eq=False)
class Moves:
    """Experts that cross a link to come from one placement to another, in the order to send them.

    Layer by layer. Inside a layer each expert is received beside those that serve, and all slots of
    the layer change over once the last has arrived: no expert is ever without a live copy, every
    sender still has what it sends, and stopping after any layer leaves a valid placement.
    """

    before: Placement  #: what served
    after: Placement  #: of as many layers, experts and GPUs
    layer: Int  #: of each of the M moves, int64 [M], as all below
    expert: Int  #: that moves
    #: The GPU that sends. It holds the expert before; it is one of the target's node where there is
    #: one, and of several the one with least to send in this layer so far. -1: from storage.
    source: Int
    target: Int  #: the GPU that receives
    slot: Int  #: of `after`, that the expert is for

    @classmethod
    def between(cls, before: Placement, after: Placement) -> Moves:
        """List what has to move.

        Placements of other layers, experts or numbers of GPUs than each other are a `ValueError`.
        """
        check_gpus(before, after, "other")
        move = transfers(before.rows, before.cluster, after.rows, after.cluster)
        return cls(before, after, *(np.ascontiguousarray(column) for column in move.T))

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def first_of_layer(self) -> Int:
        """Where each layer's moves begin, and where the last one's end: int64 [L + 1]."""
        per_layer = np.bincount(self.layer, minlength=self.after.num_layers)
        return np.concatenate(([0], np.cumsum(per_layer, dtype=np.int64)))

    @property
    def crosses_nodes(self) -> NDArray[np.bool_]:
        """Whether each move is between two nodes, or from storage: bool [M]."""
        node = self.after.cluster.node_of_gpu
        return np.asarray((node[self.source] != node[self.target]) | (self.source < 0))

    def reached(self, num_layers: int) -> Placement:
        """Return what serves once the moves of the first `num_layers` layers are done.

        Placements on different clusters are a `ValueError`.
        """
        check_same(self.before, self.after, "before")
        rows = np.concatenate([self.after.rows[:num_layers], self.before.rows[num_layers:]])
        return Placement(rows, self.after.cluster, self.after.num_experts)
