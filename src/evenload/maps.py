"""The arrays that describe a placement: their checks, and the ways from one to another."""

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Float, Int, check_weights, read_only, refuse, to_numpy
from evenload.cluster import Cluster

EMPTY = -1  # in a map: a slot that holds nothing, since its GPU is gone
NOTHING = np.empty((0, 0), np.int64)  # a map, or ranks, of nothing
SUM_TOLERANCE = 1e-6  # the weights of a split may come as float32


def check_map(array: NDArray[Any], cluster: Cluster, num_experts: int) -> tuple[Int, Int]:
    """Copy the expert in each slot [L, S], and count the slots of each expert [L, E]."""
    from evenload.core.evaluate import count_replicas

    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(
            f"physical_to_logical has shape {array.shape}; use [layers, slots], at least 1 of each"
        )
    if array.dtype.kind not in "iu":
        raise ValueError(f"physical_to_logical has dtype {array.dtype}; use an integer dtype")
    if array.shape[-1] != cluster.num_slots:
        raise ValueError(
            f"physical_to_logical has {array.shape[-1]} slots per layer, and the cluster has "
            f"num_slots={cluster.num_slots}; use {cluster.num_slots}"
        )
    experts = read_only(np.array(array, np.int64, order="C", ndmin=2))
    if num_experts > cluster.num_living_slots:  # whatever their number: nothing that size is made
        _check_experts(array, cluster, num_experts)
        _fail_for_expert(0, min({*range(experts.shape[1] + 1)}.difference(experts[0].tolist())))
    count = np.empty((len(experts), num_experts), np.int64)
    bad = count_replicas(experts, cluster.living_slot.view(np.uint8), count)
    if bad >= 0 or array.dtype == np.uint64:
        _check_experts(array, cluster, num_experts)
    if count.min() == 0:
        _fail_for_expert(*np.argwhere(count == 0)[0])
    return experts, read_only(count)


def _fail_for_expert(layer: int, expert: int) -> NoReturn:
    raise ValueError(
        f"physical_to_logical: expert {expert} has no slot in layer {layer}; "
        "give every expert at least one"
    )


def _check_experts(array: NDArray[Any], cluster: Cluster, num_experts: int) -> None:
    """Say which slot holds what it must not; an int64 would not hold every uint64."""
    empty = array == EMPTY
    no_expert = ((array < 0) | (array >= num_experts)) & ~(empty & ~cluster.living_slot)
    refuse("physical_to_logical", array, no_expert, f"is not an expert; use 0 to {num_experts - 1}")
    dead = ~empty & ~cluster.living_slot
    refuse("physical_to_logical", array, dead, f"is on a GPU that is not alive; use {EMPTY} there")


def slots_of_experts(physical_to_logical: Int, count: Int, rank: Int = NOTHING) -> Int:
    """List each expert's slots, ascending or by `rank`, padded with -1: [L, S] -> [L, E, X]."""
    from evenload.core.evaluate import invert

    slots = np.empty((*count.shape, int(count.max())), np.int64)
    invert(physical_to_logical, rank, slots)
    return read_only(slots)


def slots_by_rank(physical_to_logical: Int, count: Int, replica_rank: Any) -> Int:
    """List each expert's slots by the rank of its replicas, 0 and up, padded with -1."""
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
        refuse("replica_rank", rank, bad, f"is not a replica; use 0 to {replicas[bad][0] - 1}")
    slots = slots_of_experts(physical_to_logical, count, rank.astype(np.int64, order="C"))
    twice = (slots >= 0).sum(axis=2) < count
    if twice.any():
        layer, expert = np.argwhere(twice)[0]
        raise ValueError(
            f"replica_rank gives two replicas of expert {expert} in layer {layer} one number; "
            f"use each of 0 to {count[layer, expert] - 1} once"
        )
    return slots


def check_split(split: Any, logical_to_physical: Int) -> Float:
    """Return a split as float64 [L, E, X], each expert's weights adding up to 1."""
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
    refuse("split", weights, nobody, "is for no replica, logical_to_physical is -1 there; use 0")
    total = weights.sum(axis=2)
    wrong = np.abs(total - 1.0) > SUM_TOLERANCE
    if wrong.any():
        layer, expert = np.argwhere(wrong)[0]
        raise ValueError(
            f"split[{layer}, {expert}] adds up to {total[layer, expert]}; use weights that add up "
            f"to 1 within {SUM_TOLERANCE}, e.g. divided by their sum"
        )
    return np.ascontiguousarray(weights / total[:, :, None])
