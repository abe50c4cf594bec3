"""Which solver suits a problem, and why."""

from __future__ import annotations

from typing import Any

from evenload.problem import Problem

QUICK: dict[str, Any] = {"effort": 30, "target": 0.999}
"""What the joint search has time for before the planner that vLLM ships would be done."""

FEW_SLOTS, MANY_SLOTS = 32, 256
"""Slots of a layer between which it is left at that: fewer are searched in no time, and of more the
counts decide so much that a user would rather wait some 30 ms."""


def choose(problem: Problem) -> tuple[str, str, dict[str, Any]]:
    """Name the solver that ``solver="auto"`` runs, with the reason.

    Where experts are placed already, a trace tells how loads vary, tokens are not shared evenly, or
    time is no matter of tokens alone, it is the incremental one; else the joint search, which
    leaves a layer at swaps where these come close to the bound.

    Returns
    -------
    name, reason : str
    options : dict
        What it is run with unless an effort is asked for.
    """
    cluster = problem.cluster
    if problem.topology != "prefer":
        for asked, why in (
            (problem.current is not None, "experts are placed already: it moves those worth it"),
            (problem.sample_phase is not None, "it plans for several phases together"),
            (problem.samples is not None, "it plans for all that the trace says the load may be"),
            (problem.dispatch != "even", f"it plans for the dispatch {problem.dispatch!r}"),
            (problem.by_time, "it plans for time, not for tokens"),
        ):
            if asked:
                return "incremental", why, {}
    if not cluster.gpus_are_equal:
        return "joint", "the GPUs differ in slots or speed", {}
    if problem.topology == "prefer":
        return "joint", "it weighs balance against tokens that leave their group's node", {}
    if max(cluster.slots) == 1:
        return "joint", "one slot a GPU: only the replica counts matter, and they are best", {}
    small = FEW_SLOTS < cluster.num_living_slots <= MANY_SLOTS and not problem.keeps_groups
    options = QUICK if small else {}
    return "joint", "replicas and placement chosen together where swaps are not enough", options
