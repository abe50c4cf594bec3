"""Proven upper limits on the balancedness that a placement could reach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.problem import Problem

Float = NDArray[np.float64]

ROUNDING = 1e-9  # how far sums in another order may be off, with room to spare


def balancedness_bound(problem: Problem) -> Float:
    """Bound the balancedness of every placement of a problem, whichever planner made it.

    In each layer the strongest of these arguments counts:

    - *Mean.* The heaviest GPU carries at least the mean, so the balancedness is at most 1.
    - *Largest share.* An expert with c replicas puts at least load / min(c, G) on some GPU. Giving
      every spare slot to the expert with the largest share makes the largest share as small as S
      slots allow (exchange argument: in any other choice of counts the expert that is largest here
      has no more replicas than here, or another expert's share is at least as large), so no
      placement has a heaviest GPU below it.
    - *Groups*, where each has to stay on one node, see `group_bound`.

    Parameters
    ----------
    problem : Problem
        Load, cluster and groups. With groups that divide over the nodes, the bound is on placements
        that keep each group on one node; else on all.

    Returns
    -------
    float64 ndarray, [L]
        In (0, 1]; 1 for a layer without load.
    """
    from evenload.kernels.bound import balancedness_bound as compiled

    cluster = problem.cluster
    bound = compiled(problem.load, cluster.num_slots, cluster.num_gpus)
    if not problem.hierarchical:
        return bound
    return np.minimum(bound, group_bound(problem))


def _relative_load(problem: Problem) -> Float:
    """Divide each layer by its total, [L, E]; a layer without load stays 0."""
    largest = problem.load.max(axis=1, keepdims=True)
    relative = problem.load / np.where(largest > 0.0, largest, 1.0)
    total = relative.sum(axis=1, keepdims=True)
    return relative / np.where(total > 0.0, total, 1.0)


def group_bound(problem: Problem) -> Float:
    """Bound the balancedness of placements that keep each group on one node.

    With g groups a node, some node carries at least each of

    - the heaviest group and the g - 1 lightest;
    - for g = 2, the i-th heaviest and the i-th lightest group, for every i: of the i heaviest
      groups, either two share a node, or one of them has a partner that is none of the i - 1
      lightest;

    and its heaviest GPU at least the mean of the node's GPUs. An expert of a node with S / N slots
    and G / N GPUs has at most G / N useful replicas, and S / N less the node's other experts.

    Parameters
    ----------
    problem : Problem
        With groups that divide over the nodes.

    Returns
    -------
    float64 ndarray, [L]
        In (0, 1]; 1 for a layer without load.
    """
    cluster, load = problem.cluster, _relative_load(problem)
    L, E = load.shape
    groups = np.sort(load.reshape(L, problem.num_groups, -1).sum(axis=-1), axis=1)
    each = problem.num_groups // cluster.num_nodes
    node = groups[:, -1] + groups[:, : each - 1].sum(axis=1)
    if each == 2:
        node = np.maximum(node, (groups + groups[:, ::-1]).max(axis=1))
    spare = (cluster.num_slots - E) // cluster.num_nodes
    share = load.max(axis=1) / min(cluster.gpus_per_node, spare + 1)
    heaviest = np.maximum(node / cluster.gpus_per_node, share) * (1.0 - ROUNDING)
    bound = 1.0 / cluster.num_gpus / np.where(heaviest > 0.0, heaviest, 1.0)
    return np.where(heaviest > 0.0, np.minimum(bound, 1.0), 1.0)
