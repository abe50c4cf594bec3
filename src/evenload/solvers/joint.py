"""Replicas and placement chosen together."""

from __future__ import annotations

import numpy as np

from evenload.bounds import balancedness_bound
from evenload.checks import fraction
from evenload.maps import EMPTY
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.effort import check_effort
from evenload.solvers.fleets import GpuArrays, improve, improve_pairs, no_homes, start
from evenload.solvers.homes import home_nodes
from evenload.solvers.iterated_greedy import iterated_greedy
from evenload.solvers.local_search import local_search
from evenload.solvers.never_worse import reached, take_better
from evenload.solvers.rows import Float, Int, Rows
from evenload.solvers.strict import plan_nodes

TRIALS = {"fast": 6, "standard": 170, "thorough": 4000}
CLOSE = 0.9999  # share of the bound at which a layer is left at that


def joint(
    problem: Problem, *, effort: str | int = "standard", target: float | None = None
) -> Placement:
    """Choose replica counts and placement together, so that the last GPU is done soonest.

    Starts from the better of ``"local-search"`` and ``"iterated-greedy"``, and is never worse than
    either in a layer that is not within the target of the bound. Each trial hands a spare replica
    from one expert to another or swaps replicas at random, descends by the best swaps of the last
    GPU, and stays unless that made it worse. With two slots on each of equal GPUs, where the counts
    decide everything, it searches those alone. Strict groups are packed onto nodes by what each set
    of them can reach on a node, exactly where the sets are few. GPUs may differ in slots and speed
    and may be gone.

    Parameters
    ----------
    problem : Problem
    effort : {"fast", "standard", "thorough"} or int, default "standard"
        Trials of one layer: 6, 170, 4000, or a number.
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
    trials = check_effort(effort, TRIALS, "trials")
    close = fraction("target", target) or CLOSE
    if problem.cluster.all_alive:
        expert = _plan(problem, trials, close).expert
        return Placement(expert, problem.cluster, problem.num_experts)
    whole = np.full((problem.num_layers, problem.cluster.num_slots), EMPTY)
    whole[:, problem.cluster.living_slot] = _plan(problem, trials, close).expert
    return Placement(whole, problem.cluster, problem.num_experts)


def _plan(problem: Problem, trials: int, close: float) -> Rows:
    """Plan the living slots of a problem."""
    if problem.hierarchical and len(problem.cluster.living_by_node) > 1:
        return _plan_strict(problem, close, trials)
    gpus = GpuArrays.of(problem.cluster)
    if problem.topology == "prefer":
        return _plan_with_homes(problem, gpus, close, trials)
    if not gpus.alike:
        home = no_homes(problem.load)
        rows = start(problem.load, gpus, home)
        return improve(problem.load, gpus, home, 0.0, rows, _goal(problem, close), trials)
    return _plan_alike(problem, gpus, close, trials)


def _goal(problem: Problem, close: float) -> Float:
    """Time of the last GPU that is good enough, over that of a load divided at will, [L]."""
    return 1.0 / (balancedness_bound(problem, thorough=False) * close)


def _plan_alike(problem: Problem, gpus: GpuArrays, close: float, trials: int) -> Rows:
    """Plan on equal GPUs: only the layers that are not good enough are searched on."""
    slots = gpus.slots[0]
    rows = Rows(_living(problem, local_search(problem)))
    if slots == 1 or slots >= problem.num_experts or len(gpus.slots) == 1:
        return rows
    layers = np.flatnonzero(reached(problem, rows.expert) < close)
    if layers.size == 0:
        return rows
    part = problem.layers(layers)
    goal = _goal(part, close)
    still = np.flatnonzero(reached(part, rows.expert[layers]) * goal < 1.0)
    layers, part, goal = layers[still], part.layers(still), goal[still]
    if layers.size == 0:
        return rows
    expert = rows.expert.copy()
    expert[layers] = _search_alike(part, gpus, Rows(expert[layers]), goal, trials).expert
    return Rows(expert)


def _search_alike(problem: Problem, gpus: GpuArrays, rows: Rows, goal: Float, trials: int) -> Rows:
    if gpus.slots[0] == 2:
        rows, doubtful = improve_pairs(problem.load, rows, goal, trials)
        return _at_least_published(problem, rows, doubtful)
    rows = _at_least_published(problem, rows, np.arange(problem.num_layers))
    after = improve(problem.load, gpus, no_homes(problem.load), 0.0, rows, goal, trials)
    return take_better(problem, after, rows)


def _plan_strict(problem: Problem, close: float, trials: int) -> Rows:
    goal = _goal(problem, close)
    rows = plan_nodes(problem, goal, trials)
    if not _equal_everywhere(problem):
        return rows
    for solver in (local_search, iterated_greedy):
        layers = np.flatnonzero(reached(problem, rows.expert) * goal < 1.0)
        if layers.size:
            part = problem.layers(layers)
            expert = rows.expert.copy()
            other = Rows(_living(part, solver(part)))
            expert[layers] = take_better(part, Rows(expert[layers]), other).expert
            rows = Rows(expert)
    return rows


def _plan_with_homes(problem: Problem, gpus: GpuArrays, close: float, trials: int) -> Rows:
    home = home_nodes(problem)
    rows = start(problem.load, gpus, home)
    goal, price = _goal(problem, close), problem.cross_node_price
    return improve(problem.load, gpus, home, price, rows, goal, trials)


def _equal_everywhere(problem: Problem) -> bool:
    return problem.cluster.gpus_are_equal and problem.cluster.nodes_are_equal


def _living(problem: Problem, placement: Placement) -> Int:
    expert: Int = placement.physical_to_logical[:, problem.cluster.living_slot]
    return expert


def _at_least_published(problem: Problem, rows: Rows, layers: Int) -> Rows:
    """Take ``"iterated-greedy"`` in those of some layers where it is better."""
    if layers.size == 0:
        return rows
    part = problem.layers(layers)
    published = Rows(_living(part, iterated_greedy(part)))
    expert = rows.expert.copy()
    expert[layers] = take_better(part, Rows(expert[layers]), published).expert
    return Rows(expert)
