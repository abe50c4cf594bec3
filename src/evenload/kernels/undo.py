"""What a trial changes, kept so that it can be taken back at the cost of what was touched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel
from evenload.kernels.fleet import Fleet, is_away, set_load

Int = NDArray[np.int64]


class Undo(NamedTuple):
    """GPUs as they were before the trial; a tuple, since that is what kernels can take.

    Parameters
    ----------
    gpu : int64 ndarray, [G]
        Numbers of the GPUs kept, in the order they were first touched.
    share, expert : int64 ndarray, [G, K]
        Their slots.
    load : int64 ndarray, [G]
        Their sums.
    is_kept : uint8 ndarray, [G]
        Whether a GPU is among them.
    away : int64 ndarray, [1]
        Load computed away from home.
    """

    gpu: Int
    share: Int
    expert: Int
    load: Int
    is_kept: NDArray[np.uint8]
    away: Int


@kernel
def new_undo(num_gpus: int, slots_per_gpu: int) -> Undo:
    """Make room to keep every GPU."""
    return Undo(
        np.empty(num_gpus, np.int64),
        np.empty((num_gpus, slots_per_gpu), np.int64),
        np.empty((num_gpus, slots_per_gpu), np.int64),
        np.empty(num_gpus, np.int64),
        np.zeros(num_gpus, np.uint8),
        np.zeros(1, np.int64),
    )


@inlined
def keep(undo: Undo, kept: int, fleet: Fleet, gpu: int) -> int:
    """Keep a GPU unless it is kept already; return how many are."""
    if undo.is_kept[gpu]:
        return kept
    if kept == 0:
        undo.away[0] = fleet.away[0]
    undo.is_kept[gpu] = 1
    undo.gpu[kept] = gpu
    undo.load[kept] = fleet.load[gpu]
    for i in range(fleet.slots[gpu]):
        undo.share[kept, i] = fleet.share[gpu, i]
        undo.expert[kept, i] = fleet.expert[gpu, i]
    return kept + 1


@kernel
def forget(undo: Undo, kept: int) -> None:
    """Start anew: the changes stay."""
    for n in range(kept):
        undo.is_kept[undo.gpu[n]] = 0


@inlined
def _tally(fleet: Fleet, gpu: int, by: int) -> None:
    for i in range(fleet.slots[gpu]):
        e = fleet.expert[gpu, i]
        fleet.held[e, gpu] += by
        if not is_away(fleet, e, gpu):
            fleet.at_home[e] += by


@kernel
def take_back(undo: Undo, kept: int, fleet: Fleet) -> None:
    """Bring every kept GPU back to what it was; replica counts are the caller's."""
    for n in range(kept):
        gpu = undo.gpu[n]
        _tally(fleet, gpu, -1)
        for i in range(fleet.slots[gpu]):
            fleet.share[gpu, i] = undo.share[n, i]
            fleet.expert[gpu, i] = undo.expert[n, i]
        _tally(fleet, gpu, 1)
        set_load(fleet, gpu, undo.load[n])
    if kept > 0:
        fleet.away[0] = undo.away[0]
    forget(undo, kept)
