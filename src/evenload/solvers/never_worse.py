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


def _reached(problem: Problem, expert: Int) -> Float:
    count = count_replicas(expert, problem.num_experts)
    return balancedness(gpu_load(problem.load, expert, count, problem.cluster.num_gpus))


def _layers_to_check(problem: Problem, reached: Float) -> Int:
    suspects = np.flatnonzero(reached < NEAR)
    if suspects.size == 0:
        return suspects
    bound = balancedness_bound(problem.layers(suspects))
    return suspects[reached[suspects] < NEAR * bound]


def _take_better(problem: Problem, rows: Rows, other: Rows) -> Rows:
    """Take each layer from `other` where it is better balanced and has no more duplicates."""
    E, G = problem.num_experts, problem.cluster.num_gpus
    # Beyond rounding: which of two equal plans adds up to more differs with the scale of the load.
    better = (
        _reached(problem, other.expert) > _reached(problem, rows.expert) * BEYOND_ROUNDING
    ) & (duplicates(other.expert, E, G) <= duplicates(rows.expert, E, G))
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
    layers = _layers_to_check(problem, _reached(problem, rows.expert))
    if layers.size == 0:
        return rows
    part = problem.layers(layers)
    best = Rows(rows.expert[layers])
    if problem.hierarchical:
        best = _take_better(part, best, plan(part, planner, greedy_rows))
    best = _take_better(part, best, plan(part, greedy_rows))
    expert = rows.expert.copy()
    expert[layers] = best.expert
    return Rows(expert)
