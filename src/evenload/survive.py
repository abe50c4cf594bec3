"""What to do when a GPU or a node dies, planned before it does."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.arrays import keep_numpy
from evenload.checks import one_of
from evenload.cluster import DOMAINS, Cluster
from evenload.dispatch import check_tokens_from
from evenload.placement import Placement
from evenload.plan import Plan
from evenload.planner import solve


def repairs(
    running: Placement | Plan,
    load: Any = None,
    *,
    what: str = "gpu",
    max_moves: int = 0,
    **options: Any,
) -> dict[int, Plan]:
    """Plan ahead for the death of each living GPU, or of each node, from what runs.

    Each plan moves as few experts as its death leaves possible, and balances the GPUs that are left
    within that: none move where every expert keeps a copy (see `Placement.survives`), and else
    those that have lost their last one. With ``survive=``, also what brings every expert back to as
    many GPUs or nodes as it needs to survive the next death.

    Parameters
    ----------
    running : Placement or Plan
        What runs until then.
    load : as for `evenload.solve`, optional
        What the repaired placements are balanced for. Default: the load that the plan was made for.
    what : {"gpu", "node"}, default "gpu"
        What dies.
    max_moves : int, default 0
        Further experts of each layer that may move, for balance; those that have to move count.
    **options
        As for `evenload.solve`, but for `current` and `solver`. `num_groups` and the dispatch with
        what belongs to it are the plan's by default, and ``topology="strict"`` falls back to
        ``"ignore"`` where the nodes that are left cannot hold the groups. From GPUs that die no
        tokens start any more; if that was all of `tokens_from`, every living GPU sends equally
        many.

    Returns
    -------
    dict of int to Plan
        For each living GPU, or node with a living GPU, by number: the plan to follow when it dies,
        with its `placement`, `moves` and `balancedness`.

    Raises
    ------
    ValueError
        If a death leaves too few slots for all experts, for no load with a placement, and for what
        `evenload.solve` refuses.

    Examples
    --------
    >>> plan = solve([[60, 30, 30]], Cluster(3, slots_per_gpu=2), survive="gpu")
    >>> plan.placement.survives("gpu")
    True
    >>> {gpu: repair.moves.tolist() for gpu, repair in repairs(plan).items()}
    {0: [0], 1: [0], 2: [0]}
    """
    if isinstance(running, Plan):
        problem = running.problem
        load = problem.load if load is None else load
        kept = None if problem.topology == "strict" else problem.topology
        if "dispatch" not in options:
            options = problem.sharing | {"copy_slack": problem.copy_slack} | options
        options = {"num_groups": problem.num_groups, "topology": kept} | options
        running = running.placement
    if not isinstance(running, Placement):
        raise ValueError(f"running={running!r} is neither a Placement nor a Plan; use one of them")
    if load is None:
        raise ValueError("load=None, and running is a placement; give a load, or a Plan")
    cluster, current = running.cluster, running.rewrapped(keep_numpy)
    dying: dict[int, tuple[int, ...]] = {g: (g,) for g in cluster.living_gpus}
    if one_of("what", what, DOMAINS) == "node":
        dying = {gpus[0] // cluster.gpus_per_node: gpus for gpus in cluster.living_by_node}
    dispatch = options.get("dispatch", "even")
    tokens = check_tokens_from(options.pop("tokens_from", None), dispatch, cluster)
    how: dict[str, Any] = {"current": current, "solver": "incremental", "max_moves": max_moves}
    for name in how.keys() & options.keys():
        raise ValueError(
            f"{name}={options[name]!r} is not for repairs, which plan from what runs, with solver "
            f"'incremental'; leave {name} out"
        )
    how |= options
    plans = {}
    for number, gpus in dying.items():
        left = _without(cluster, gpus)
        sent = None if tokens is None else np.where(left.alive, tokens, 0.0)
        if sent is not None and not sent.any():
            sent = None
        plans[number] = solve(load, left, tokens_from=sent, **how)
    return plans


def _without(cluster: Cluster, gpus: tuple[int, ...]) -> Cluster:
    alive = [alive and g not in gpus for g, alive in enumerate(cluster.alive)]
    return Cluster(**(cluster.arguments | {"alive": alive}))
