"""Which solver suits a problem, and why."""

from __future__ import annotations

from evenload.problem import Problem


def choose(problem: Problem) -> tuple[str, str]:
    """Name the solver that ``solver="auto"`` runs, with the reason.

    Where experts are placed already, or a trace tells how loads vary, it is the incremental one.
    Else it is the joint search wherever it is: where local search alone comes close to the bound,
    the joint search leaves it at that.

    Returns
    -------
    name, reason : str
    """
    cluster = problem.cluster
    if problem.topology != "prefer":
        if problem.current is not None:
            return "incremental", "experts are placed already: it moves those that are worth it"
        if problem.samples is not None:
            return "incremental", "it plans for all that the trace says the load may be"
    if not cluster.gpus_are_equal:
        return "joint", "the GPUs differ in slots or speed"
    if problem.topology == "prefer":
        return "joint", "it weighs balance against tokens that leave their group's node"
    if max(cluster.slots) == 1:
        return "joint", "one slot a GPU: only the replica counts matter, and they are best"
    return "joint", "replicas and placement chosen together in layers where swaps are not enough"
