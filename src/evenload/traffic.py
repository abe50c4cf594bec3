"""Tokens that cross between nodes because of where their experts are."""

from typing import Any

import numpy as np

from evenload.arrays import Float, refuse, to_numpy
from evenload.cluster import check_groups
from evenload.placement import Placement
from evenload.threads import spread

MOST_NODES = 62  # that the nodes of an expert fit one integer


def away_share(placement: Placement, load: Any, num_groups: int) -> Any:
    """Return the part of the load that is computed away from its group's home node: float64 [L].

    The home of a group is the node that computes most of it, the lowest on ties. A token that a
    group-limited router sends to one group has to leave that node for every expert it finds
    elsewhere. Where the routed experts of single tokens are known, see `nodes_per_token`. 0 for a
    layer without load.

    The load is as for `Placement.gpu_load`; `num_groups` divides the experts, or is a `ValueError`.
    """
    groups = check_groups(num_groups, placement.num_experts)
    checked, rewrap = placement.check_load(load)
    expert, largest = placement.rows, checked.max(axis=1, keepdims=True)
    relative = checked / np.where(largest > 0.0, largest, 1.0)
    share = np.take_along_axis(relative / placement.counts, np.maximum(expert, 0), axis=1)
    share = np.where(expert >= 0, share, 0.0)
    group = np.maximum(expert, 0) // (placement.num_experts // groups)
    L, N = len(share), placement.cluster.num_nodes
    node = placement.cluster.node_of_gpu[placement.cluster.gpu_of_slot]
    place = (np.arange(L)[:, None] * groups + group) * N + node
    served = np.bincount(place.ravel(), share.ravel(), L * groups * N).reshape(L, groups, N)
    total = served.sum(axis=(1, 2))
    away = (served.sum(axis=2) - served.max(axis=2)).sum(axis=1)
    return rewrap(np.divide(away, total, out=np.zeros_like(away), where=total > 0))


def nodes_per_token(placement: Placement, topk: Any) -> Float:
    """Return how many distinct nodes a token must visit, mean over tokens: float64 [L].

    The fewest nodes that between them hold a replica of each of its experts, exactly. `topk` is
    integer, [tokens, L, k]: the experts that each token was routed to in each layer. A number that
    is not an expert, and a placement on more than 62 nodes, are a `ValueError`.
    """
    from evenload.core.transfers import mean_visits

    nodes = placement.cluster.num_nodes
    if nodes > MOST_NODES:
        raise ValueError(f"num_nodes={nodes} is more than this can count; use {MOST_NODES} or less")
    routed = to_numpy("topk", topk)[0]
    if routed.ndim != 3 or routed.size == 0 or routed.shape[1] != placement.num_layers:
        raise ValueError(
            f"topk has shape {routed.shape}; use [tokens, {placement.num_layers} layers, k], at "
            "least 1 of each"
        )
    if routed.dtype.kind not in "iu":
        raise ValueError(f"topk has dtype {routed.dtype}; use an integer dtype")
    if routed.min() < 0 or routed.max() >= placement.num_experts:
        outside = (routed < 0) | (routed >= placement.num_experts)
        refuse("topk", routed, outside, f"is not an expert; use 0 to {placement.num_experts - 1}")
    routed = routed.astype(np.int64, order="C")
    held = np.zeros_like(placement.counts)
    layer, slot = np.nonzero(placement.rows >= 0)
    bit = 1 << placement.cluster.node_of_gpu[placement.cluster.gpu_of_slot]
    np.bitwise_or.at(held, (layer, placement.rows[layer, slot]), bit[slot])
    visits = np.empty(placement.num_layers)

    def run(first: int, end: int) -> None:
        mean_visits(routed, held, first, end, visits)

    spread(len(visits), routed.size, run)
    return visits
