"""Bound by the largest share: an expert is cut by its replicas, and they are limited."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.bound_gpus import Gpus
from evenload.kernels.compile import kernel

Float = NDArray[np.float64]


@kernel
def share_time(load: Float, gpus: Gpus) -> float:
    """Bound the straggler's time from below by the time of single experts.

    *Proof.* The replicas of an expert with load w and c replicas are on m <= min(c, G) GPUs, which
    carry at most ``reach[m]`` in a unit of time, so one of them needs ``w / reach[min(c, G)]``. For
    one speed that is the largest share, w / min(c, G) each. It does not rise with c, so handing
    every spare slot to the expert with the largest time makes the largest time as small as the
    slots allow: with any other counts, the expert that is largest here has at most as many replicas
    as here, or some expert has fewer than here, whose time was then the largest before its last
    slot, and is at least as large.

    Parameters
    ----------
    load : float64, [E]
    gpus : Gpus

    Returns
    -------
    float
        Least time of the heaviest GPU, load / speed.
    """
    E = load.size
    G = gpus.reach.size - 1
    count = np.ones(E, np.int64)
    time = load / gpus.reach[1]
    mean = load.sum() / gpus.reach[G]
    for _ in range(gpus.num_slots - E):
        largest = np.argmax(time)
        if time[largest] <= mean or count[largest] == G:
            break
        count[largest] += 1
        time[largest] = load[largest] / gpus.reach[count[largest]]
    return np.max(time)
