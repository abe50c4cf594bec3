"""Local search: the greedy's start, swapped until nothing improves or it is good enough."""

from __future__ import annotations

from functools import partial

import numpy as np

from evenload.checks import fraction, whole_number
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.living import on_living_gpus
from evenload.solvers.never_worse import at_least_greedy
from evenload.solvers.rows import Float, Rows, to_placement, unless_all_fit
from evenload.threads import spread

FINE_TARGET = 0.9999
LEAST_EFFORT = 512
EFFORT_A_GPU = 16


def search_rows(
    load: Float,
    num_slots: int,
    num_gpus: int,
    *,
    target: float = 1.0,
    fine_target: float = FINE_TARGET,
    effort: int | None = 0,
) -> Rows:
    """Search rows on their own; a `rows.RowPlanner`, for K < E.

    Parameters
    ----------
    load : float64 ndarray, [X, E]
    num_slots, num_gpus : int
    target, fine_target : float
        Balancedness at which swaps stop, and at which a row where they stand still is left.
    effort : int or None
        As `local_search`.
    """
    from evenload.kernels.local_search import local_search as compiled

    expert = np.empty((load.shape[0], num_slots), np.int64)
    pairs = max(LEAST_EFFORT, EFFORT_A_GPU * num_gpus) if effort is None else effort

    def run(first: int, end: int) -> None:
        compiled(load[first:end], num_gpus, target, fine_target, pairs, expert[first:end])

    spread(load.shape[0], expert.size, run)
    return Rows(expert)


@on_living_gpus
def local_search(
    problem: Problem, *, target: float | None = None, effort: int | None = None
) -> Placement:
    """Replicate by largest share, pack longest first, then lighten the heaviest GPU while it goes.

    Swaps of the heaviest GPU with whichever other helps most go on until none improves; where that
    leaves a layer below 0.9999, two replicas are exchanged for two, and then the layer is disturbed
    and descended again, keeping the best. No expert is placed twice on a GPU where that can be
    avoided, and every layer is at least as balanced as by ``"greedy"``, see
    `never_worse.at_least_greedy`.

    Parameters
    ----------
    problem : Problem
    target : float, optional
        Balancedness in (0, 1] at which a layer is good enough. Default: swap until nothing
        improves, and spend the effort on layers below 0.9999.
    effort : int, optional
        Pairs of GPUs that the exchanges of two for two and the disturbances of one layer may look
        at. Default: 16 a GPU, at least 512.

    Raises
    ------
    ValueError
        For a target outside (0, 1] or a negative effort.
    """
    goal = fraction("target", target) or 1.0
    fine = goal if target is not None else FINE_TARGET
    pairs = None if effort is None else whole_number("effort", effort)
    planner = partial(search_rows, target=goal, fine_target=fine, effort=pairs)
    return to_placement(problem, at_least_greedy(problem, unless_all_fit(planner)))
