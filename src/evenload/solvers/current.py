"""What runs now, as a solver of living GPUs sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenload.maps import EMPTY
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.fleets import GpuArrays
from evenload.solvers.rows import Int

Flag = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Current:
    """What the living GPUs of a cluster hold now.

    Parameters
    ----------
    slot : int64 ndarray, [L, S]
        Expert in each living slot, -1 where there is none yet: on a GPU that is new, or in a slot
        that it had not.
    old : uint8 ndarray, [L, E, G]
        Whether a living GPU holds an expert, in a slot that it still has or not.
    """

    slot: Int
    old: Flag

    @property
    def is_whole(self) -> bool:
        """Whether it is a placement as it is: all slots filled, and every expert in one."""
        if (self.slot == EMPTY).any():
            return False
        L, E, _ = self.old.shape
        has = np.zeros((L, E), np.bool_)
        has[np.arange(L)[:, None], self.slot] = True
        return bool(has.all())


def see_current(placement: Placement, problem: Problem) -> Current:
    """Tell what the living GPUs of the problem's cluster hold; GPU g is GPU g in both.

    An expert counts as held by a GPU that has lost slots, too: its weights are there. Which of them
    keep a slot is settled by number.
    """
    cluster, before = problem.cluster, placement.cluster
    L, E = problem.load.shape
    running = placement.physical_to_logical
    old = np.zeros((L, E, len(cluster.living_gpus)), np.uint8)
    slot = np.full((L, cluster.num_slots), EMPTY)
    layer = np.arange(L)[:, None]
    for n, g in enumerate(cluster.living_gpus):
        if g >= before.num_gpus or not before.alive[g]:
            continue
        held = running[:, before.first_slot[g] : before.first_slot[g + 1]]
        old[layer, held, n] = 1
        kept = min(cluster.slots[g], before.slots[g])
        first = cluster.first_slot[g]
        slot[:, first : first + kept] = held[:, :kept]
    return Current(np.ascontiguousarray(slot[:, cluster.living_slot]), old)


def fitted(current: Current, problem: Problem, gpus: GpuArrays) -> Int:
    """Fill what is empty, see `kernels.fit`: int64 [L, S]."""
    from evenload.kernels.fit import fit

    whole = current.slot.copy()
    if not current.is_whole:
        fit(problem.load, gpus.slots, gpus.unit_time, whole)
    return whole


def count_moves(old: Flag, placed: Int, gpus: GpuArrays) -> Int:
    """Count the experts of each layer that are new to their GPU: int64 [L]."""
    held = np.zeros_like(old)
    gpu = np.repeat(np.arange(len(gpus.slots)), gpus.slots)
    held[np.arange(len(placed))[:, None], placed, gpu] = 1
    moves: Int = (held > old).sum(axis=(1, 2), dtype=np.int64)
    return moves
