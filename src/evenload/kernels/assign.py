"""The assignment problem: each row its own column, at the least total cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]

FAR = np.int64(2**62)


@kernel
def assign(cost: Int, column_of: Int) -> int:
    """Find the assignment of least cost by shortest augmenting paths.

    The Hungarian method with potentials (Jonker and Volgenant 1987), on integers, so that the same
    costs give the same assignment everywhere.

    Parameters
    ----------
    cost : int64 ndarray, [n, n]
        At most 2**40 in size.
    column_of : int64 ndarray, [n], output
        Column of each row.

    Returns
    -------
    int
        The total cost.
    """
    n = cost.shape[0]
    row_price = np.zeros(n + 1, np.int64)
    column_price = np.zeros(n + 1, np.int64)
    row_of = np.zeros(n + 1, np.int64)  # rows and columns count from 1; 0 is none
    way = np.zeros(n + 1, np.int64)
    for row in range(1, n + 1):
        least = np.full(n + 1, FAR)
        done = np.zeros(n + 1, np.uint8)
        row_of[0] = row
        column = 0
        while row_of[column] != 0:
            done[column] = 1
            column, step = _nearest(cost, row_of[column], column, row_price, column_price, least,
                                    done, way)  # fmt: skip
            for j in range(n + 1):
                if done[j]:
                    row_price[row_of[j]] += step
                    column_price[j] -= step
                else:
                    least[j] -= step
        while column != 0:
            row_of[column] = row_of[way[column]]
            column = way[column]
    total = np.int64(0)
    for column in range(1, n + 1):
        column_of[row_of[column] - 1] = column - 1
        total += cost[row_of[column] - 1, column - 1]
    return total


@kernel
def _nearest(
    cost: Int, row: int, from_column: int, row_price: Int, column_price: Int, least: Int,
    done: NDArray[np.uint8], way: Int,
) -> tuple:  # fmt: skip
    """Extend the paths by a row, and return the nearest open column and how far it is."""
    nearest = -1
    step = FAR
    for j in range(1, cost.shape[0] + 1):
        if done[j]:
            continue
        distance = cost[row - 1, j - 1] - row_price[row] - column_price[j]
        if distance < least[j]:
            least[j] = distance
            way[j] = from_column
        if least[j] < step:
            step = least[j]
            nearest = j
    return nearest, step
