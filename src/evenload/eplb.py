"""DeepSeek EPLB's module, name for name: ``import evenload.eplb as eplb`` is the whole migration.

The interface is that of deepseek-ai/EPLB (2025): same arguments, shapes, int64 results and padding
with -1. The plans are better, and arrays as well as tensors are taken, on any device.
"""

from typing import Any

from evenload.arrays import check_weights, to_float32, to_numpy
from evenload.checks import multiple, positive_int
from evenload.cluster import Cluster
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

    An illegal load and numbers that do not divide are a `ValueError`.

    Parameters
    ----------
    weight : array_like or torch.Tensor, [L, E]
        Load of each logical expert.
    num_replicas : int
        Physical experts S of a layer; a multiple of `num_gpus`, at least E.
    num_groups : int
        Groups of experts. If they divide over the nodes, each stays on one node; else the policy is
        global.
    num_nodes, num_gpus : int
        `num_gpus` is a multiple of `num_nodes`.
    solver : str, default "auto"
        Solver by name; ``"greedy"`` gives DeepSeek's own plan, to the slot.

    Returns
    -------
    physical_to_logical, logical_to_physical, expert_count : int64
        As `Placement` has them: [L, S], [L, E, X], and the replicas of each expert, [L, E].
    """
    gpus = positive_int("num_gpus", num_gpus)
    multiple("num_replicas", positive_int("num_replicas", num_replicas), "num_gpus", gpus)
    cluster = Cluster(gpus, num_nodes, num_slots=num_replicas)
    groups = positive_int("num_groups", num_groups)
    if groups % cluster.num_nodes:
        groups = 1  # as published: the global policy does not look at groups
    problem = Problem.build(
        weight, cluster, groups, load_name="weight", slots_name="num_replicas", slots_step=gpus
    )
    p = solve_problem(problem, solver).placement.rewrapped(lambda part: problem.rewrap(part.copy()))
    return p.physical_to_logical, p.logical_to_physical, p.replica_count


def replicate_experts(weight: Any, num_phy: int) -> tuple[Any, Any, Any]:
    """Hand out replicas one by one to the expert whose share is largest, as DeepSeek's EPLB does.

    Parameters
    ----------
    weight : array_like or torch.Tensor, [X, E]
        Load of each logical expert; a `ValueError` if illegal.
    num_phy : int
        Physical experts S, at least E.

    Returns
    -------
    phy2log, rank : int64, [X, S]
        Logical expert of each physical one (the first E are one of each), and which replica of it.
    logcnt : int64, [X, E]
        Replicas of each expert.
    """
    from evenload.solvers.greedy import replicate

    array, rewrap = to_numpy("weight", weight)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"weight has shape {array.shape}; use [rows, experts], at least 1 of each")
    slots = positive_int("num_phy", num_phy)
    num_experts = array.shape[1]
    if slots < num_experts:
        raise ValueError(
            f"num_phy={slots} is fewer than the {num_experts} experts; use {num_experts} or more"
        )
    expert, rank, count = replicate(to_float32(check_weights("weight", array)), slots)
    return rewrap(expert), rewrap(rank), rewrap(count)
