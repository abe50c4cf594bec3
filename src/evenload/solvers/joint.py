"""Replicas and placement chosen together."""

from __future__ import annotations

import numpy as np

from evenload.bounds import balancedness_bound
from evenload.checks import fraction
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.by_node import (
    better_of_layers,
    plan_at_least,
    plan_by_node,
    tighten,
    to_placement,
)
from evenload.solvers.greedy import greedy_rows
from evenload.solvers.groups import home_nodes, plan_groups
from evenload.solvers.local_search import local_rows
from evenload.solvers.search import CLOSE, TRIALS, Placed, check_effort, place, search

NEAR = 0.999  # share of the bound from which a layer is not worth the greedy plan


def joint(
    problem: Problem, *, effort: str | int = "standard", target: float | None = None
) -> Placement:
    """Choose replica counts and placement together, to make the slowest GPU fastest.

    Starts from the greedy's counts and packing, swaps, exchanges two for two, and goes on from
    there: each trial hands a spare replica from one expert to another or swaps replicas at random,
    descends by the best swaps of the slowest GPU, and is kept unless that made it worse. With two
    slots on each of equal GPUs, where the counts decide everything, it searches those alone. Strict
    groups are packed onto nodes by what each set of them can reach on a node, exactly where the
    sets are few. GPUs may differ in slots and speed and may be gone. A layer that is not within
    0.1 % of the bound is never worse than by ``"greedy"``, unless that has more duplicates, or
    experts have to survive, which greedy plans do not see to.

    Parameters
    ----------
    problem : Problem
    effort : {"fast", "standard", "thorough"} or int, default "standard"
        Trials of one layer: 4, 180, 4000, or a number; times (64 / S)**2 where the slots S are
        fewer. A higher level is never worse than a lower one (by time and price together, under the
        topology ``"prefer"``).
    target : float, optional
        Share of the bound in (0, 1] at which a layer is good enough. Default: 0.9999.

    Returns
    -------
    Placement
        No expert twice on one GPU where that can be avoided.

    Raises
    ------
    ValueError
        For an unknown effort, or a target outside (0, 1].
    """
    trials = check_effort(effort, TRIALS)
    close = fraction("target", target) or CLOSE
    cluster, load = problem.cluster, problem.load
    if problem.topology == "prefer":
        home, price = home_nodes(problem), problem.cross_node_price
        placed = place(load, cluster, trials=trials, close=close, home=home, away_price=price)
        return to_placement(problem, placed.expert)
    if not problem.keeps_groups:
        return _at_least_greedy(
            problem, search(load, cluster, trials, close=close, apart=problem.apart)
        )
    if problem.survive or not (cluster.gpus_are_equal and cluster.nodes_are_equal):
        bound = balancedness_bound(problem, thorough=False)
        return to_placement(problem, plan_groups(problem, trials, close, 1.0 / bound).expert)
    begun, bound = plan_at_least(problem, local_rows, greedy_rows)
    reached = begun.evaluate(load)[1]
    tighten(problem, bound, reached < close)
    layers = np.flatnonzero(reached < close * bound)
    if layers.size == 0:
        return begun
    part = problem.layers(layers)
    placed = plan_groups(part, trials, close, 1.0 / bound[layers])
    return better_of_layers(problem, begun, layers, to_placement(part, placed.expert))


def _at_least_greedy(problem: Problem, placed: Placed) -> Placement:
    """Take the greedy plan in those layers where it is better, on equal GPUs."""
    found = to_placement(problem, placed.expert)
    layers = np.flatnonzero(placed.time * NEAR > placed.bound)
    if layers.size == 0 or problem.survive or not problem.cluster.gpus_are_equal:
        return found
    greedy = plan_by_node(problem.layers(layers), greedy_rows)
    return better_of_layers(problem, found, layers, greedy)
