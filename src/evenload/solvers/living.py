"""Clusters with dead GPUs, for solvers that know only living ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from evenload.maps import EMPTY, rank_of_slot
from evenload.placement import Placement
from evenload.problem import Problem


def without_dead(problem: Problem) -> Problem:
    """Return the problem on the living GPUs alone; groups need equally many on every node.

    Raises
    ------
    ValueError
        If groups stay on one node each, and nodes have different numbers of living GPUs.
    """
    cluster = problem.cluster
    nodes = len(cluster.living_by_node)
    if problem.hierarchical and not cluster.nodes_are_equal:
        raise ValueError(
            f"cluster={cluster} has nodes with different numbers of living GPUs, and this solver "
            "keeps groups on equal nodes only; use solver 'joint', or topology 'ignore'"
        )
    living = cluster.only(cluster.living_gpus, nodes if cluster.nodes_are_equal else 1)
    return replace(problem, cluster=living)


def on_living_gpus(solver: Callable[..., Placement]) -> Callable[..., Placement]:
    """Make a solver plan for the living GPUs of a cluster, and leave the others empty.

    Nodes may differ in their living GPUs unless groups are kept on them. Replicas keep the numbers
    that the solver gave them.
    """

    @wraps(solver)
    def solve(problem: Problem, **options: Any) -> Placement:
        cluster = problem.cluster
        if cluster.all_alive:
            return solver(problem, **options)
        placed = solver(without_dead(problem), **options)
        whole = np.full((problem.num_layers, cluster.num_slots), EMPTY)
        rank = np.full_like(whole, EMPTY)
        whole[:, cluster.living_slot] = placed.physical_to_logical
        rank[:, cluster.living_slot] = rank_of_slot(placed.logical_to_physical, placed.num_slots)
        return Placement(whole, cluster, problem.num_experts, replica_rank=rank)

    return solve
