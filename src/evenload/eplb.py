"""DeepSeek EPLB's module, name for name: ``import evenload.eplb as eplb`` is the whole migration.

The interface is that of deepseek-ai/EPLB (2025): same arguments, shapes, int64 results and padding
with -1. The plans are better, and arrays as well as tensors are taken, on any device.
"""

from typing import Any

from evenload.arrays import check_weights, to_float32, to_numpy
from evenload.checks import multiple, positive_int, whole_number
from evenload.cluster import MOST_SLOTS, Cluster
from evenload.packing import balanced_packing
from evenload.planner import solve_problem
from evenload.problem import Problem

__all__ = ["balanced_packing", "rebalance_experts", "replicate_experts"]


def rebalance_experts(
    weight: Any,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    solver: str = "auto",
) -> tuple[Any, Any, Any]:
    """Plan replicas and placement for the load of every layer.

    `weight` [L, E], an array or a tensor, is the load of each logical expert, and `num_replicas`
    the physical experts S of a layer, at least E and a multiple of `num_gpus`. Each group stays on
    one node if `num_groups` divides over the nodes, and `num_gpus` has to as well; else the policy
    is global and looks at neither, as published. The solver ``"greedy"`` gives DeepSeek's own plan,
    to the slot.

    Returns int64 ``physical_to_logical`` [L, S] and ``logical_to_physical`` [L, E, X], as a
    `Placement` has them, and ``expert_count`` [L, E], the replicas of each expert. An illegal load
    and numbers that do not divide are a `ValueError`.
    """
    gpus = positive_int("num_gpus", num_gpus)
    slots = whole_number("num_replicas", num_replicas, 1, MOST_SLOTS)
    multiple("num_replicas", slots, "num_gpus", gpus)
    groups, nodes = positive_int("num_groups", num_groups), positive_int("num_nodes", num_nodes)
    if groups % nodes:
        groups = nodes = 1
    cluster = Cluster(gpus, nodes, num_slots=slots)
    problem = Problem.build(
        weight, cluster, groups, load_name="weight", slots_name="num_replicas", slots_step=gpus
    )
    p = solve_problem(problem, solver).placement.rewrapped(lambda part: problem.rewrap(part.copy()))
    return p.physical_to_logical, p.logical_to_physical, p.replica_count


def replicate_experts(weight: Any, num_phy: int) -> tuple[Any, Any, Any]:
    """Hand out replicas one by one to the expert whose share is largest, as DeepSeek's EPLB does.

    `weight` [X, E], an array or a tensor, is the load of each logical expert (a `ValueError` if
    illegal), and `num_phy` the physical experts S, at least E. Returns int64 ``phy2log`` [X, S],
    the logical expert of each physical one (the first E are one of each), ``rank`` [X, S], which
    replica of it that is, and ``logcnt`` [X, E], the replicas of each expert.
    """
    from evenload.solvers.greedy import replicate

    array, rewrap = to_numpy("weight", weight)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"weight has shape {array.shape}; use [rows, experts], at least 1 of each")
    slots = whole_number("num_phy", num_phy, 1, MOST_SLOTS)
    num_experts = array.shape[1]
    if slots < num_experts:
        raise ValueError(
            f"num_phy={slots} is fewer than the {num_experts} experts; use {num_experts} or more"
        )
    expert, rank, count = replicate(to_float32(check_weights("weight", array)), slots)
    return rewrap(expert), rewrap(rank), rewrap(count)
