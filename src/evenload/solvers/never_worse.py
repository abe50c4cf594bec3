"""A costlier plan gives way to the greedy one where that happens to be better."""

from __future__ import annotations

import numpy as np

from evenload.bounds import balancedness_bound
from evenload.kernels.evaluate import balancedness, count_replicas, duplicates, gpu_load
from evenload.problem import Problem
from evenload.solvers import greedy
from evenload.solvers.rows import Float, Int, RowPlanner, Rows, plan

NEAR = 0.999  # share of the bound from which a layer is not worth a second plan
BEYOND_ROUNDING = 1.0 + 1e-12


def greedy_rows(load: Float, num_slots: int, num_gpus: int) -> Rows:
    return Rows(*greedy.greedy_rows(load, num_slots, num_gpus))


def reached(problem: Problem, expert: Int) -> Float:
    """Return the balancedness of each layer of rows that fill the living slots."""
    rows = np.ascontiguousarray(expert)  # kernels are compiled for that layout only
    count = count_replicas(rows, problem.num_experts)
    cluster = problem.cluster.living
    return balancedness(gpu_load(problem.load, rows, count, cluster.first_slot), cluster.capacity)


def _duplicates(problem: Problem, expert: Int) -> Int:
    rows, first_slot = np.ascontiguousarray(expert), problem.cluster.living.first_slot
    return duplicates(rows, problem.num_experts, first_slot)


def take_better(problem: Problem, rows: Rows, other: Rows) -> Rows:
    """Take each layer from `other` where it is better balanced and has no more duplicates."""
    # Beyond rounding: which of two equal plans adds up to more differs with the scale of the load.
    ours, theirs = reached(problem, rows.expert), reached(problem, other.expert)
    layers = np.flatnonzero(theirs > ours * BEYOND_ROUNDING)
    if layers.size == 0:
        return rows
    old, new = rows.expert[layers], other.expert[layers]
    allowed = _duplicates(problem, new) <= _duplicates(problem, old)
    return put_layers(rows, layers[allowed], Rows(new[allowed]))


def at_least_greedy(problem: Problem, planner: RowPlanner) -> Rows:
    """Plan with `planner`, but never worse than DeepSeek's greedy.

    Searching alone cannot promise that: the greedy rounds elsewhere, and packs groups onto nodes
    differently, where a better packing of their sums may leave a hot expert less room. So layers
    that are not within 0.1 % of the bound are planned again, from the greedy's groups on each node
    and by the greedy itself.

    Parameters
    ----------
    problem : Problem
    planner : callable
        Plans rows on their own.

    Returns
    -------
    Rows
        In every layer at least as balanced as the greedy plan if that has no more duplicates, or
        within 0.1 % of the bound.
    """
    return at_least_greedy_and_bound(problem, planner)[0]


def at_least_greedy_and_bound(problem: Problem, planner: RowPlanner) -> tuple[Rows, Float]:
    """Do what `at_least_greedy` does, and return the bound too where it was needed.

    Returns
    -------
    Rows
    float64 ndarray, [L]
        Bound by the quick arguments; not a number for layers above 0.999 at once.
    """
    rows = plan(problem, planner)
    balance, bound = reached(problem, rows.expert), np.full(problem.num_layers, np.nan)
    suspects = np.flatnonzero(balance < NEAR)
    if suspects.size == 0:
        return rows, bound
    bound[suspects] = balancedness_bound(problem.layers(suspects), thorough=False)
    layers = suspects[balance[suspects] < NEAR * bound[suspects]]
    if layers.size == 0:
        return rows, bound
    part = problem.layers(layers)
    best = _from_greedy_groups(part, Rows(rows.expert[layers]), planner)
    best = take_better(part, best, plan(part, greedy_rows))
    return put_layers(rows, layers, best), bound


def at_least(problem: Problem, rows: Rows, planner: RowPlanner) -> Rows:
    """Take the layers where `planner` is better, from its own groups on each node or the greedy's.

    Where `rows` are at least as good as the greedy, the result is at least as good as
    `at_least_greedy` makes the planner.
    """
    better = take_better(problem, rows, plan(problem, planner))
    return _from_greedy_groups(problem, better, planner)


def _from_greedy_groups(problem: Problem, rows: Rows, planner: RowPlanner) -> Rows:
    if not problem.keeps_groups:
        return rows
    return take_better(problem, rows, plan(problem, planner, greedy_rows))


def put_layers(rows: Rows, layers: Int, part: Rows) -> Rows:
    """Return rows of which some layers are replaced."""
    expert = rows.expert.copy()
    expert[layers] = part.expert
    return Rows(expert)
