"""How short the straggler's time can be at best: the strongest of several arguments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.bound_gpus import Gpus
from evenload.kernels.bound_hot_set import hot_set_time
from evenload.kernels.bound_partner import partner_limit
from evenload.kernels.bound_share import share_time
from evenload.kernels.compile import kernel

Float = NDArray[np.float64]

ROUNDING = 1e-9  # how far sums in another order may be off, with room to spare


@kernel
def quick_times(load: Float, gpus: Gpus, time: Float) -> None:
    """Bound the straggler's time of each row by its mean, largest share and hot sets.

    Parameters
    ----------
    load : float64, [X, E], each row descending
    gpus : Gpus
    time : float64, [X], output
        Least load / speed of the heaviest GPU.
    """
    for row in range(load.shape[0]):
        mean = load[row].sum() / gpus.reach[-1]
        time[row] = max(mean, share_time(load[row], gpus), hot_set_time(load[row], gpus))
        time[row] *= 1.0 - ROUNDING


@kernel
def tighten_times(load: Float, gpus: Gpus, time: Float) -> None:
    """Raise the bounds of `quick_times` by partners; GPUs that are slower count as the fastest.

    Parameters
    ----------
    load : float64, [X, E], each row descending
    gpus : Gpus
    time : float64, [X], changed in place
    """
    fastest = gpus.reach[1]
    for row in range(load.shape[0]):
        known = time[row] * fastest
        limit = partner_limit(load[row], gpus.num_slots, gpus.fewest[1], known)
        if limit > known:
            time[row] = limit / fastest
