"""Which part of an expert's tokens each of its replicas gets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import check_weights, first_bad, to_numpy
from evenload.cluster import Cluster
from evenload.threads import spread

Int = NDArray[np.int64]
Float = NDArray[np.float64]

SUM_TOLERANCE = 1e-6  # weights may come as float32


def best_split(load: Float, logical_to_physical: Int, cluster: Cluster) -> Float:
    """Return the weights [L, E, X] that let the last GPU of each layer be done soonest.

    Parameters
    ----------
    load : float64 ndarray, [L, E], C-contiguous
        Tokens of each expert, finite and at least 0.
    logical_to_physical : int64 ndarray, [L, E, X], C-contiguous
        Slots of each expert, padded with -1 at the end.
    cluster : Cluster
        The GPUs that the slots belong to.
    """
    from evenload.kernels.split import split

    weights = np.empty(logical_to_physical.shape)

    def run(first: int, end: int) -> None:
        layers = slice(first, end)
        split(
            load[layers],
            logical_to_physical[layers],
            cluster.gpu_of_slot,
            cluster.capacity,
            weights[layers],
        )

    spread(len(load), len(load) * cluster.num_slots, run)
    return weights


def check_split(split: Any, logical_to_physical: Int) -> Float:
    """Return a split as float64 [L, E, X], each expert's weights adding up to 1.

    Raises
    ------
    ValueError
        For another shape than that of `logical_to_physical`, a dtype that holds no real numbers, a
        weight that is not finite, negative, or not 0 where there is no replica, and weights of an
        expert that do not add up to 1 within 1e-6.
    """
    array = to_numpy("split", split)[0]
    expected = logical_to_physical.shape
    if array.shape != expected:
        raise ValueError(
            f"split has shape {array.shape}, and the placement's logical_to_physical {expected}; "
            "use a weight for each of its entries"
        )
    if array.dtype.kind not in "iuf":
        raise ValueError(f"split has dtype {array.dtype}; use a floating dtype")
    weights = check_weights("split", array)
    nobody = (logical_to_physical < 0) & (weights > 0.0)
    if nobody.any():
        raise ValueError(
            f"split{first_bad(weights, nobody)} is for no replica, logical_to_physical is -1 "
            "there; use 0"
        )
    total = weights.sum(axis=2)
    wrong = np.abs(total - 1.0) > SUM_TOLERANCE
    if wrong.any():
        layer, expert = np.argwhere(wrong)[0]
        raise ValueError(
            f"split[{layer}, {expert}] adds up to {total[layer, expert]}; use weights that add up "
            f"to 1 within {SUM_TOLERANCE}, e.g. divided by their sum"
        )
    return np.ascontiguousarray(weights / total[:, :, None])
