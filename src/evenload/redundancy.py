"""How many redundant experts a wanted balance needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from evenload.checks import fraction
from evenload.cluster import Cluster
from evenload.plan import Plan
from evenload.planner import solve_problem
from evenload.problem import CROSS_NODE_PRICE, Problem, check_load


@dataclass(frozen=True)
class Point:
    """What one number of slots reaches.

    Parameters
    ----------
    num_slots : int
        Slots of a layer.
    balancedness, bound : float
        Means over layers of what the plan reaches, and of what any could.
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
    from the fewest that hold every expert up. It always ends: with a slot for every expert, each
    GPU is as busy as the others.

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
        For a balancedness outside (0, 1], and as `evenload.solve`.
    """
    target = fraction("wanted", wanted)
    if target is None:
        raise ValueError("wanted=None is no balancedness; use a number in (0, 1], e.g. 0.99")
    checked, _ = check_load(load)
    cluster = Cluster.smallest_for(checked.shape[1], num_gpus, num_nodes)
    curve = []
    while True:
        say(f"{cluster.num_slots} slots")
        problem = Problem.build(load, cluster, num_groups, topology, cross_node_price)
        plan = solve_problem(problem, solver, **options)
        reached = float(plan.balancedness.mean())
        curve.append(Point(cluster.num_slots, reached, float(plan.bound.mean())))
        if reached >= target or cluster.slots_per_gpu >= checked.shape[1]:
            return Redundancy(target, plan, tuple(curve))
        cluster = Cluster(num_gpus, num_nodes, cluster.slots_per_gpu + 1)
