"""A costlier plan gives way to the greedy one where that happens to be better."""

from __future__ import annotations

import numpy as np

from evenload.bounds import balancedness_bound
from evenload.kernels.evaluate import balancedness, count_replicas, duplicates, gpu_load
from evenload.problem import Problem
from evenload.solvers.greedy import greedy_rows
from evenload.solvers.rows import Float, Int, RowPlanner, Rows, plan

NEAR = 0.999  # share of the bound from which a layer is not worth a second plan
BEYOND_ROUNDING = 1.0 + 1e-12


def reached(problem: Problem, expert: Int) -> Float:
    """Return the balancedness of each layer of rows that fill the living slots."""
    rows = np.ascontiguousarray(expert)  # kernels are compiled for that layout only
    count = count_replicas(rows, problem.num_experts)
    cluster = problem.cluster.living
    return balancedness(gpu_load(problem.load, rows, count, cluster.first_slot), cluster.capacity)


def _duplicates(problem: Problem, expert: Int) -> Int:
    rows, first_slot = np.ascontiguousarray(expert), problem.cluster.living.first_slot
    return duplicates(rows, problem.num_experts, first_slot)


def _layers_to_check(problem: Problem, balance: Float) -> Int:
    suspects = np.flatnonzero(balance < NEAR)
    if suspects.size == 0:
        return suspects
    bound = balancedness_bound(problem.layers(suspects), thorough=False)
    return suspects[balance[suspects] < NEAR * bound]


def take_better(problem: Problem, rows: Rows, other: Rows) -> Rows:
    """Take each layer from `other` where it is better balanced and has no more duplicates."""
    # Beyond rounding: which of two equal plans adds up to more differs with the scale of the load.
    better = (reached(problem, other.expert) > reached(problem, rows.expert) * BEYOND_ROUNDING) & (
        _duplicates(problem, other.expert) <= _duplicates(problem, rows.expert)
    )
    return Rows(np.where(better[:, None], other.expert, rows.expert))


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
    rows = plan(problem, planner)
    layers = _layers_to_check(problem, reached(problem, rows.expert))
    if layers.size == 0:
        return rows
    part = problem.layers(layers)
    best = Rows(rows.expert[layers])
    if problem.hierarchical:
        best = take_better(part, best, plan(part, planner, greedy_rows))
    best = take_better(part, best, plan(part, greedy_rows))
    expert = rows.expert.copy()
    expert[layers] = best.expert
    return Rows(expert)
