"""The maps between experts and slots: their checks, and the way from one to the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Rewrap, first_bad, to_numpy
from evenload.cluster import Cluster

Int = NDArray[np.int64]

EMPTY = -1  # in a map: a slot that holds nothing, since its GPU is gone


def frozen(array: Int) -> Int:
    """Make an array of our own read-only, and return it."""
    array.setflags(write=False)
    return array


def check_map(value: Any, cluster: Cluster, num_experts: int) -> tuple[Int, Rewrap]:
    """Copy an expert for every slot to int64 ``[L, S]``, and tell how results go back.

    Raises
    ------
    ValueError
        For a wrong shape or dtype, or a number that is no expert.
    """
    array, rewrap = to_numpy("physical_to_logical", value)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(
            f"physical_to_logical has shape {array.shape}; use [layers, slots], at least 1 of each"
        )
    if array.dtype.kind not in "iu":
        raise ValueError(f"physical_to_logical has dtype {array.dtype}; use an integer dtype")
    if array.shape[-1] != cluster.num_slots:
        raise ValueError(
            f"physical_to_logical has {array.shape[-1]} slots a layer, and the cluster has "
            f"num_slots={cluster.num_slots}; use {cluster.num_slots}"
        )
    _check_experts(array, cluster, num_experts)
    return np.atleast_2d(array).astype(np.int64, order="C"), rewrap


def _check_experts(array: NDArray[Any], cluster: Cluster, num_experts: int) -> None:
    outside = (array < 0) | (array >= num_experts)
    if not outside.any() and cluster.all_alive:
        return
    empty = array == EMPTY
    no_expert = outside & ~(empty & ~cluster.living_slot)
    if no_expert.any():
        raise ValueError(
            f"physical_to_logical{first_bad(array, no_expert)} is no expert; "
            f"use 0 to {num_experts - 1}"
        )
    placed = ~empty & ~cluster.living_slot
    if placed.any():
        raise ValueError(
            f"physical_to_logical{first_bad(array, placed)} is on a GPU that is not alive; "
            f"use {EMPTY} there"
        )


def check_count(count: Int) -> None:
    """Raise `ValueError` if an expert has no slot in some layer; replica counts [L, E]."""
    if count.min() == 0:
        layer, expert = np.argwhere(count == 0)[0]
        raise ValueError(
            f"physical_to_logical: expert {expert} has no slot in layer {layer}; "
            "give every expert at least one"
        )


def inverse_by_slot(physical_to_logical: Int, count: Int) -> Int:
    """List each expert's slots in ascending order, padded with -1: [L, S] -> [L, E, X]."""
    from evenload.kernels.invert import invert, rank_by_slot

    num_experts, most = count.shape[1], int(count.max())
    rank = rank_by_slot(physical_to_logical, num_experts)
    return frozen(invert(physical_to_logical, rank, num_experts, most))


def inverse_by_rank(physical_to_logical: Int, count: Int, replica_rank: Any) -> Int:
    """List each expert's slots by the rank of its replicas, padded with -1: [L, S] -> [L, E, X].

    Raises
    ------
    ValueError
        Unless `replica_rank` is an integer array [L, S] that numbers every expert's replicas from 0
        without gaps.
    """
    from evenload.kernels.invert import invert

    rank = to_numpy("replica_rank", replica_rank)[0]
    if rank.shape != physical_to_logical.shape or rank.dtype.kind not in "iu":
        raise ValueError(
            f"replica_rank has shape {rank.shape} and dtype {rank.dtype}; use an integer for each "
            f"slot, {physical_to_logical.shape}"
        )
    held = physical_to_logical != EMPTY
    replicas = np.take_along_axis(count, np.where(held, physical_to_logical, 0), axis=1)
    bad = held & ((rank < 0) | (rank >= replicas))
    if bad.any():
        raise ValueError(
            f"replica_rank{first_bad(rank, bad)} is no replica; use 0 to {replicas[bad][0] - 1}"
        )
    rank = rank.astype(np.int64, order="C")
    inverse = invert(physical_to_logical, rank, count.shape[1], int(count.max()))
    twice = (inverse >= 0).sum(axis=2) < count
    if twice.any():
        layer, expert = np.argwhere(twice)[0]
        raise ValueError(
            f"replica_rank gives two replicas of expert {expert} in layer {layer} one number; "
            f"use each of 0 to {count[layer, expert] - 1} once"
        )
    return frozen(inverse)


def rank_of_slot(logical_to_physical: Int, num_slots: int) -> Int:
    """Tell which replica of its expert each slot is, -1 if it is none: [L, E, X] -> [L, S]."""
    held = np.nonzero(logical_to_physical >= 0)
    layer, _, replica = held
    rank = np.full((len(logical_to_physical), num_slots), EMPTY)
    rank[layer, logical_to_physical[held]] = replica
    return rank
