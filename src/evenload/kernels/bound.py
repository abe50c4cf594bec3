"""How light the heaviest GPU can be at best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.grid import LOAD_BITS, bit_length, relative_grid
from evenload.kernels.replicate import replicate

Int = NDArray[np.int64]
Float = NDArray[np.float64]

ROUNDING = 1e-9  # how far the integer grid may be off, with room to spare


@kernel
def _mean_is_in_reach(load: Float, mean: float, num_slots: int) -> bool:
    """Whether the slots suffice to cut every expert down to shares of at most the mean.

    No expert needs more replicas than there are GPUs, since none has more than the total.
    """
    needed = load.size
    for expert in range(load.size):
        if load[expert] > mean:
            needed += np.int64(np.ceil(load[expert] / mean)) - 1
    return needed <= num_slots


@kernel
def _largest_share(load: Float, num_slots: int, num_gpus: int) -> float:
    E = load.size
    grid = np.empty(E, np.int64)
    count = np.empty(E, np.int64)
    order = np.empty(E, np.int64)
    relative_grid(load, LOAD_BITS, grid)
    slots = min(num_slots, E * num_gpus)
    replicate(
        grid, LOAD_BITS, slots, num_gpus, bit_length(E), np.empty((2, E), np.int64), count, order
    )
    return np.max(load / count)


@kernel
def balancedness_bound(load: Float, num_slots: int, num_gpus: int) -> Float:
    """Bound the balancedness of any placement: [L, E] -> [L], see `evenload.bounds`."""
    L = load.shape[0]
    bound = np.ones(L)
    for layer in range(L):
        mean = load[layer].sum() / num_gpus
        if mean == 0.0 or _mean_is_in_reach(load[layer], mean, num_slots):
            continue
        share = _largest_share(load[layer], num_slots, num_gpus) * (1.0 - ROUNDING)
        bound[layer] = min(1.0, mean / share)
    return bound
