"""The old map as a placement of its own: what is kept where nothing may be planned.

Plain NumPy and integers, and no kernel: a rank whose kernels fail comes to the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
EMPTY = -1


def carried_map(old: Any, num_layers: int, num_experts: int, num_slots: int, num_ranks: int) -> Int:
    """Return the old map for the slots that there are now, every expert in one.

    Parameters
    ----------
    old : integer ndarray, [L, S'], or None
        What each slot holds; anything but an expert, such as -1, stands for nothing. Slots beyond
        `num_slots` belong to ranks that go, those missing to ranks that come. None: what engines
        start with, slot s holds expert ``s % num_experts``.
    num_layers, num_experts, num_slots, num_ranks : int
        `num_slots` is a multiple of `num_ranks`, and at least `num_experts`.

    Returns
    -------
    int64 ndarray, [L, S]
        An old slot changes only where it has to: experts without a slot take the empty ones, else
        the last slot of the expert with most. What is empty still goes to experts with fewest
        slots that their rank does not hold. Ties go to the lowest number.
    """
    if old is None:
        return np.tile(np.arange(num_slots) % num_experts, (num_layers, 1))
    carried = np.full((num_layers, num_slots), EMPTY)
    kept = min(num_slots, old.shape[1])
    carried[:, :kept] = old[:, :kept]
    carried[(carried < 0) | (carried >= num_experts)] = EMPTY
    for row in carried:
        _complete(row, num_experts, num_slots // num_ranks)
    return carried


def _complete(row: Int, num_experts: int, slots_per_rank: int) -> None:
    count = np.bincount(row[row != EMPTY], minlength=num_experts)
    for expert in np.flatnonzero(count == 0):
        empty = np.flatnonzero(row == EMPTY)
        if empty.size:
            slot = empty[0]
        else:
            most = count.argmax()
            slot = np.flatnonzero(row == most)[-1]
            count[most] -= 1
        row[slot] = expert
        count[expert] += 1
    for slot in np.flatnonzero(row == EMPTY):
        first = slot - slot % slots_per_rank
        rank = row[first : first + slots_per_rank]
        others = np.setdiff1d(np.arange(num_experts), rank)
        choice = others if others.size else np.arange(num_experts)
        row[slot] = choice[count[choice].argmin()]
        count[row[slot]] += 1
