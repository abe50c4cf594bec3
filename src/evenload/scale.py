"""Loads near the ends of a float's range, brought to where their sums are finite and exact.

Scaling by a power of two rounds nothing, so it changes no decision of any planner.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

SAFE_EXPONENT = 960  # of float64, which ends at 1024: room for sums and shares of many slots
SAFE_EXPONENT_32 = 64  # of float32, which ends at 128


def within_range(load: Float) -> Float:
    """Scale a load as a whole if its largest number is near an end of float64's range.

    Parameters
    ----------
    load : float64 ndarray, any shape but empty
        Finite and at least 0.

    Returns
    -------
    float64 ndarray
        The very input where it lies well within the range.
    """
    exponent = math.frexp(load.max())[1]
    if abs(exponent) <= SAFE_EXPONENT:
        return load
    with np.errstate(under="ignore"):
        scaled: Float = np.ldexp(load, (SAFE_EXPONENT if exponent > 0 else 0) - exponent)
    return scaled


def rows_within_range(weight: NDArray[Any]) -> NDArray[Any]:
    """Scale each row whose sums could overflow, in the weights' own float type.

    Parameters
    ----------
    weight : float32 or float64 ndarray, [X, n]
        Finite and at least 0.

    Returns
    -------
    ndarray, [X, n], of the same dtype
        The very input where no row needs it.
    """
    limit = np.finfo(weight.dtype).maxexp // 2
    exponent = np.frexp(weight.max(axis=1, keepdims=True))[1]
    if (exponent <= limit).all():
        return weight
    scaled: NDArray[Any] = np.ldexp(weight, np.minimum(limit - exponent, 0))
    return scaled


def to_float32(load: Float) -> NDArray[np.float32]:
    """Round to float32, rows that lie near an end of its range scaled first.

    Parameters
    ----------
    load : float64 ndarray, [X, E]
        Finite and at least 0.

    Returns
    -------
    float32 ndarray, [X, E]
        Each row times a power of two, which is 1 for rows well within the range.
    """
    exponent = np.frexp(load.max(axis=1, keepdims=True))[1]
    far = np.abs(exponent) > SAFE_EXPONENT_32
    with np.errstate(under="ignore"):
        scaled = np.ldexp(load, np.where(far, -exponent, 0)) if far.any() else load
        return scaled.astype(np.float32)
