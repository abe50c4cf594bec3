"""Which node is the home of each group, where groups are only preferred to stay together."""

from __future__ import annotations

import numpy as np

from evenload.problem import Problem
from evenload.solvers.rows import Float, Int


def home_nodes(problem: Problem) -> Int:
    """Choose a home for every group, longest first onto the node that would be done first.

    A node takes no more experts than it has living slots.

    Returns
    -------
    int64 ndarray, [L, E]
        Node of each expert's group.

    Raises
    ------
    ValueError
        If the groups cannot be dealt out whole, since nodes have too few living slots for one more.
    """
    cluster, groups = problem.cluster, problem.num_groups
    size = problem.num_experts // groups
    nodes = np.array(cluster.living_gpus) // cluster.gpus_per_node
    living_slots = np.array(cluster.slots)[list(cluster.living_gpus)]
    room = np.bincount(nodes, living_slots, cluster.num_nodes).astype(np.int64) // size
    living = cluster.capacity[list(cluster.living_gpus)]
    speed = np.bincount(nodes, living, cluster.num_nodes).astype(np.float64)
    if room.sum() < groups:
        raise ValueError(
            f"topology='prefer': the nodes have room for {room.sum()} whole groups of {size} "
            f"experts, and num_groups={groups}; use more slots, or topology 'ignore'"
        )
    load = problem.load.reshape(problem.num_layers, groups, size).sum(axis=-1)
    home = np.stack([longest_first_onto_nodes(row, room, speed) for row in load])
    return np.repeat(home, size, axis=1)


def longest_first_onto_nodes(load: Float, room: Int, speed: Float) -> Int:
    """Give each group, longest first, to the node that would be done first with it: int64 [Q].

    Parameters
    ----------
    load : float64 ndarray, [Q]
    room : int64 ndarray, [N]
        Groups that each node takes at most.
    speed : float64 ndarray, [N]
    """
    time, left = np.zeros(len(speed)), room.copy()
    home = np.empty(len(load), np.int64)
    for q in np.argsort(-load, kind="stable"):
        after = np.where(left > 0, time * speed + load[q], np.inf) / np.maximum(speed, 1e-300)
        node = int(np.argmin(after))
        home[q] = node
        time[node] = after[node]
        left[node] -= 1
    return home


def kept_homes(problem: Problem, placed: Int) -> tuple[Int, np.ndarray]:
    """Tell which node holds each expert's group, where groups have to stay on one.

    Parameters
    ----------
    problem : Problem
    placed : int64 ndarray, [L, S]
        Expert in each living slot.

    Returns
    -------
    home : int64 ndarray, [L, E]
        Node of each expert's group, -1 where groups may spread.
    kept : bool ndarray, [L]
        Whether the placement has every group on one node, and as many on each node.
    """
    L, E = problem.load.shape
    if not problem.hierarchical:
        return np.full((L, E), -1), np.ones(L, np.bool_)
    groups, nodes = problem.num_groups, problem.cluster.num_nodes
    slot_node = problem.cluster.gpu_of_slot // problem.cluster.gpus_per_node
    on_node = np.zeros((L, groups, nodes), np.bool_)
    group = placed // (E // groups)
    on_node[np.arange(L)[:, None], group, slot_node[problem.cluster.living_slot]] = True
    home = on_node.argmax(axis=2)
    each = (home[:, :, None] == np.arange(nodes)).sum(axis=1)
    wanted = groups // len(problem.cluster.living_by_node)
    kept = (on_node.sum(axis=2) == 1).all(axis=1) & ((each == 0) | (each == wanted)).all(axis=1)
    return np.repeat(home, E // groups, axis=1), kept
