"""A binary min-heap of integer keys in the first places of an array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]


@kernel
def push(heap: Int, size: int, key: int) -> None:
    """Add `key` to a heap of `size` keys; it holds one more afterwards."""
    i = size
    while i > 0:
        parent = (i - 1) // 2
        if heap[parent] <= key:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = key


@kernel
def replace_top(heap: Int, size: int, key: int) -> None:
    """Put `key` in place of the smallest of `size` >= 1 keys."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = key
