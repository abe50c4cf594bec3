"""A row of ascending keys in which one changes at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]


@kernel
def rerank(ranking: Int, old: int, new: int) -> None:
    """Put `new` in place of `old`, and keep the keys ascending."""
    G = ranking.size
    low = 0
    high = G - 1
    while low < high:
        middle = (low + high) >> 1
        if ranking[middle] < old:
            low = middle + 1
        else:
            high = middle
    i = low
    while i > 0 and ranking[i - 1] > new:
        ranking[i] = ranking[i - 1]
        i -= 1
    while i < G - 1 and ranking[i + 1] < new:
        ranking[i] = ranking[i + 1]
        i += 1
    ranking[i] = new
