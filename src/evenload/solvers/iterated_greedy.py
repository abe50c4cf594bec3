"""Iterated greedy: replicas by largest share, then vectorised iterated greedy packing."""

from __future__ import annotations

import numpy as np

from evenload.checks import packing_options
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.by_node import Float, Rows, plan_at_least
from evenload.solvers.greedy import greedy_rows
from evenload.threads import spread


def iterated_greedy(
    problem: Problem,
    *,
    num_attempts: int = 5,
    boost: float = 1.05,
    max_swaps: int = 20,
    target: float | None = None,
) -> Placement:
    """Replicate as DeepSeek's EPLB does, then pack by vectorised iterated greedy.

    An expert gets at most one replica a GPU, and replicas that the packing put on one GPU are
    parted, so no duplicate is left that can be avoided. The result is at least as balanced as
    ``"greedy"`` in every layer, see `by_node.plan_at_least`.

    Parameters
    ----------
    problem : Problem
    num_attempts, boost, max_swaps, target
        As `evenload.eplb.balanced_packing`.

    Raises
    ------
    ValueError
        For an option out of range.
    """
    from evenload.core.packing import iterated_greedy as compiled

    attempts, swaps, goal = packing_options(num_attempts, boost, max_swaps, target)

    def planner(load: Float, num_slots: int, num_gpus: int) -> Rows:
        X, E = load.shape
        if num_slots // num_gpus >= E:  # every expert on every GPU is perfect
            return np.tile(np.arange(num_slots // num_gpus) % E, (X, num_gpus)), None
        expert = np.empty((X, num_slots), np.int64)

        def run(first: int, end: int) -> None:
            options = num_gpus, attempts, float(boost), swaps, goal
            compiled(load[first:end], *options, expert[first:end])

        spread(X, expert.size, run)
        return expert, None

    return plan_at_least(problem, planner, greedy_rows)[0]
