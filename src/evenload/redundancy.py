"""How many redundant experts a wanted balance needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from evenload.bounds import balancedness_bound
from evenload.checks import positive_real
from evenload.cluster import Cluster
from evenload.plan import Plan
from evenload.planner import solve
from evenload.problem import CROSS_NODE_PRICE, Problem, check_load

ROUNDING = 1e-12  # of a balancedness: GPUs that all hold every expert may differ by that


@dataclass(frozen=True)
class Point:
    """What one number of slots reaches.

    Parameters
    ----------
    num_slots : int
        Slots of a layer.
    balancedness, bound : float
        Means over layers of what the plan reaches, and of what any could that shares an expert's
        tokens evenly among its replicas.
    """

    num_slots: int
    balancedness: float
    bound: float


@dataclass(frozen=True, eq=False)
class Redundancy:
    """The smallest number of slots that reaches a wanted balancedness.

    Parameters
    ----------
    wanted : float
        Mean over layers that was asked for.
    plan : Plan
        The first that reaches it.
    curve : tuple of Point
        Every number of slots tried, ascending; the last one is the plan's.
    """

    wanted: float
    plan: Plan
    curve: tuple[Point, ...]


def _check_wanted(wanted: Any) -> float:
    number = positive_real("wanted", wanted)
    if number > 1.0:
        raise ValueError(f"wanted={number} is more than a balancedness can be; use 1.0 or less")
    return number


def _most_slots_per_gpu(problem: Problem) -> int:
    """Slots of a GPU that hold every expert it may have; more would be duplicates."""
    return problem.num_experts // (problem.cluster.num_nodes if problem.hierarchical else 1)


def _check_reachable(problem: Problem, wanted: float) -> None:
    """Raise `ValueError` if whole groups on nodes rule `wanted` out, whatever the slots.

    With a slot for every expert a node's GPUs share its load at will, so that what is left is how
    the groups are dealt out.
    """
    cluster = problem.cluster
    most = Cluster(cluster.num_gpus, cluster.num_nodes, _most_slots_per_gpu(problem))
    limit = float(balancedness_bound(replace(problem, cluster=most), thorough=False).mean())
    if limit < wanted * (1.0 - ROUNDING):
        raise ValueError(
            f"wanted={wanted}: no number of slots reaches that with topology 'strict', under which "
            f"the balancedness is at most {math.ceil(limit * 1e5) / 1e5}, mean over layers; use "
            f"{math.floor(limit * 1e3) / 1e3:g} or less, or topology 'prefer' or 'ignore'"
        )


def smallest_redundancy(
    load: Any,
    num_gpus: int,
    num_nodes: int = 1,
    *,
    wanted: float = 0.99,
    num_groups: int = 1,
    topology: str | None = None,
    cross_node_price: float = CROSS_NODE_PRICE,
    solver: str = "auto",
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Redundancy:
    """Find the fewest slots a GPU with which the mean balancedness is at least `wanted`.

    Engines give every GPU equally many slots, so the numbers tried are multiples of `num_gpus`,
    from the fewest that hold every expert up to those that hold every expert on every GPU, or under
    the topology ``"strict"`` on every GPU of its node; more would be duplicates.

    Parameters
    ----------
    load : array_like or torch.Tensor, [L, E] or [E]
        Tokens routed to each expert.
    num_gpus, num_nodes : int
    wanted : float, default 0.99
        Mean balancedness over layers, in (0, 1].
    num_groups, topology, cross_node_price, solver, **options
        As `evenload.solve`.
    say : callable, optional
        Told what is being tried.

    Raises
    ------
    ValueError
        For a balancedness outside (0, 1], or one that no number of slots reaches: under the
        topology ``"strict"``, or with a solver that wastes slots; and as `evenload.solve`.
    """
    target = _check_wanted(wanted)
    num_experts = check_load(load)[0].shape[1]
    cluster = Cluster.smallest_for(num_experts, num_gpus, num_nodes)
    problem = Problem.build(load, cluster, num_groups, topology, cross_node_price)
    if problem.hierarchical:
        _check_reachable(problem, target)
    most = _most_slots_per_gpu(problem)
    how: dict[str, Any] = {
        "num_groups": num_groups,
        "topology": topology,
        "cross_node_price": cross_node_price,
        "solver": solver,
        **options,
    }
    curve: list[Point] = []
    for each in range(cluster.slots_per_gpu, max(cluster.slots_per_gpu, most) + 1):
        cluster = Cluster(num_gpus, num_nodes, each)
        say(_progress(cluster, curve))
        plan = solve(load, cluster, **how)
        curve.append(_point(plan))
        if curve[-1].balancedness >= target * (1.0 - ROUNDING):
            return Redundancy(target, plan, tuple(curve))
    raise _never_reached(target, plan, curve)


def _never_reached(wanted: float, plan: Plan, curve: list[Point]) -> ValueError:
    best = max(point.balancedness for point in curve)
    strict = plan.problem.hierarchical
    return ValueError(
        f"wanted={wanted}: {plan.solver} reached it with none of {curve[0].num_slots} to "
        f"{curve[-1].num_slots} slots, and more would be duplicates; use "
        f"{math.floor(best * 1e5) / 1e5} or less, or "
        + ("topology 'prefer' or 'ignore'" if strict else "solver 'auto'")
    )


def _point(plan: Plan) -> Point:
    num_slots = plan.placement.num_slots
    return Point(num_slots, float(plan.balancedness.mean()), float(plan.bound.mean()))


def _progress(cluster: Cluster, curve: list[Point]) -> str:
    if not curve:
        return f"{cluster.num_slots} slots"
    last = curve[-1]
    return f"{cluster.num_slots} slots ({last.num_slots}: {last.balancedness:.4f})"
