"""Iterated greedy: replicas by largest share, then vectorised iterated greedy packing."""

from __future__ import annotations

from functools import partial

import numpy as np

from evenload.checks import packing_options
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.living import on_living_gpus
from evenload.solvers.never_worse import at_least_greedy
from evenload.solvers.rows import Float, Rows, to_placement, unless_all_fit
from evenload.threads import spread


def pack_rows(
    load: Float,
    num_slots: int,
    num_gpus: int,
    *,
    num_attempts: int = 5,
    boost: float = 1.05,
    max_swaps: int = 20,
    target: float | None = None,
) -> Rows:
    """Replicate and pack rows on their own; a `rows.RowPlanner`, for K < E.

    Parameters
    ----------
    load : float64 ndarray, [X, E]
    num_slots, num_gpus : int
    num_attempts, boost, max_swaps, target
        As `evenload.eplb.balanced_packing`.
    """
    from evenload.kernels.iterated_greedy import iterated_greedy as compiled

    attempts, swaps, goal = packing_options(num_attempts, boost, max_swaps, target)
    expert = np.empty((load.shape[0], num_slots), np.int64)

    def run(first: int, end: int) -> None:
        compiled(load[first:end], num_gpus, attempts, float(boost), swaps, goal, expert[first:end])

    spread(load.shape[0], expert.size, run)
    return Rows(expert)


@on_living_gpus
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
    ``"greedy"`` in every layer, see `never_worse.at_least_greedy`.

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
    packing_options(num_attempts, boost, max_swaps, target)  # also where every expert fits
    planner = partial(
        pack_rows, num_attempts=num_attempts, boost=boost, max_swaps=max_swaps, target=target
    )
    return to_placement(problem, at_least_greedy(problem, unless_all_fit(planner)))
