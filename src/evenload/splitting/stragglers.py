"""What batches take under each dispatch, on the slowest GPU."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evenload.arrays import Float, Int
from evenload.batches import slowness
from evenload.cost.expert_time import ExpertTime
from evenload.placement import Placement
from evenload.splitting import OneReplica, Splits, WaterFilling


def even_quotas(placement: Placement, counts: Int, first: int = 0) -> Int:
    """Deal out the tokens of each expert [L, E] to its replicas in turn: int64 [L, E, X].

    `first` says whose turn is first, from 0 on and around: engines go on where the last batch
    ended.
    """
    replicas = placement.replica_count[:, :, None]
    x = np.arange(placement.logical_to_physical.shape[2])
    extra = (x + first) % replicas < counts[:, :, None] % replicas
    return np.where(x < replicas, counts[:, :, None] // replicas + extra, 0)


def straggler_seconds(
    placement: Placement,
    counts: Int,
    expert_time: ExpertTime,
    dispatches: Iterable[tuple[str, float]],
) -> Float:
    """Return the seconds of the slowest GPU of each layer, mean over batches: float64 [L].

    Other than `evenload.seconds.layer_seconds`, which is quick, this tells of the slowest GPU in
    each batch, so that dispatches compare.

    Parameters
    ----------
    placement : Placement
        With NumPy arrays.
    counts : int64 ndarray, [B, L, E]
        Tokens of each expert in B batches.
    expert_time : ExpertTime
        Of the fastest GPU.
    dispatches : pairs of str and float
        ``"even"``, ``"live"`` (by `WaterFilling`) or ``"one"`` (by `OneReplica`), and the part of
        the time that the engine has it.
    """
    slots, cluster = placement.logical_to_physical, placement.cluster
    (_, L, _), G = counts.shape, cluster.num_gpus
    gpu = np.arange(L)[:, None, None] * G + cluster.gpu_of_slot[slots]
    ticks = expert_time.seconds(np.arange(counts.max() + 1))
    slow = np.where(cluster.capacity > 0.0, slowness(placement), 0.0)
    total = np.zeros(L)
    for dispatch, part in dispatches:
        split: Splits | None = None
        if dispatch == "live":
            split = WaterFilling(placement)
        elif dispatch == "one":
            split = OneReplica(placement, expert_time=expert_time)
        for b, count in enumerate(counts):
            quotas = even_quotas(placement, count, b) if split is None else split.quotas(count)
            work = np.bincount(gpu.ravel(), ticks[quotas].ravel(), L * G).reshape(L, G)
            total += part / len(counts) * (work * slow).max(axis=1)
    return total
