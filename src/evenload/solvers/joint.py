"""Replicas and placement chosen together."""

from __future__ import annotations

from functools import partial

import numpy as np

from evenload.bounds import balancedness_bound
from evenload.checks import fraction
from evenload.maps import EMPTY
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.effort import check_effort
from evenload.solvers.fleets import GpuArrays, improve, improve_alike, no_homes, start
from evenload.solvers.homes import home_nodes
from evenload.solvers.iterated_greedy import iterated_rows
from evenload.solvers.living import without_dead
from evenload.solvers.local_search import search_rows
from evenload.solvers.never_worse import (
    at_least,
    at_least_greedy_and_bound,
    put_layers,
    reached,
    take_better,
)
from evenload.solvers.rows import Float, Int, Rows, unless_all_fit
from evenload.solvers.strict import plan_nodes

TRIALS = {"fast": 2, "standard": 150, "thorough": 4000}
CLOSE = 0.9999  # share of the bound at which a layer is left at that
SEARCH = partial(search_rows, effort=None)  # as "local-search" does by default


def pack_rows(load: Float, num_slots: int, num_gpus: int) -> Rows:
    return Rows(*iterated_rows(load, num_slots, num_gpus, 5, 1.05, 20, float("inf")))


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
        Trials of one layer: 2, 150, 4000, or a number. A higher level is never worse than a lower
        one (by time and price together, under the topology ``"prefer"``).
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
    strict = problem.keeps_groups
    gpus = GpuArrays.of(problem.cluster)
    if problem.topology == "prefer":
        return _plan_with_homes(problem, gpus, close, trials)
    if gpus.alike and (problem.cluster.nodes_are_equal or not strict):
        return _plan_alike(without_dead(problem), gpus, close, trials)
    if strict:
        return plan_nodes(problem, _goal(problem, close), trials)
    home = no_homes(problem.load)
    rows = start(problem.load, gpus, home)
    return improve(problem.load, gpus, home, 0.0, rows, _goal(problem, close), trials)


def _goal(problem: Problem, close: float) -> Float:
    """Time of the last GPU that is good enough, over that of a load divided at will, [L]."""
    return 1.0 / (balancedness_bound(problem, thorough=False) * close)


def _plan_with_homes(problem: Problem, gpus: GpuArrays, close: float, trials: int) -> Rows:
    home = home_nodes(problem)
    rows = start(problem.load, gpus, home)
    goal, price = _goal(problem, close), problem.cross_node_price
    return improve(problem.load, gpus, home, price, rows, goal, trials)


def _plan_alike(problem: Problem, gpus: GpuArrays, close: float, trials: int) -> Rows:
    """Plan on equal GPUs: only the layers that are not good enough are searched on."""
    rows, bound = at_least_greedy_and_bound(problem, unless_all_fit(SEARCH))
    if _nothing_to_search(problem, gpus):
        return rows
    balance = reached(problem, rows.expert)
    unknown = np.flatnonzero((balance < close) & np.isnan(bound))
    if unknown.size:
        bound[unknown] = balancedness_bound(problem.layers(unknown), thorough=False)
    layers = np.flatnonzero(balance < close * bound)
    if layers.size == 0:
        return rows
    goal = 1.0 / (bound[layers] * close)
    part, begun = problem.layers(layers), Rows(rows.expert[layers])
    search = _search_strict if part.keeps_groups else _search_alike
    return put_layers(rows, layers, search(part, gpus, begun, goal, trials))


def _nothing_to_search(problem: Problem, gpus: GpuArrays) -> bool:
    """Whether one slot a GPU, or every expert on every GPU, leaves nothing to choose."""
    one_way = gpus.slots[0] == 1 or gpus.slots[0] >= problem.num_experts or len(gpus.slots) == 1
    return one_way and not problem.keeps_groups


def _worse_than(problem: Problem, rows: Rows, goal: Float) -> Int:
    """Find the numbers of the layers that are not at their goal."""
    return np.flatnonzero(reached(problem, rows.expert) * goal < 1.0)


def _levels(trials: int) -> list[int]:
    """List an effort and the levels below it, for searches that do not go on where those end."""
    return [level for level in TRIALS.values() if level < trials] + [trials]


def _search_alike(problem: Problem, gpus: GpuArrays, rows: Rows, goal: Float, trials: int) -> Rows:
    if gpus.slots[0] == 2:
        rows, doubtful = _search_pairs(problem, gpus, rows, goal, trials)
        return _at_least_published(problem, rows, doubtful)
    rows = at_least(problem, rows, unless_all_fit(pack_rows))
    after, _ = improve_alike(problem.load, gpus, rows, goal, trials)
    return take_better(problem, after, rows)


def _search_pairs(
    problem: Problem, gpus: GpuArrays, begun: Rows, goal: Float, trials: int
) -> tuple[Rows, Int]:
    rows, doubtful = begun, np.arange(problem.num_layers)
    for part in _levels(trials):
        after, doubt = improve_alike(problem.load, gpus, begun, goal, part)
        rows, doubtful = take_better(problem, after, rows), np.intersect1d(doubtful, doubt)
    return rows, doubtful


def _search_strict(problem: Problem, _: GpuArrays, begun: Rows, goal: Float, trials: int) -> Rows:
    rows = begun
    for part in _levels(trials):
        rows = take_better(problem, plan_nodes(problem, goal, part, begun), rows)
    return _at_least_published(problem, rows, _worse_than(problem, rows, goal))


def _at_least_published(problem: Problem, rows: Rows, layers: Int) -> Rows:
    """Take `"iterated-greedy"` in those of some layers where it is better."""
    if layers.size == 0:
        return rows
    part, begun = problem.layers(layers), Rows(rows.expert[layers])
    return put_layers(rows, layers, at_least(part, begun, unless_all_fit(pack_rows)))
