"""The slots of each GPU in an order in which what stays does not change its slot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]


@kernel
def keep_slots(physical_to_logical: Int, before: Int, slots: Int) -> None:
    """Reorder each GPU's slots so that an expert that was there keeps its slot.

    Parameters
    ----------
    physical_to_logical : int64, [L, S]
        The plan, reordered inside each GPU: the slots of the GPUs one after the other.
    before : int64, [L, S]
        What each of these slots holds now, -1 for nothing.
    slots : int64, [G]
    """
    L = len(physical_to_logical)
    left = np.zeros(physical_to_logical.max() + 1, np.int64)
    for layer in range(L):
        row, was = physical_to_logical[layer], before[layer]
        start = 0
        for g in range(slots.size):
            end = start + slots[g]
            for slot in range(start, end):
                left[row[slot]] += 1
            new = row[start:end].copy()
            for slot in range(start, end):
                e = was[slot]
                if 0 <= e < left.size and left[e] > 0:
                    left[e] -= 1
                    row[slot] = e
                else:
                    row[slot] = -1
            n = 0
            for slot in range(start, end):
                if row[slot] >= 0:
                    continue
                while left[new[n]] == 0:
                    n += 1
                row[slot] = new[n]
                left[new[n]] -= 1
            start = end
