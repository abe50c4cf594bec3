"""From a load to a plan."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from evenload.arrays import keep_numpy
from evenload.cluster import Cluster
from evenload.forecast.problem import trace_problem
from evenload.forecast.windows import is_trace
from evenload.placement import Placement
from evenload.plan import Plan
from evenload.problem import CROSS_NODE_PRICE, Problem
from evenload.solvers import Solver, get_solver
from evenload.solvers.answer import Answer
from evenload.solvers.auto import choose


def _check_options(name: str, solver: Solver, options: dict[str, Any]) -> None:
    if not options:
        return
    parameters = list(inspect.signature(solver).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    legal = [p.name for p in parameters]
    for option in options:
        if option not in legal:
            known = f"use one of: {', '.join(legal)}" if legal else "it has none"
            raise ValueError(f"solver {name!r} has no option {option!r}; {known}")


def _what_was_impossible(problem: Problem) -> tuple[str, ...]:
    notes = []
    cluster = problem.cluster
    if not cluster.all_alive:
        dead = cluster.num_gpus - len(cluster.living_gpus)
        notes.append(
            f"{dead} of {cluster.num_gpus} GPUs are gone: their "
            f"{cluster.num_slots - cluster.num_living_slots} slots a layer hold nothing (-1)"
        )
    notes += _forced_duplicates(problem)
    return tuple(notes)


def _forced_duplicates(problem: Problem) -> list[str]:
    """Tell of GPUs with more slots than there are experts that they may hold."""
    cluster = problem.cluster
    nodes = len(cluster.living_by_node) if problem.hierarchical else 1
    may_hold = problem.num_experts // nodes
    useful = sum(min(cluster.slots[g], may_hold) for g in cluster.living_gpus)
    if cluster.num_living_slots == useful:
        return []
    return [
        f"{cluster.num_living_slots - useful} duplicates a layer cannot be avoided: {useful} slots "
        f"hold every expert once on each GPU that may have it, and there are "
        f"{cluster.num_living_slots}"
    ]


def _ignored_groups(problem: Problem) -> list[str]:
    """Tell of groups that were to be kept where that can be done, and cannot."""
    nodes = len(problem.cluster.living_by_node)
    if problem.num_groups == 1 or problem.hierarchical:
        return []
    if problem.num_groups % nodes:
        why = (
            f"num_groups={problem.num_groups} is not a multiple of num_nodes={nodes}, so they "
            "cannot be spread evenly over the nodes"
        )
    else:
        why = "a node has too few living slots for its share of them"
    return [f"groups ignored: {why}"]


def _check_current(current: Any, problem: Problem) -> Placement:
    """Return what runs now with NumPy arrays, or raise `ValueError`."""
    if not isinstance(current, Placement):
        raise ValueError(
            f"current is a {type(current).__name__}, not a Placement; use e.g. "
            "Placement(physical_to_logical, cluster, num_experts)"
        )
    has = (current.num_layers, current.num_experts)
    wanted = (problem.num_layers, problem.num_experts)
    if has != wanted:
        raise ValueError(
            f"current has (layers, experts) = {has}, and the load {wanted}; use the placement that "
            "runs this model"
        )
    return current.rewrapped(keep_numpy)


def solve(
    load: Any,
    cluster: Cluster,
    *,
    current: Placement | None = None,
    num_groups: int = 1,
    topology: str | None = None,
    cross_node_price: float = CROSS_NODE_PRICE,
    estimator: str | None = None,
    solver: str = "auto",
    **options: Any,
) -> Plan:
    """Decide on which GPU every expert lives.

    Parameters
    ----------
    load : array_like or torch.Tensor, [L, E], [E] or [T, L, E]; or a Trace
        Tokens routed to each expert, or anything proportional to them. Never modified. A trace
        [T, L, E], the oldest window first, is planned for the window after it: the load is
        `evenload.forecast.forecast` of it, and the plan has to hold under
        `evenload.forecast.samples`.
    cluster : Cluster
        GPUs, nodes and slots.
    current : Placement, optional
        What runs now. The plan then moves few experts, see the solver ``"incremental"`` for how
        few. Its cluster may have other GPUs or slots; GPU g here is GPU g there.
    num_groups : int, default 1
        Groups of experts that routing keeps on one node (8 for DeepSeek-V3).
    topology : {"strict", "prefer", "ignore"}, optional
        ``"strict"`` keeps all replicas of a group on one node (DeepSeek's hierarchical policy).
        ``"prefer"`` keeps one of each of its experts on its home node, and places further replicas
        anywhere where they gain more than the tokens cost that leave the node. ``"ignore"`` plans
        as if there were no groups. Default: strict where the groups divide over the nodes; else
        the plan ignores them and says so.
    cross_node_price : float, default 1
        For ``"prefer"``: what one token costs that is computed away from its group's home node, in
        tokens computed by a GPU.
    estimator : {"adaptive", "last", "mean", "ewma"}, optional
        For a trace: what predicts the window after it, see `evenload.forecast.forecast`. Default:
        ``"adaptive"``.
    solver : str, default "auto"
        ``"auto"`` picks the best there is for the problem; see `evenload.solvers.solver_names`.
    **options
        Options of the solver.

    Returns
    -------
    Plan
        With NumPy arrays, or tensors on the load's device if it came as a tensor. The same input
        gives the same bytes on every machine and number of threads, with two exceptions: solver
        ``"exact"`` does for the same version of OR-tools only, and ``"greedy"`` sorts tensors by
        torch, as published.

    Raises
    ------
    ValueError
        For an illegal load or trace, fewer slots than experts, groups that do not divide the
        experts, a topology that is unknown or cannot be met, a `cross_node_price` other than 1 for
        another topology than ``"prefer"``, a current placement of other layers or experts, an
        unknown solver, option or estimator, or an estimator for a load that is no trace.

    Examples
    --------
    >>> plan = solve([[60, 30, 30]], Cluster(2, slots_per_gpu=2))
    >>> plan.balancedness
    array([1.])
    >>> later = solve([[30, 60, 40]], Cluster(2, slots_per_gpu=2), current=plan.placement)
    >>> later.moves
    array([1])
    """
    kept_apart = (num_groups, topology, cross_node_price)
    if is_trace(load):
        problem = trace_problem(load, cluster, *kept_apart, estimator or "adaptive")
    elif estimator is not None:
        raise ValueError(
            f"estimator={estimator!r} needs loads over time, and the load is of one window; give a "
            "trace [T, L, E], or leave estimator out"
        )
    else:
        problem = Problem.build(load, cluster, *kept_apart)
    if current is not None:
        problem = replace(problem, current=_check_current(current, problem))
    ignored = _ignored_groups(problem) if topology is None else []
    return solve_problem(problem, solver, tuple(ignored), **options)


def solve_problem(
    problem: Problem, solver: str = "auto", notes: tuple[str, ...] = (), **options: Any
) -> Plan:
    """Do what `solve` does, for a problem that is validated already."""
    name, reason = solver, "asked for by name"
    if solver == "auto":
        name, reason, defaults = choose(problem)
        options = options if "effort" in options else {**defaults, **options}
    run = get_solver(name)
    _check_options(name, run, options)
    result = run(problem, **options)
    answer = result if isinstance(result, Answer) else Answer(result)
    return Plan.evaluate(problem, answer, name, reason, notes + _what_was_impossible(problem))
