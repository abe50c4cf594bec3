"""Pseudo-random numbers that are the same on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

SEED = np.uint64(0x9E3779B97F4A7C15)


@kernel
def random_below(state: NDArray[np.uint64], bound: int) -> int:
    """Draw from 0 to `bound` - 1 by xorshift64 (Marsaglia 2003); `state` [1] moves on."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return np.int64((x >> np.uint64(33)) % np.uint64(bound))
