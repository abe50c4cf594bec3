"""From a planner of single rows to a planner of problems, strict groups included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload.placement import Placement
from evenload.problem import Problem

Int: TypeAlias = NDArray[np.int64]
Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows that were planned on their own.

    Parameters
    ----------
    expert : int64 ndarray, [X, S]
        Expert in each slot.
    rank : int64 ndarray, [X, S], optional
        Which replica of its expert each slot is, if the planner numbers them.
    """

    expert: Int
    rank: Int | None = None


RowPlanner: TypeAlias = Callable[[Float, int, int], Rows]
"""``plan(load [X, E], num_slots, num_gpus) -> Rows``, every row on its own."""


def every_expert_everywhere(num_rows: int, num_experts: int, slots_per_gpu: int, gpus: int) -> Rows:
    """Place every expert on every GPU: the perfect plan where a GPU has slots for all of them."""
    one_gpu = np.arange(slots_per_gpu) % num_experts
    return Rows(np.tile(one_gpu, (num_rows, gpus)))


def unless_all_fit(planner: RowPlanner) -> RowPlanner:
    """Make a planner take the perfect plan where a GPU has slots for all experts."""

    @wraps(planner)
    def plan_rows(load: Float, num_slots: int, num_gpus: int) -> Rows:
        num_rows, num_experts = load.shape
        if num_slots // num_gpus >= num_experts:
            return every_expert_everywhere(num_rows, num_experts, num_slots // num_gpus, num_gpus)
        return planner(load, num_slots, num_gpus)

    return plan_rows


def _plan_by_node(problem: Problem, planner: RowPlanner, group_planner: RowPlanner) -> Rows:
    """Pack groups onto nodes, then plan every node on its own (DeepSeek's hierarchical policy)."""
    L, E = problem.load.shape
    cluster, groups = problem.cluster, problem.num_groups
    nodes, size = cluster.num_nodes, E // groups
    group_load = problem.load.reshape(L, groups, size).sum(axis=-1)
    group = group_planner(group_load, groups, nodes).expert
    expert = (group[:, :, None] * size + np.arange(size)).reshape(L, E)
    node_load = np.take_along_axis(problem.load, expert, axis=1).reshape(L * nodes, E // nodes)
    rows = planner(node_load, cluster.num_slots // nodes, cluster.gpus_per_node)
    placed = np.take_along_axis(expert.reshape(L * nodes, E // nodes), rows.expert, axis=1)
    rank = None if rows.rank is None else rows.rank.reshape(L, -1)
    return Rows(placed.reshape(L, -1), rank)


def check_equal_gpus(problem: Problem) -> None:
    """Raise `ValueError` unless every GPU is alive, as fast and as large as the others."""
    cluster = problem.cluster
    if not cluster.gpus_are_equal:
        raise ValueError(
            f"cluster={cluster} has living GPUs of different slots or speed, and this solver plans "
            "for equal ones; use solver 'joint'"
        )
    if problem.topology == "prefer":
        raise ValueError(
            "topology='prefer' is beyond this solver; use solver 'joint', or topology 'strict' or "
            "'ignore'"
        )


def plan(problem: Problem, planner: RowPlanner, group_planner: RowPlanner | None = None) -> Rows:
    """Plan a problem with a planner of rows.

    Parameters
    ----------
    problem : Problem
        Where its groups divide over the nodes, each group stays on one node; else they are ignored.
    planner : callable
        Plans rows on their own.
    group_planner : callable, optional
        Packs groups onto nodes, one slot a group. Default: `planner`.

    Returns
    -------
    Rows
        One row a layer.
    """
    check_equal_gpus(problem)
    if problem.hierarchical:
        return _plan_by_node(problem, planner, group_planner or planner)
    return planner(problem.load, problem.cluster.num_slots, problem.cluster.num_gpus)


def to_placement(problem: Problem, rows: Rows) -> Placement:
    """Make the rows of a problem a placement."""
    return Placement(rows.expert, problem.cluster, problem.num_experts, replica_rank=rows.rank)
