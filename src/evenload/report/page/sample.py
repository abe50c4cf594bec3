"""Fewer windows than were served, by rules that the page states: some of them, or their means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]


def spaced(num: int, most: int) -> Int:
    """Return at most `most` of the indices 0 to ``num - 1``, evenly spaced, both ends included."""
    count = min(num, max(most, 1))
    return np.unique(np.linspace(0, num - 1, count).round().astype(np.int64))


def spaced_rule(shown: int, num: int) -> str:
    """Say in one sentence which windows `spaced` took."""
    if shown == num:
        return f"The slider has {'the one window' if num == 1 else f'all {num:,} windows'} served."
    return (
        f"The slider has {shown:,} of the {num:,} windows served, evenly spaced, the first and the "
        "last among them: all of them would make this file too large."
    )


@dataclass(frozen=True, eq=False)
class Buckets:
    """Windows in runs of nearly equal length, in order.

    Parameters
    ----------
    edges : int64 ndarray, [B + 1]
        Where each run begins, and where the last one ends.
    """

    edges: Int

    @classmethod
    def of(cls, num: int, most: int) -> Buckets:
        """Divide `num` windows into at most `most` runs; one window each where that suffices."""
        return cls(np.linspace(0, num, min(num, most) + 1).round().astype(np.int64))

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def sizes(self) -> Int:
        """Windows in each run, int64 [B]."""
        return np.diff(self.edges)

    def mean(self, values: Float) -> Float:
        """Average along the first axis: [W, ...] -> [B, ...]."""
        sums = np.add.reduceat(values, self.edges[:-1], axis=0)
        return np.asarray(sums / self.sizes.reshape(-1, *(1,) * (values.ndim - 1)))

    def last(self, values: Float) -> Float:
        """Take what a running sum has come to by the end of each run: [W, ...] -> [B, ...]."""
        return np.asarray(values[self.edges[1:] - 1])

    def rule(self) -> str:
        """Say in one sentence what a point stands for."""
        least, most = int(self.sizes.min()), int(self.sizes.max())
        if most == 1:
            return "Every point is one window."
        each = f"{most}" if least == most else f"{least} to {most}"
        return f"Every point is the mean of {each} windows that follow each other."
