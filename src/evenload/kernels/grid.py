"""Loads as integers, so that sums are exact and no comparison depends on the order of adding.

Every kernel that searches works on int64. A GPU's load and its number share one key,
``load << index_bits | gpu``: one comparison orders by load and settles ties by the lowest index.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]

LOAD_BITS = 40
KEY_BITS = 62


@kernel
def bit_length(number: int) -> int:
    """Count the bits that hold the numbers 0 to `number` - 1, at least 1."""
    bits = 1
    while (1 << bits) < number:
        bits += 1
    return bits


@kernel
def load_bits(num_items: int, num_packs: int) -> int:
    """Bits left for one item, so that the sum of all and a pack's number fit into one key."""
    return KEY_BITS - bit_length(num_items) - bit_length(num_packs)


@kernel
def relative_grid(load: Float, bits: int, out: Int) -> None:
    """Write a layer's load as integers of `bits` bits, relative to its largest: [E] -> [E].

    Dividing by the largest first makes the integers the same for every scale of the load. A layer
    without any load counts as even, so that its spare slots are spread.
    """
    largest = load.max()
    if largest == 0.0:
        out[:] = 1
        return
    one = float(1 << bits)
    for expert in range(load.size):
        out[expert] = np.int64(np.rint(load[expert] / largest * one))
