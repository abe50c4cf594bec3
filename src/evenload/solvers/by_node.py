"""For solvers that plan rows of experts on equal GPUs: a row is a layer, or what a node has of one.

GPUs that are gone are left out, and where groups stay on one node each, they are packed onto nodes
first and every node is planned on its own (DeepSeek's hierarchical policy).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload.bounds import balancedness_bound
from evenload.maps import EMPTY
from evenload.placement import Placement
from evenload.problem import Problem

Int: TypeAlias = NDArray[np.int64]
Float: TypeAlias = NDArray[np.float64]

Rows: TypeAlias = tuple[Int, Int | None]
"""Expert in each slot, int64 [X, S], and which replica of it that is, where the planner says it."""

RowPlanner: TypeAlias = Callable[[Float, int, int], Rows]
"""``plan(load [X, E], num_slots, num_gpus) -> Rows``, every row on its own."""

NEAR = 0.999  # share of the bound from which a layer is not worth a second plan
BEYOND_ROUNDING = 1.0 + 1e-12


def plan_by_node(
    problem: Problem, planner: RowPlanner, group_planner: RowPlanner | None = None
) -> Placement:
    """Place a problem's experts with a planner of rows.

    Parameters
    ----------
    problem : Problem
        Where it is hierarchical, each group stays on one node; else groups are ignored.
    planner : callable
        Plans rows on their own.
    group_planner : callable, optional
        Packs groups onto nodes, one slot a group. Default: `planner`.

    Raises
    ------
    ValueError
        If living GPUs differ in slots or speed, groups stay on nodes that differ in living GPUs, or
        the topology is ``"prefer"``, or experts have to survive.
    """
    cluster, load = problem.cluster, problem.load
    if problem.hierarchical and not cluster.nodes_are_equal:
        raise ValueError(
            f"cluster={cluster} has nodes with different numbers of living GPUs, and this solver "
            "keeps groups on equal nodes only; use solver 'joint', or topology 'ignore'"
        )
    if not cluster.gpus_are_equal:
        raise ValueError(
            f"cluster={cluster} has living GPUs of different slots or speed, and this solver plans "
            "for equal ones; use solver 'joint'"
        )
    if problem.topology == "prefer":
        raise ValueError(
            "topology='prefer' is beyond this solver; use solver 'joint', or topology 'strict' or "
            "'ignore'"
        )
    if problem.survive is not None:
        raise ValueError(
            f"survive={problem.survive[0]!r} is beyond this solver; use solver 'auto', 'joint' or "
            "'incremental'"
        )
    (L, E), slots, gpus = load.shape, cluster.num_living_slots, len(cluster.living_gpus)
    if problem.hierarchical:
        nodes, size = len(cluster.living_by_node), E // problem.num_groups
        group_load = load.reshape(L, -1, size).sum(axis=-1)
        group = (group_planner or planner)(group_load, problem.num_groups, nodes)[0]
        own = (group[:, :, None] * size + np.arange(size)).reshape(L, E)
        load = np.take_along_axis(load, own, axis=1).reshape(L * nodes, -1)
        expert, rank = planner(load, slots // nodes, gpus // nodes)
        expert = np.take_along_axis(own.reshape(L * nodes, -1), expert, axis=1)
    else:
        expert, rank = planner(load, slots, gpus)
    return to_placement(problem, expert, rank)


def to_placement(problem: Problem, expert: Int, rank: Int | None = None) -> Placement:
    """Make what living slots hold, layer by layer, a placement of a problem."""

    def whole(living: Int) -> Int:
        living = living.reshape(problem.num_layers, -1)
        if problem.cluster.all_alive:
            return living
        rows = np.full((problem.num_layers, problem.cluster.num_slots), EMPTY)
        rows[:, problem.cluster.living_slot] = living
        return rows

    rank = None if rank is None else whole(rank)
    return Placement(whole(expert), problem.cluster, problem.num_experts, replica_rank=rank)


def plan_at_least(
    problem: Problem, planner: RowPlanner, simple: RowPlanner
) -> tuple[Placement, Float]:
    """Place a problem's experts with a planner of rows, but never worse than a simpler one does.

    A search alone cannot promise that: the other rounds elsewhere, and packs groups onto nodes
    differently, where a better packing of their sums may leave a hot expert less room. So layers
    that are not within 0.1 % of the bound are planned again, with the other's groups on each node
    and by the other itself.

    Parameters
    ----------
    problem : Problem
    planner, simple : callable

    Returns
    -------
    placed : Placement
        In every layer at least as balanced as the simple plan if that has no more duplicates, or
        within 0.1 % of the bound.
    bound : float64 ndarray, [L]
        Of the balancedness; 1 where it was not needed.
    """
    placed = plan_by_node(problem, planner)
    reached, bound = placed.evaluate(problem.load)[1], np.ones(problem.num_layers)
    tighten(problem, bound, reached < NEAR)
    layers = np.flatnonzero(reached < NEAR * bound)
    if layers.size == 0:
        return placed, bound
    part = problem.layers(layers)
    if problem.keeps_groups:
        placed = better_of_layers(problem, placed, layers, plan_by_node(part, planner, simple))
    return better_of_layers(problem, placed, layers, plan_by_node(part, simple)), bound


def tighten(problem: Problem, bound: Float, wanted: NDArray[np.bool_]) -> None:
    """Write the bound [L] of the layers where it is wanted and still 1."""
    layers = np.flatnonzero(wanted & (bound == 1.0))
    if layers.size:
        bound[layers] = balancedness_bound(problem.layers(layers), thorough=False)


def better_of_layers(
    problem: Problem, placed: Placement, layers: Int, other: Placement
) -> Placement:
    """Take those layers, which `other` is of, that it balances better with no more duplicates."""
    load, expert = problem.load[layers], placed.physical_to_logical.copy()
    part = Placement(expert[layers], placed.cluster, placed.num_experts)
    # Beyond rounding: which of two equal plans adds up to more differs with the scale of the load.
    better = other.evaluate(load)[1] > part.evaluate(load)[1] * BEYOND_ROUNDING
    better &= other.duplicates <= part.duplicates
    if not better.any():
        return placed
    expert[layers[better]] = other.physical_to_logical[better]
    return Placement(expert, placed.cluster, placed.num_experts)
