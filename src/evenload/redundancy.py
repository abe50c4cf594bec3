"""How many redundant experts a wanted balance needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from evenload import solve
from evenload.arrays import check_load
from evenload.bounds import balancedness_bound
from evenload.checks import positive_int, positive_real
from evenload.clock import Stopwatch
from evenload.cluster import Cluster
from evenload.plan import Plan
from evenload.problem import CROSS_NODE_PRICE, Problem

ALL_OF_THE_FIRST = 16  # numbers that are tested one by one
ROUNDING = 1e-12  # of a balancedness: GPUs that all hold every expert may differ by that


@dataclass(frozen=True)
class Point:
    """What one number of slots reaches."""

    num_slots: int  #: of a layer
    balancedness: float  #: mean over layers
    bound: float  #: the same of any plan that shares an expert's tokens evenly


@dataclass(frozen=True, eq=False)
class Redundancy:
    """The smallest number of slots that reaches a wanted balancedness."""

    wanted: float  #: mean over layers that was asked for
    plan: Plan  #: the smallest that reaches it
    curve: tuple[Point, ...]  #: the numbers of slots tried up to the plan's, ascending
    num_tried: int  #: larger ones included
    plan_seconds: float = math.nan  #: of this plan, by the clock; nothing else depends on it


def smallest_redundancy(
    load: Any,
    num_gpus: int,
    num_nodes: int = 1,
    *,
    wanted: float = 0.99,
    num_groups: int = 1,
    topology: str | None = None,
    cross_node_price: float = CROSS_NODE_PRICE,
    dispatch: str = "even",
    live_share: float = 1.0,
    tokens_from: Any = None,
    survive: str | None = None,
    survive_count: int = 1,
    solver: str = "auto",
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Redundancy:
    """Find the fewest slots a GPU with which the mean balancedness of layers is at least `wanted`.

    Engines give every GPU equally many slots, so the numbers tried are multiples of `num_gpus`,
    from the fewest that hold every expert up to those that hold every expert on every GPU, or under
    the topology ``"strict"`` on every GPU of its node; more would be duplicates.

    The 16 smallest are tried one by one, of the others only some, see `smallest_passing`: balance
    rises with the slots but for small ups and downs of the search, so a smaller number that happens
    to reach `wanted` may be passed over there. Nothing is refused as out of reach before all were
    tried; what no number reaches, under ``"strict"`` or with a solver that wastes slots, is a
    `ValueError`.

    The load is [L, E] or [E], `wanted` in (0, 1], and `say` is told what is being tried; all others
    are as for `Cluster` and `evenload.solve`.
    """
    target = positive_real("wanted", wanted)
    if target > 1.0:
        raise ValueError(f"wanted={target} is more than a balancedness can be; use 1.0 or less")
    if options.get("expert_time") is not None:
        raise ValueError(
            f"expert_time with wanted={target:g}: slots are looked for by balancedness, which "
            "plans by time do not raise; leave expert_time out"
        )
    num_experts = check_load(load)[0].shape[1]
    copies = 1 if survive is None else 1 + positive_int("survive_count", survive_count)
    fewest = Cluster.smallest_for(copies * num_experts, num_gpus, num_nodes)
    how = {"dispatch": dispatch, "live_share": live_share, "tokens_from": tokens_from}
    how |= {"survive": survive, "survive_count": survive_count}
    problem = Problem.build(load, fewest, num_groups, topology, cross_node_price, **how)
    # A GPU with more slots than experts that it may have holds duplicates.
    most = num_experts // (fewest.num_nodes if problem.hierarchical else 1)
    if problem.hierarchical:
        # With a slot for every expert, only how the groups are dealt out is left.
        full = replace(problem, cluster=Cluster(num_gpus, num_nodes, most))
        limit = float(balancedness_bound(full, thorough=False).mean())
        if limit < target * (1.0 - ROUNDING):
            raise ValueError(
                f"wanted={target}: no number of slots reaches that with topology 'strict', under "
                f"which the balancedness is at most {math.ceil(limit * 1e5) / 1e5}, mean over "
                f"layers; use {math.floor(limit * 1e3) / 1e3:g} or less, or topology 'prefer' or "
                "'ignore'"
            )
    options |= {"num_groups": num_groups, "topology": topology, "solver": solver} | how
    points: dict[int, Point] = {}
    reached: tuple[Plan, float] | None = None  # the last plan that does, and its seconds
    name = ""

    def reaches(slots_per_gpu: int) -> bool:
        nonlocal reached, name
        cluster = Cluster(num_gpus, num_nodes, slots_per_gpu)
        last = next(reversed(points.values()), None)
        before = f" ({last.num_slots}: {last.balancedness:.4f})" if last else ""
        say(f"{cluster.num_slots} slots{before}")
        with Stopwatch() as watch:
            plan = solve(load, cluster, cross_node_price=cross_node_price, **options)
        name, means = plan.solver, (float(plan.balancedness.mean()), float(plan.bound.mean()))
        point = points[cluster.num_slots] = Point(cluster.num_slots, *means)
        if point.balancedness < target * (1.0 - ROUNDING):
            return False
        reached = plan, watch.seconds
        return True

    found = smallest_passing(reaches, fewest.slots_per_gpu, max(fewest.slots_per_gpu, most))
    if found is None or reached is None:
        best = max(point.balancedness for point in points.values())
        other = "topology 'prefer' or 'ignore'" if problem.hierarchical else "solver 'auto'"
        raise ValueError(
            f"wanted={target}: {name} reached it with none of {min(points)} to {max(points)} "
            f"slots, and more would be duplicates; use {math.floor(best * 1e5) / 1e5} or less, or "
            f"{other}"
        )
    curve = tuple(points[n] for n in sorted(points) if n <= found * num_gpus)
    return Redundancy(target, reached[0], curve, len(points), reached[1])


def smallest_passing(passes: Callable[[int], bool], first: int, last: int) -> int | None:
    """Return the smallest number from `first` to `last` that passes, None if none does.

    The first 16 are tested one by one. Beyond, steps double until a number passes, and the interval
    since the last one that failed is halved (Bentley and Yao 1976): numbers between two that fail
    are taken to fail too. Where the largest fails, nothing is taken for granted and all the rest
    are tested, none twice.
    """
    test = cache(passes)
    for number in range(first, min(first + ALL_OF_THE_FIRST, last + 1)):
        if test(number):
            return number
    failed, step = number, 1
    while failed < last:
        passed = min(failed + step, last)
        if test(passed):
            while passed - failed > 1:
                middle = (failed + passed) // 2
                failed, passed = (failed, middle) if test(middle) else (middle, passed)
            return passed
        failed, step = passed, 2 * step
    return next((number for number in range(first, last) if test(number)), None)
