"""What each GPU gets when experts' tokens are not shared evenly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@kernel
def split_gpu_load(load: Float, weights: Float, slots: Int, first_slot: Int) -> Float:
    """Sum each GPU's slots in slot order, loads divided as told.

    Shapes: [L, E], [L, E, X], [L, E, X], [G + 1] -> [L, G].
    """
    L, E, X = slots.shape
    G = first_slot.size - 1
    share = np.zeros(first_slot[-1])
    result = np.empty((L, G))
    for layer in range(L):
        share[:] = 0.0
        for e in range(E):
            for x in range(X):
                if slots[layer, e, x] >= 0:
                    share[slots[layer, e, x]] = load[layer, e] * weights[layer, e, x]
        for gpu in range(G):
            total = 0.0
            for slot in range(first_slot[gpu], first_slot[gpu + 1]):
                total += share[slot]
            result[layer, gpu] = total
    return result
