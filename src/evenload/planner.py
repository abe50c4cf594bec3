"""From a load to a plan."""

from __future__ import annotations

import inspect
from typing import Any

from evenload.cluster import Cluster
from evenload.plan import Plan
from evenload.problem import Problem
from evenload.solvers import Solver, get_solver
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
    if problem.num_groups > 1 and not problem.hierarchical:
        notes.append(
            f"groups ignored: num_groups={problem.num_groups} is not a multiple of "
            f"num_nodes={cluster.num_nodes}, so they cannot be spread evenly over the nodes"
        )
    nodes = cluster.num_nodes if problem.hierarchical else 1
    places = problem.num_experts // nodes * cluster.num_gpus
    if cluster.num_slots > places:
        notes.append(
            f"{cluster.num_slots - places} duplicates a layer cannot be avoided: {places} slots "
            f"hold every expert once on each GPU that may have it, and there are "
            f"{cluster.num_slots}"
        )
    return tuple(notes)


def solve(
    load: Any, cluster: Cluster, *, num_groups: int = 1, solver: str = "auto", **options: Any
) -> Plan:
    """Decide on which GPU every expert lives.

    Parameters
    ----------
    load : array_like or torch.Tensor, [L, E] or [E]
        Tokens routed to each expert, or anything proportional to them. Never modified.
    cluster : Cluster
        GPUs, nodes and slots.
    num_groups : int, default 1
        Groups of experts that routing keeps on one node (8 for DeepSeek-V3). They are kept together
        where they divide over the nodes; else the plan ignores them and says so.
    solver : str, default "auto"
        ``"auto"`` picks the best there is for the problem; see `evenload.solvers.solver_names`.
    **options
        Options of the solver.

    Returns
    -------
    Plan
        With NumPy arrays, or tensors on the load's device if it came as a tensor. The same input
        gives the same bytes on every machine and number of threads.

    Raises
    ------
    ValueError
        For an illegal load, fewer slots than experts, groups that do not divide the experts, an
        unknown solver or option.

    Examples
    --------
    >>> plan = solve([[60, 30, 30]], Cluster(2, slots_per_gpu=2))
    >>> plan.balancedness
    array([1.])
    """
    return solve_problem(Problem.build(load, cluster, num_groups), solver, **options)


def solve_problem(problem: Problem, solver: str = "auto", **options: Any) -> Plan:
    """Do what `solve` does, for a problem that is validated already."""
    name, reason = choose(problem) if solver == "auto" else (solver, "asked for by name")
    run = get_solver(name)
    _check_options(name, run, options)
    placement = run(problem, **options)
    return Plan.evaluate(problem, placement, name, reason, _what_was_impossible(problem))
