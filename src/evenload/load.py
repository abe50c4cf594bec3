"""A load as everybody takes it: tokens of each expert in each layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Rewrap, check_weights, to_numpy


def check_load(load: Any, name: str = "load") -> tuple[NDArray[np.float64], Rewrap]:
    """Validate a load and bring it to float64 ``[L, E]``.

    Parameters
    ----------
    load : array_like or torch.Tensor, [L, E] or [E]
        Tokens routed to each expert. One layer may come without the layer axis.
    name : str, default "load"
        The caller's word for it, for the message.

    Returns
    -------
    load : float64 ndarray, [L, E], C-contiguous
        May share memory with the input: read it only.
    rewrap : callable
        Brings results to the kind and device of the input.

    Raises
    ------
    ValueError
        For a wrong number of dimensions, no layer, no expert, or an illegal dtype or value.
    """
    array, rewrap = to_numpy(name, load)
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{name} has {array.ndim} dimensions {array.shape}; use [layers, experts] or [experts] "
            "(sum a trace over its windows first)"
        )
    for size, word in zip(array.shape[::-1], ("experts", "layers"), strict=False):
        if size == 0:
            raise ValueError(f"{name} has 0 {word} {array.shape}; use at least 1")
    return np.atleast_2d(check_weights(name, array)), rewrap
