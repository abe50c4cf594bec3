"""Sorting of integer keys: by digits, by insertion, by heap; Numba's own takes long to compile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]

DIGIT_BITS = 8
DIGITS = 3


@kernel
def _by_digit(source: Int, target: Int, n: int, shift: int, tally: Int) -> None:
    mask = (1 << DIGIT_BITS) - 1
    tally[:] = 0
    for i in range(n):
        tally[(source[i] >> shift) & mask] += 1
    start = 0
    for digit in range(mask + 1):
        count = tally[digit]
        tally[digit] = start
        start += count
    for i in range(n):
        digit = (source[i] >> shift) & mask
        target[tally[digit]] = source[i]
        tally[digit] += 1


@kernel
def insertion_sort(keys: Int, n: int, most_shifts: int) -> bool:
    """Sort keys[:n] ascending in place; give up after `most_shifts` shifts and return False."""
    shifts = 0
    for i in range(1, n):
        key = keys[i]
        j = i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key
        shifts += i - j
        if shifts > most_shifts:
            return False
    return True


@kernel
def _sink(keys: Int, n: int, node: int) -> None:
    """Restore the max-heap keys[:n] below a node."""
    key = keys[node]
    while 2 * node + 1 < n:
        child = 2 * node + 1
        if child + 1 < n and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[node] = keys[child]
        node = child
    keys[node] = key


@kernel
def heap_sort(keys: Int, n: int) -> None:
    """Sort keys[:n] ascending in place."""
    for node in range(n // 2 - 1, -1, -1):
        _sink(keys, n, node)
    for end in range(n - 1, 0, -1):
        keys[0], keys[end] = keys[end], keys[0]
        _sink(keys, end, 0)


@kernel
def sort_few(keys: Int, n: int) -> None:
    """Sort keys[:n] ascending in place: by insertion, by heap where that goes on too long."""
    if not insertion_sort(keys, n, 16 * n):
        heap_sort(keys, n)


@kernel
def sort_keys(keys: Int, n: int, bits: int, scratch: Int, tally: Int) -> None:
    """Sort distinct keys of at most `bits` bits ascending, in place.

    Three counting passes order the leading 24 bits, which is about five times faster here than a
    comparison sort; what they leave unsettled is mended by insertion, or by a heap sort where
    too many keys agree in those bits.

    Parameters
    ----------
    keys, scratch : int64, [n or more]
    tally : int64, [256]
    """
    low = max(bits - DIGIT_BITS * DIGITS, 0)
    _by_digit(keys, scratch, n, low, tally)
    _by_digit(scratch, keys, n, low + DIGIT_BITS, tally)
    _by_digit(keys, scratch, n, low + 2 * DIGIT_BITS, tally)
    keys[:n] = scratch[:n]
    sort_few(keys, n)
