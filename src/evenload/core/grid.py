"""Loads as integers, so that sums are exact and no comparison depends on the order of adding.

Every kernel that searches works on int64. A weight and a number share one key,
``weight << bits | number``: one comparison orders by weight and settles ties by the lowest number.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from evenload.core.compile import Float1, Int, Int1, step

IntArray = NDArray[np.int64]

LOAD_BITS = 40  # of the largest load of a layer, at most
KEY_BITS = 62
SEED = np.uint64(0x9E3779B97F4A7C15)


@step(Int)
def bit_length(number: int) -> int:
    """Count the bits that hold the numbers 0 to `number` - 1, at least 1."""
    bits = 1
    while (1 << bits) < number:
        bits += 1
    return bits


@step(Float1, Int, Int1)
def relative_grid(load: NDArray[np.float64], bits: int, out: IntArray) -> None:
    """Write a layer's load as integers of `bits` bits, relative to its largest: [E] -> [E].

    Dividing by the largest first makes the integers the same for every scale of the load. A layer
    without any load counts as even, so that its spare slots are spread.
    """
    largest = 0.0
    for e in range(load.size):
        largest = max(largest, load[e])
    one = float(1 << bits)
    for e in range(load.size):
        out[e] = np.int64(np.rint(load[e] / largest * one)) if largest > 0.0 else 1


@step(types.uint64[::1], Int)
def random_below(state: NDArray[np.uint64], bound: int) -> int:
    """Draw from 0 to `bound` - 1 by xorshift64 (Marsaglia 2003); `state` [1] moves on."""
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return np.int64((x >> np.uint64(33)) % np.uint64(bound))


@step(Int1, Int, Int1)
def sort_keys(keys: IntArray, n: int, scratch: IntArray) -> None:
    """Sort keys[:n] ascending in place, by merging; `scratch` has room for n.

    Numba's own sort takes two seconds to compile.
    """
    width = 1
    while width < n:
        for start in range(0, n, 2 * width):
            i = start
            middle = start + width if start + width < n else n
            j = middle
            end = start + 2 * width if start + 2 * width < n else n
            place = start
            while i < middle and j < end:  # without a branch on the keys, which are at random
                left = keys[i] <= keys[j]
                scratch[place] = keys[i] if left else keys[j]
                i += left
                j += 1 - left
                place += 1
            while i < middle:
                scratch[place] = keys[i]
                i += 1
                place += 1
            while j < end:
                scratch[place] = keys[j]
                j += 1
                place += 1
        for place in range(n):
            keys[place] = scratch[place]
        width *= 2


@step(Int1, Int, Int)
def push(heap: IntArray, size: int, key: int) -> None:
    """Add `key` to a min-heap of `size` keys; it holds one more afterwards."""
    i = size
    while i > 0 and heap[(i - 1) // 2] > key:
        heap[i] = heap[(i - 1) // 2]
        i = (i - 1) // 2
    heap[i] = key


@step(Int1, Int, Int)
def replace_top(heap: IntArray, size: int, key: int) -> None:
    """Put `key` in place of the smallest of the `size` >= 1 keys of a min-heap."""
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = key
