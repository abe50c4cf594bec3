"""What runs before a plan, as the living GPUs of the new cluster have it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evenload.core.matching import relabel
from evenload.core.start import FIRST, SLOTS, UNIT_TIME
from evenload.maps import EMPTY
from evenload.problem import Problem
from evenload.solvers.search import gpu_rows
from evenload.threads import spread

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Flag = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Running:
    """The current placement of a problem on its living GPUs; empty where there is none."""

    problem: Problem

    @cached_property
    def slots(self) -> Int:
        """Expert in each living slot now, -1 where there is none yet: int64 [L, S].

        Slots are empty on a GPU that is new, or that had fewer of them.
        """
        slot = np.full((self.problem.num_layers, self.problem.cluster.num_slots), EMPTY)
        for g, held in self._held():
            first = self.problem.cluster.first_slot[g]
            kept = min(self.problem.cluster.slots[g], held.shape[1])
            slot[:, first : first + kept] = held[:, :kept]
        return np.ascontiguousarray(slot[:, self.problem.cluster.living_slot])

    @cached_property
    def old(self) -> Flag:
        """Whether a living GPU holds an expert, in a slot that it still has or not: [L, E, G]."""
        old = np.zeros((*self.problem.load.shape, len(self.problem.cluster.living_gpus)), np.uint8)
        number = {g: n for n, g in enumerate(self.problem.cluster.living_gpus)}
        layer = np.arange(len(old))[:, None]
        for g, held in self._held():
            old[layer, held, number[g]] = 1
        return old

    def _held(self) -> list[tuple[int, Int]]:
        """List the living GPUs that ran before with what they hold; GPU g is GPU g in both."""
        current = self.problem.current
        if current is None:
            return []
        before, rows = current.cluster, current.physical_to_logical
        return [
            (g, rows[:, before.first_slot[g] : before.first_slot[g + 1]])
            for g in self.problem.cluster.living_gpus
            if g < before.num_gpus and before.alive[g]
        ]

    @cached_property
    def whole(self) -> Int:
        """Expert in each living slot, its gaps filled: int64 [L, S]."""
        whole = self.slots.copy()
        held = np.zeros(self.problem.load.shape, bool)
        held[np.arange(len(whole))[:, None], whole] = True  # or the last, where a slot is empty
        lacking = (whole == EMPTY).any(axis=1) | ~held.all(axis=1)
        for layer in np.flatnonzero(lacking):
            fill_gaps(self.problem.load[layer], gpu_rows(self.problem.cluster), whole[layer])
        return whole

    def moves_to(self, placed: Int) -> Int:
        """Count the experts of living slots [L, S] that are new to their GPU, int64 [L]."""
        held, slots = np.zeros_like(self.old), gpu_rows(self.problem.cluster)[SLOTS]
        gpu = np.repeat(np.arange(len(slots)), slots)
        held[np.arange(len(placed))[:, None], placed, gpu] = 1
        moves: Int = (held > self.old).sum(axis=(1, 2), dtype=np.int64)
        return moves

    def matched(self, placed: Int) -> Int:
        """Give the GPUs of a plan [L, S] the numbers under which most experts stay.

        Only GPUs of the same slots and speed change places; where groups are kept on nodes, or
        copies on several, all of a node stay together.
        """
        gpu = gpu_rows(self.problem.cluster)
        alike = gpu[[SLOTS, UNIT_TIME]].T
        kind = np.unique(alike, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        cluster = self.problem.cluster
        stay = self.problem.hierarchical or self.problem.apart[1]
        blocks = cluster.living_by_node if stay else (cluster.living_gpus,)
        first_gpu = np.concatenate([[0], np.cumsum([len(gpus) for gpus in blocks])])
        matched = placed.copy()

        def run(first: int, end: int) -> None:
            relabel(matched[first:end], gpu[SLOTS], kind, first_gpu, self.old[first:end])

        spread(len(placed), placed.size * len(kind), run)
        return matched


def fill_gaps(load: Float, gpu: Int, row: Int) -> None:
    """Fill the empty slots of a layer in place, experts without a slot first.

    Such an expert goes to the GPU that is done first, and where no slot is empty it takes the slot
    of the redundant replica that is missed least. The slots that remain go to the expert with the
    largest share that their GPU lacks.

    Parameters
    ----------
    load : float64 ndarray, [E]
    gpu : int64 ndarray, [4, G]
    row : int64 ndarray, [S]
        What runs, -1 in empty slots.
    """
    gpu_of_slot = np.repeat(np.arange(gpu.shape[1]), gpu[SLOTS])
    count = np.bincount(row[row != EMPTY], minlength=len(load))
    share = np.append(load / np.maximum(count, 1), 0.0)  # of an empty slot, which is -1: none
    time = np.bincount(gpu_of_slot, share[row], gpu.shape[1]) * gpu[UNIT_TIME]
    for e in np.argsort(-load, kind="stable"):
        if count[e] > 0:
            continue
        empty = np.flatnonzero(row == EMPTY)
        if empty.size:
            slot = empty[np.argmin(time[gpu_of_slot[empty]])]
        else:
            spare = np.flatnonzero(count[row] > 1)
            slot = spare[np.argmin(load[row[spare]] / (count[row[spare]] - 1))]
            count[row[slot]] -= 1
        row[slot] = e
        count[e] = 1
        time[gpu_of_slot[slot]] += load[e] * gpu[UNIT_TIME, gpu_of_slot[slot]]
    for slot in np.flatnonzero(row == EMPTY):
        g = gpu_of_slot[slot]
        held = row[gpu[FIRST, g] : gpu[FIRST, g] + gpu[SLOTS, g]]
        lacking = np.setdiff1d(np.arange(len(load)), held)
        candidates = lacking if lacking.size else np.arange(len(load))
        e = candidates[np.argmax(load[candidates] / count[candidates])]
        row[slot] = e
        count[e] += 1
