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


def every_expert_everywhere(load: Float, num_slots: int, num_gpus: int) -> Rows:
    """Place every expert on every GPU: the perfect plan where a GPU has slots for all of them."""
    one_gpu = np.arange(num_slots // num_gpus) % load.shape[1]
    return np.tile(one_gpu, (len(load), num_gpus)), None


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
        the topology is ``"prefer"``.
    """
    cluster = problem.cluster
    _check_equal_gpus(problem)
    slots, gpus = cluster.num_living_slots, len(cluster.living_gpus)
    if problem.hierarchical:
        expert, rank = _plan_nodes(problem, planner, group_planner or planner, slots, gpus)
    else:
        expert, rank = planner(problem.load, slots, gpus)
    return to_placement(problem, expert, rank)


def to_placement(problem: Problem, expert: Int, rank: Int | None = None) -> Placement:
    """Make what living slots hold a placement of a problem: int64 [L, S living]."""
    return Placement(
        _on_living(problem, expert),
        problem.cluster,
        problem.num_experts,
        replica_rank=None if rank is None else _on_living(problem, rank),
    )


def _plan_nodes(
    problem: Problem, planner: RowPlanner, group_planner: RowPlanner, slots: int, gpus: int
) -> Rows:
    L, E = problem.load.shape
    nodes, size = len(problem.cluster.living_by_node), E // problem.num_groups
    group_load = problem.load.reshape(L, -1, size).sum(axis=-1)
    group = group_planner(group_load, problem.num_groups, nodes)[0]
    expert = (group[:, :, None] * size + np.arange(size)).reshape(L, E)
    load = np.take_along_axis(problem.load, expert, axis=1).reshape(L * nodes, -1)
    rows, rank = planner(load, slots // nodes, gpus // nodes)
    placed = np.take_along_axis(expert.reshape(L * nodes, -1), rows, axis=1)
    return placed.reshape(L, -1), None if rank is None else rank.reshape(L, -1)


def _on_living(problem: Problem, rows: Int) -> Int:
    """Spread what living slots hold over all slots."""
    if problem.cluster.all_alive:
        return rows
    whole = np.full((problem.num_layers, problem.cluster.num_slots), EMPTY)
    whole[:, problem.cluster.living_slot] = rows
    return whole


def _check_equal_gpus(problem: Problem) -> None:
    cluster = problem.cluster
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


def plan_at_least(problem: Problem, planner: RowPlanner, simple: RowPlanner) -> Placement:
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
    Placement
        In every layer at least as balanced as the simple plan if that has no more duplicates, or
        within 0.1 % of the bound.
    """
    placed = plan_by_node(problem, planner)
    reached = placed.evaluate(problem.load)[1]
    if reached.min() >= NEAR:
        return placed
    bound = balancedness_bound(problem, thorough=False)
    layers = np.flatnonzero(reached < NEAR * bound)
    if layers.size == 0:
        return placed
    part = problem.layers(layers)
    if problem.keeps_groups:
        placed = better_of_layers(problem, placed, layers, plan_by_node(part, planner, simple))
    return better_of_layers(problem, placed, layers, plan_by_node(part, simple))


def better_of(load: Float, placed: Placement, other: Placement) -> Placement:
    """Take each layer from `other` where it is better balanced and has no more duplicates."""
    # Beyond rounding: which of two equal plans adds up to more differs with the scale of the load.
    better = other.evaluate(load)[1] > placed.evaluate(load)[1] * BEYOND_ROUNDING
    layers = np.flatnonzero(better & (other.duplicates <= placed.duplicates))
    return _replace_layers(placed, layers, other.physical_to_logical[layers])


def better_of_layers(
    problem: Problem, placed: Placement, layers: Int, other: Placement
) -> Placement:
    """Do what `better_of` does, where `other` is of some layers only."""
    part = Placement(placed.physical_to_logical[layers], placed.cluster, placed.num_experts)
    best = better_of(problem.load[layers], part, other)
    return _replace_layers(placed, layers, best.physical_to_logical)


def _replace_layers(placed: Placement, layers: Int, rows: Int) -> Placement:
    """Return a placement of which some layers are replaced; replicas count by slot."""
    if layers.size == 0:
        return placed
    expert = placed.physical_to_logical.copy()
    expert[layers] = rows
    return Placement(expert, placed.cluster, placed.num_experts)
