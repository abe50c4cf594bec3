"""From one map to another in links that each fit into memory, and never lose an expert.

A link changes some slots of one layer. What a GPU receives in it lies beside what serves, so that
links are as large as the room for that. Every map on the way is one that can serve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from evenload.arrays import Int
from evenload.cluster import Cluster
from evenload.maps import EMPTY


def chain(before: Int, after: Int, cluster: Cluster, room: Sequence[int]) -> list[Int]:
    """Return the maps of one layer on the way from `before` to `after`, which is the last.

    Parameters
    ----------
    before, after : int64 [S]
        Expert in each slot; -1 for nothing, in `after` only on GPUs that are not alive.
    cluster : Cluster
        That of `after`: what slots of other GPUs held before counts for nothing.
    room : sequence of int, [G]
        Experts that each GPU can receive in one link, 1 or more.

    Raises
    ------
    ValueError
        If a living GPU has no room.

    Notes
    -----
    Slots change one by one, each to what `after` has there, while no expert loses its last copy. If
    that leaves none, two slots change their experts, which settles one of them for good; so a chain
    ends. A link ends where nothing more has room.
    """
    for gpu in cluster.living_gpus:
        if room[gpu] < 1:
            raise ValueError(f"room[{gpu}]={room[gpu]}, and moves need some; use 1 or more")
    running = np.where(cluster.living_slot, before, EMPTY)
    links = []
    while not np.array_equal(running, after):
        link = _Link(running, after, cluster, room)
        link.grow()
        links.append(link.slots)
        running = link.slots
    return links


class _Link:
    """The map after one link, as it grows: the slots of each GPU receive no more than has room."""

    def __init__(self, running: Int, after: Int, cluster: Cluster, room: Sequence[int]) -> None:
        self.slots, self.after, self.room = running.copy(), after, room
        self.gpu, self.first = cluster.gpu_of_slot, cluster.first_slot
        self.held = [set(running[own].tolist()) - {EMPTY} for own in self._slots_of_gpus()]
        self.copies = Counter(running.tolist())

    def _slots_of_gpus(self) -> Iterator[slice]:
        for start, end in zip(self.first[:-1], self.first[1:], strict=True):
            yield slice(int(start), int(end))

    def grow(self) -> None:
        """Change slots until nothing more has room, and leave no living slot empty."""
        while self._copies_over() or self._one_swap():
            pass
        for gpu, own in enumerate(self._slots_of_gpus()):
            slots = self.slots[own]  # a view
            wanted = self.after[own] != EMPTY
            if wanted.any() and (slots[wanted] == EMPTY).any():
                filler = slots.max()
                assert filler != EMPTY, f"GPU {gpu} has room for an expert, and got none"
                slots[wanted & (slots == EMPTY)] = filler

    def _copies_over(self) -> bool:
        """Take over all slots whose expert has another copy."""
        changed = False
        for slot in np.flatnonzero(self.slots != self.after).tolist():
            old, new = int(self.slots[slot]), int(self.after[slot])
            if (old == EMPTY or self.copies[old] > 1) and self._fits([(slot, new)]):
                self._put(slot, new)
                changed = True
        return changed

    def _one_swap(self) -> bool:
        """Exchange the experts of two slots, so that one has what it is to have."""
        wrong = np.flatnonzero(self.slots != self.after)
        for slot in wrong.tolist():
            old = int(self.slots[slot])
            if old == EMPTY:
                continue
            for other in wrong[self.after[wrong] == old].tolist():
                theirs = int(self.slots[other])
                if theirs != EMPTY and self._fits([(slot, theirs), (other, old)]):
                    self._put(slot, theirs)
                    self._put(other, old)
                    return True
        return False

    def _fits(self, changes: list[tuple[int, int]]) -> bool:
        """Whether the GPUs of changed slots have room for what they would then receive."""
        trial = self.slots.copy()
        for slot, expert in changes:
            trial[slot] = expert
        for gpu in {int(self.gpu[slot]) for slot, _ in changes}:
            own = set(trial[self.first[gpu] : self.first[gpu + 1]].tolist()) - {EMPTY}
            if len(own - self.held[gpu]) > self.room[gpu]:
                return False
        return True

    def _put(self, slot: int, expert: int) -> None:
        self.copies[int(self.slots[slot])] -= 1
        self.copies[expert] += 1
        self.slots[slot] = expert


def check_link(before: Int, after: Int, cluster: Cluster, num_experts: int) -> str:
    """Say why a link of one layer, int64 [S], must not be taken; an empty text if it may.

    Living slots hold an expert, all others nothing, and no expert loses its last copy on GPUs that
    are alive.
    """
    living = cluster.living_slot
    if after.shape != living.shape:
        return f"a map has {after.shape} slots, and there are {living.shape}"
    if (after[~living] != EMPTY).any():
        return "a slot of a GPU that is not alive holds an expert"
    if ((after[living] < 0) | (after[living] >= num_experts)).any():
        return "a slot holds no expert"
    lost = sorted(set(before[living].tolist()) - set(after.tolist()) - {EMPTY})
    return f"experts {lost} would lose their last copy" if lost else ""
