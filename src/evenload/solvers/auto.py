"""Which solver suits a problem, and why."""

from __future__ import annotations

from evenload.problem import Problem


def choose(problem: Problem) -> tuple[str, str]:
    """Name the solver that ``solver="auto"`` runs, with the reason.

    Returns
    -------
    name, reason : str
    """
    K = problem.cluster.slots_per_gpu
    if K == 1:
        return "local-search", "one slot a GPU: only the replica counts matter, and they are best"
    if K == 2:
        return (
            "local-search",
            "two slots a GPU: its longest-first pairing is the best for its counts",
        )
    return "local-search", "swaps until nothing improves, then exchanges of pairs, balance best"
