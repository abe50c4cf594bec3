"""What replicas cost where time counts: on integers, from a table of mean times by chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import Float1, Float2, Int, Int1, Int2, Int3, entry

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@entry(Int2, Float2, Int2, Float1, Int1, Int, Int3)
def price_layer(
    row: IntArray,
    part: FloatArray,
    ticks: IntArray,
    scale: FloatArray,
    weight: IntArray,
    bits: int,
    price: IntArray,
) -> None:
    """Price one of 1 to R replicas of each expert of a layer in every sample.

    Parameters
    ----------
    row : int64, [E, M]
        Row of the table below the chance of an expert's tokens.
    part : float64, [E, M]
        How far the chance is from there to the next row, 0 to 1.
    ticks : int64, [K, R]
        Mean time of all replicas together.
    scale : float64, [M]
        What a tick of each sample counts, at most 1.
    weight : int64, [M]
        What each sample counts.
    bits : int
        Bits of what all experts cost at most, with the dearest numbers of replicas, in the sample
        where that is most. One grid for all samples, so that a longer batch counts for more.
    price : int64, [R, E, M], output
        Times what the sample counts.
    """
    R, E, M = price.shape
    most = np.int64(1)
    for m in range(M):
        whole = np.int64(0)
        for e in range(E):
            dearest = np.int64(0)
            below = row[e, m]
            for r in range(R):
                rise = np.rint((ticks[below + 1, r] - ticks[below, r]) * part[e, m])
                total = np.int64(np.rint((ticks[below, r] + rise) * scale[m]))
                price[r, e, m] = total
                dearest = max(dearest, total)
            whole += dearest
        most = max(most, whole)
    grid = float(1 << bits) / most
    for r in range(R):
        for e in range(E):
            for m in range(M):
                price[r, e, m] = np.int64(np.rint(price[r, e, m] * grid / (r + 1))) * weight[m]
