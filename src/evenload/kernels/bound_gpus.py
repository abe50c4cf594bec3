"""What the arguments for a bound need to know of a set of GPUs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]


class Gpus(NamedTuple):
    """Living GPUs whose slots are all filled, in numbers that no order of theirs changes.

    Parameters
    ----------
    num_slots : int
        Slots S of all.
    reach : float64, [G + 1]
        ``reach[m]``: sum of the m largest speeds; the most that m GPUs carry in a unit of time.
    fewest, most : int64, [G + 1]
        Sums of the m smallest and of the m largest numbers of slots.
    """

    num_slots: int
    reach: Float
    fewest: Int
    most: Int


def gpus_of(speed: Float, slots: Int) -> Gpus:
    """Sum up GPUs of the given speeds [G] and numbers of slots [G]."""
    fastest_first = np.sort(speed)[::-1]
    fewest_first = np.sort(slots)
    sums = (
        np.concatenate(([0], np.cumsum(row)))
        for row in (fastest_first, fewest_first, fewest_first[::-1])
    )
    reach, fewest, most = sums
    return Gpus(int(fewest[-1]), reach, fewest, most)
