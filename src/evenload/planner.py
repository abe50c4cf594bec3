"""From a load to a plan."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from evenload.arrays import Float, keep_numpy
from evenload.bounds import balancedness_bound
from evenload.checks import not_negative
from evenload.cluster import Cluster
from evenload.cost import CostModel, ExpertTime
from evenload.dispatch import PLANNERS, SLACK, TIMERS
from evenload.forecast import is_trace, outlook
from evenload.phases import joined
from evenload.placement import Placement, check_model
from evenload.plan import Plan, evaluated
from evenload.problem import CROSS_NODE_PRICE, Problem
from evenload.seconds import over_phases, planned_seconds, tokens_per_second
from evenload.solvers import get_solver
from evenload.solvers.answer import Answer
from evenload.solvers.auto import choose
from evenload.solvers.groups import kept_homes

WORTH_TELLING = 0.01
"""Balancedness that groups may cost before a plan's reader is told."""


def solve(
    load: Any,
    cluster: Cluster,
    *,
    current: Placement | None = None,
    num_groups: int = 1,
    topology: str | None = None,
    cross_node_price: float = CROSS_NODE_PRICE,
    dispatch: str = "even",
    live_share: float = 1.0,
    tokens_from: Any = None,
    copy_slack: float = SLACK,
    survive: str | None = None,
    survive_count: int = 1,
    estimator: str | None = None,
    expert_time: ExpertTime | None = None,
    tokens_per_batch: int | Mapping[str, int] | None = None,
    top_k: int = 1,
    phase_weight: Mapping[str, float] | None = None,
    cost: CostModel | None = None,
    max_transfer_seconds: float | None = None,
    solver: str = "auto",
    **options: Any,
) -> Plan:
    """Decide on which GPU every expert lives.

    Parameters
    ----------
    load : array_like or torch.Tensor, [L, E], [E] or [T, L, E]; or a Trace; or a dict of these
        Tokens routed to each expert, or anything proportional to them. Never modified. A trace
        [T, L, E], the oldest window first, is planned for the window after it: the load is
        `evenload.forecast.forecast` of it, and the plan has to hold under
        `evenload.forecast.samples`. A dict has one of these for each phase, by its name, as
        ``{"prefill": trace, "decode": trace}``: one plan for batches of all of them, see
        `Plan.by_phase`.
    cluster : Cluster
    current : Placement, optional
        What runs now. The plan then moves few experts, see the solver ``"incremental"`` for how
        few. Its cluster may have other GPUs or slots; GPU g here is GPU g there.
    num_groups : int, default 1
        Groups of experts that routing keeps on one node (8 for DeepSeek-V3).
    topology : {"strict", "prefer", "ignore"}, optional
        ``"strict"`` keeps all replicas of a group on one node (DeepSeek's hierarchical policy).
        ``"prefer"`` keeps one replica of each expert on its group's home node, and places others
        anywhere if they gain more than the price of the tokens that leave the node. ``"ignore"``
        plans as if there were no groups. Default: strict if the groups divide evenly over the
        nodes; else the plan ignores them and says so.
    cross_node_price : float, default 1
        For ``"prefer"``: price of a token computed away from its group's home node, in tokens
        computed by a GPU.
    dispatch : {"even", "live", "nearest", "static", "copy", "one"}, default "even"
        How the engine picks a replica for a token, see `evenload.dispatch`. The plan is made for it
        and measured by it. A plan for ``"live"`` is poor under even sharing, see `Plan.under`. A
        plan for ``"copy"`` gives homes to a balancer that copies experts for every microbatch, see
        `evenload.copying` and `Plan.copies`. A plan for ``"one"`` is for small batches, in which
        each active expert uses one replica, see `evenload.splitting.OneReplica` and `Plan.active`;
        it needs `tokens_per_batch`.
    live_share : float, default 1
        For ``"live"``: share of the time, above 0 and at most 1, in which the engine splits live;
        in the rest it shares evenly.
    tokens_from : array_like or torch.Tensor, [G], optional
        For ``"nearest"`` and ``"static"``: how many tokens start on each GPU, or anything
        proportional; 0 on those that are not alive. Default: equally many on each.
    copy_slack : float, default 0.05
        For ``"copy"``: how far the balancer lets a GPU exceed its equal part of the tokens,
        relative to that part.
    survive : {"gpu", "node"}, optional
        Keep copies of every expert on several GPUs, or nodes, so that none is lost when any one
        dies. Needs slots for two copies of each expert.
    survive_count : int, default 1
        How many may die at once. Needs slots for one copy more than that of each expert.
    estimator : {"adaptive", "last", "mean", "ewma"}, optional
        For a trace: what predicts the window after it, see `evenload.forecast.forecast`. Default:
        ``"adaptive"``.
    expert_time : ExpertTime, optional
        Seconds that a GPU of full speed takes for one expert's tokens in a batch. The plan then
        makes the slowest GPU's mean time short, not its number of tokens, see `Plan.seconds`. Needs
        `tokens_per_batch`. If time is proportional to tokens, or under a live split, plans are the
        same as without.
    tokens_per_batch : int or dict, optional
        Tokens that all GPUs together put through a layer at once; by phase where these differ.
    top_k : int, default 1
        Experts per token of `tokens_per_batch`. Leave it at 1 if that number counts a token once
        for each of its experts.
    phase_weight : dict, optional
        For loads by phase: the weight of each. Default: equal weights, however many tokens a phase
        has; with `tokens_per_batch`, in proportion to its batches.
    cost : CostModel, optional
        Seconds of moves from `current`. Each move has to gain the time that it takes, while the
        load's tokens (a trace's last window's) are served once, by `expert_time` if there is one;
        `move_cost` sets another price. Default: the prices of the solver ``"incremental"``, in
        balancedness. Not for the dispatch ``"copy"``, whose balancer fetches experts all the time.
    max_transfer_seconds : float, optional
        Most seconds that the transfers from `current` may take, by `cost`. If a plan takes more,
        only the layers move that gain most time per second of transfers.
    solver : str, default "auto"
        ``"auto"`` picks the best there is for the problem; see `evenload.solvers.solver_names`.
    **options
        Options of the solver; ``"auto"`` takes those of the solver that it picks, see
        `Plan.solver`, and each solver's function in `evenload.solvers` describes its own.

        - ``"incremental"``: `move_cost` (balancedness that each move has to gain in its layer),
          `max_moves` (of each layer), `max_total_moves`, `effort` and `target`;
        - ``"joint"``, ``"exact"``: `effort` (``"fast"``, ``"standard"``, ``"thorough"`` or a number
          of steps) and `target` (when a layer is good enough);
        - ``"local-search"``: `effort` (a number of steps) and `target`;
        - ``"iterated-greedy"``: `num_attempts`, `boost`, `max_swaps` and `target`;
        - ``"greedy"``: none.

    Returns
    -------
    Plan
        With NumPy arrays, or tensors on the load's device if it came as a tensor. The same input
        gives the same bytes on every machine and number of threads; solver ``"exact"`` for the same
        version of OR-tools only, and ``"greedy"`` sorts tensors by torch, as published.

    Raises
    ------
    ValueError
        For an illegal load, an unknown name, or parts that do not go together:

        - fewer slots than experts, or too few slots, GPUs or nodes to survive with;
        - groups that do not divide the experts, or a topology that cannot be met;
        - a price without ``"prefer"``, or a live share, tokens or slack without their dispatch;
        - a dispatch other than ``"even"`` with ``"prefer"``, or with a solver other than
          ``"incremental"``;
        - an expert time with another solver than that or ``"exact"``, or with another dispatch than
          ``"even"``, ``"live"`` or ``"one"``;
        - an estimator without a trace, or a current placement of another model;
        - a cost or a limit on transfers without a current placement;
        - phases of different models, weights of unknown phases, or loads by phase with
          ``"prefer"`` or with a solver other than ``"incremental"``.

    Examples
    --------
    >>> plan = solve([[60, 30, 30]], Cluster(2, slots_per_gpu=2))
    >>> plan.balancedness
    array([1.])
    >>> later = solve([[30, 60, 40]], Cluster(2, slots_per_gpu=2), current=plan.placement)
    >>> later.moves
    array([1])
    """
    model = cluster, num_groups, topology, cross_node_price
    how = {"dispatch": dispatch, "live_share": live_share, "tokens_from": tokens_from}
    how |= {"copy_slack": copy_slack, "survive": survive, "survive_count": survive_count}
    how |= {"expert_time": expert_time, "tokens_per_batch": tokens_per_batch, "top_k": top_k}
    if isinstance(load, Mapping):
        batches = {
            name: how[name] for name in ("expert_time", "tokens_per_batch", "top_k", "dispatch")
        }
        joint = joined(load, phase_weight, estimator, **batches)
        how["tokens_per_batch"] = joint.phases[0].tokens_per_batch
        problem = replace(Problem.build(joint.load, *model, **how), **joint.of_problem)
        if problem.topology == "prefer":
            raise ValueError(
                "topology='prefer' is beyond loads by phase; use topology 'strict' or 'ignore', or "
                "the load of one phase"
            )
    elif phase_weight is not None:
        raise ValueError(
            f"phase_weight={phase_weight!r} is for loads by phase; give them as {{'prefill': ..., "
            "'decode': ...}, or leave phase_weight out"
        )
    elif is_trace(load):
        expected, may_be, rewrap = outlook(load, "adaptive" if estimator is None else estimator)
        problem = Problem.build(expected, *model, **how)
        problem = replace(problem, rewrap=rewrap, samples=may_be.load, sample_weight=may_be.weight)
    elif estimator is not None:
        raise ValueError(
            f"estimator={estimator!r} needs loads over time, and the load is of one window; give a "
            "trace [T, L, E], or leave estimator out"
        )
    else:
        problem = Problem.build(load, *model, **how)
    if current is not None:
        check_model(current, problem, "current")
        problem = replace(problem, current=current.rewrapped(keep_numpy))
    notes = _ignored_groups(problem) if topology is None else ()
    if cost is None and max_transfer_seconds is None:
        return solve_problem(problem, solver, notes, **options)
    limit = _check_cost(problem, cost, max_transfer_seconds)
    assert cost is not None
    priced = solver in ("auto", "incremental") and dispatch != "copy"
    if priced and "move_cost" not in options and problem.load.any():
        serving = cost
        if problem.expert_time is not None:
            serving = replace(cost, tokens_per_second=tokens_per_second(problem))
        options["move_cost"] = serving.move_cost(problem.load, cluster)
    plan = solve_problem(problem, solver, notes, **options)
    return plan if limit is None else _within(plan, cost, limit, options)


def solve_problem(
    problem: Problem, solver: str = "auto", notes: tuple[str, ...] = (), **options: Any
) -> Plan:
    """Do what `solve` does, for a problem that is validated already."""
    name, reason = solver, "asked for by name"
    if solver == "auto":
        name, reason, defaults = choose(problem)
        options = options if "effort" in options else {**defaults, **options}
    run = get_solver(name)
    if problem.by_time and name not in TIMERS:
        raise ValueError(
            f"expert_time is beyond solver {name!r}; use solver 'incremental', 'exact' or 'auto', "
            "or leave expert_time out"
        )
    if problem.dispatch != "even" and name not in PLANNERS:
        raise ValueError(
            f"dispatch={problem.dispatch!r} is beyond solver {name!r}; use solver 'incremental' or "
            "'auto', or dispatch 'even'"
        )
    if problem.sample_phase is not None and name != "incremental":
        raise ValueError(
            f"solver={name!r} plans for one load, and there are several phases; use solver "
            "'incremental' or 'auto', or the load of one phase"
        )
    legal = list(inspect.signature(run).parameters.values())[1:] if options else []
    if not any(p.kind is p.VAR_KEYWORD for p in legal):
        names = [p.name for p in legal]
        for option in (option for option in options if option not in names):
            known = f"use one of: {', '.join(names)}" if names else "it has none"
            raise ValueError(f"solver {name!r} has no option {option!r}; {known}")
    result = run(problem, **options)
    answer = result if isinstance(result, Answer) else Answer(result)
    return Plan.evaluate(problem, answer, name, reason, notes + _what_was_impossible(problem))


def _check_cost(problem: Problem, cost: Any, max_transfer_seconds: Any) -> float | None:
    """Return the seconds that transfers may take; a `ValueError` where they cannot be told."""
    if not isinstance(cost, CostModel):
        raise ValueError(
            f"max_transfer_seconds={max_transfer_seconds} needs to know what moves take; give "
            "cost, or leave max_transfer_seconds out"
            if cost is None
            else f"cost={cost!r} is not a CostModel; use CostModel.preset or one of your own"
        )
    if problem.current is None:
        raise ValueError("cost needs to know what runs now; give current, or leave cost out")
    cost.check_shape(*problem.load.shape)
    if max_transfer_seconds is None:
        return None
    if problem.current.cluster != problem.cluster:
        raise ValueError(
            f"max_transfer_seconds={max_transfer_seconds} cannot be kept where current is on "
            f"{problem.current.cluster}, and the plan on {problem.cluster}; leave it out"
        )
    return not_negative("max_transfer_seconds", max_transfer_seconds)


def _within(plan: Plan, cost: CostModel, limit: float, options: dict[str, Any]) -> Plan:
    """Leave out the moves of layers that gain least, so that transfers take `limit` at most.

    Layers move one after the other, so that their seconds add up. Where not even one fits, so few
    experts move that they fit whichever they are.
    """
    problem = plan.problem
    current, planned = problem.current, plan.placement.rewrapped(keep_numpy)
    assert current is not None
    seconds = cost.schedule(current, planned).layer_seconds
    if seconds.sum() <= limit:
        return plan
    living = np.asarray(current.physical_to_logical)[:, problem.cluster.living_slot]
    lost = problem.survive is not None and not current.survives(*problem.survive)
    if lost or not kept_homes(problem, living)[1].all():
        raise ValueError(
            f"current does not {'survive what it has to' if lost else 'keep groups on one node'}, "
            f"and max_transfer_seconds={limit:g} do not suffice to come to a plan that does; use "
            f"{seconds.sum() * 1.001:.4g}, or leave it out"
        )
    gain = problem.load.sum(axis=1) * (_slowness(problem, current) - _slowness(problem, planned))
    rate = np.divide(gain, seconds, out=np.zeros_like(gain), where=seconds > 0.0)
    moving, spent = seconds == 0.0, 0.0
    for layer in np.argsort(-rate, kind="stable"):
        if seconds[layer] > 0.0 and rate[layer] > 0.0 and spent + seconds[layer] <= limit:
            moving[layer] = True
            spent += float(seconds[layer])
    slowest = min(cost.bandwidth_in_node, cost.bandwidth_between_nodes)
    fits = int(limit / (cost.latency + cost.expert_bytes / slowest))
    if spent == 0.0 and fits > 0 and plan.solver == "incremental":
        asked = options.get("max_total_moves")
        options = options | {"max_total_moves": fits if asked is None else min(fits, asked)}
        return solve_problem(problem, "incremental", plan.notes, **options)
    rows = np.where(moving[:, None], planned.physical_to_logical, current.physical_to_logical)
    note = (
        f"{int((~moving).sum())} layers keep what runs: all moves would take {seconds.sum():.3g} s "
        f"by the cost model, and max_transfer_seconds={limit:g}"
    )
    answer = Answer(Placement(rows, problem.cluster, problem.num_experts))
    return Plan.evaluate(problem, answer, plan.solver, plan.reason, (*plan.notes, note))


def _slowness(problem: Problem, placement: Placement) -> Float:
    """Return what each layer's slowest GPU takes for as many tokens, in any unit, [L]."""
    if problem.by_time:
        return over_phases(problem, planned_seconds(problem, placement))
    return np.asarray(1.0 / evaluated(problem, placement, problem.load)[1])


def tell_of_groups(plan: Plan) -> Plan:
    """Note in a plan what its groups cost, if that is over a point of balancedness.

    A second plan, without groups, is made only if the bound leaves room for it to be so much
    better. Plans by time are not: their balancedness says little.
    """
    problem = plan.problem
    if not problem.keeps_groups or problem.by_time:
        return plan
    free, reached = replace(problem.alone, topology="ignore"), float(plan.balancedness.mean())
    if balancedness_bound(free, thorough=False).mean() <= reached + WORTH_TELLING:
        return plan
    other = solve_problem(free)
    could, away = float(other.balancedness.mean()), float(other.away_share.mean())
    if could <= reached + WORTH_TELLING:
        return plan
    note = (
        f"groups stay on one node each: mean balancedness {reached:.4f}; a new plan under topology "
        f"'ignore' reaches {could:.4f}, with {away:.0%} of the load away from its group's node"
    )
    return replace(plan, notes=(*plan.notes, note))


def _ignored_groups(problem: Problem) -> tuple[str, ...]:
    """Tell of groups that were to be kept where that can be done, and cannot."""
    nodes = len(problem.cluster.living_by_node)
    if problem.num_groups == 1 or problem.hierarchical:
        return ()
    why = "a node has too few living slots for its share of them"
    if problem.apart[1]:
        why = "survive='node' keeps copies of every expert on several nodes"
    elif problem.num_groups % nodes:
        why = (
            f"num_groups={problem.num_groups} is not a multiple of num_nodes={nodes}, so they "
            "cannot be spread evenly over the nodes"
        )
    return (f"groups ignored: {why}",)


def _what_was_impossible(problem: Problem) -> tuple[str, ...]:
    """Tell of dead GPUs, and of those with more slots than there are experts they may hold."""
    notes, cluster, living = [], problem.cluster, problem.cluster.num_living_slots
    if not cluster.all_alive:
        dead = cluster.num_gpus - len(cluster.living_gpus)
        notes.append(
            f"{dead} of {cluster.num_gpus} GPUs are gone: their {cluster.num_slots - living} slots "
            "per layer hold nothing (-1)"
        )
    may_hold = problem.num_experts // (len(cluster.living_by_node) if problem.hierarchical else 1)
    useful = sum(min(cluster.slots[g], may_hold) for g in cluster.living_gpus)
    if living > useful:
        notes.append(
            f"{living - useful} duplicates per layer cannot be avoided: {useful} slots hold every "
            f"expert once on each GPU that may have it, and there are {living}"
        )
    return tuple(notes)
