"""Many numbers in few bytes: 16 bits each, in base64."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAP = 65535  # stands for a number that is not there
_FINEST = 1e-3
BYTES_A_NUMBER = 2 * 4 / 3


def step_for(largest: float) -> float:
    """Return the step to round to: a thousandth, or as coarse as the largest number needs."""
    return max(_FINEST, largest / (GAP - 1))


def pack(values: NDArray[np.float64], step: float) -> str:
    """Round numbers >= 0 to multiples of `step`, little-endian uint16 in base64; NaN is `GAP`."""
    gone = np.isnan(values)
    counts = np.where(gone, GAP, np.rint(np.where(gone, 0.0, values) / step))
    return base64.b64encode(counts.astype("<u2").tobytes()).decode("ascii")


def unpack(text: str, step: float) -> NDArray[np.float64]:
    """Undo `pack`, but for the rounding; a flat array."""
    counts = np.frombuffer(base64.b64decode(text), "<u2")
    return np.where(counts == GAP, np.nan, counts * step)


def rounded(values: Any, digits: int) -> list[Any]:
    """Return an array as nested lists, rounded, with None for NaN."""
    array = np.round(np.asarray(values, np.float64), digits)
    boxed = array.astype(object)
    boxed[np.isnan(array)] = None
    nested: list[Any] = boxed.tolist()
    return nested
