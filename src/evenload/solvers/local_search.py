"""Local search: the greedy's start, swapped until nothing improves or it is good enough."""

from __future__ import annotations

from functools import partial

from evenload.checks import fraction, whole_number
from evenload.cluster import Cluster
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.by_node import Float, Rows, plan_at_least
from evenload.solvers.greedy import greedy_rows
from evenload.solvers.search import CLOSE, place


def local_rows(
    load: Float,
    num_slots: int,
    num_gpus: int,
    target: float = 1.0,
    fine_target: float = CLOSE,
    most_pairs: int | None = None,
) -> Rows:
    """Place rows on their own; a `by_node.RowPlanner`."""
    cluster = Cluster(num_gpus, slots_per_gpu=num_slots // num_gpus)
    placed = place(load, cluster, target=target, fine_target=fine_target, most_pairs=most_pairs)
    return placed.expert, None


def local_search(
    problem: Problem, *, target: float | None = None, effort: int | None = None
) -> Placement:
    """Replicate by largest share, pack longest first, then lighten the heaviest GPU while it goes.

    Swaps of the heaviest GPU with whichever other helps most go on until none improves; where that
    leaves a layer below 0.9999, two replicas are exchanged for two, and then the layer is disturbed
    and descended again, keeping the best. No expert is placed twice on a GPU where that can be
    avoided, and every layer is at least as balanced as by ``"greedy"``, see
    `by_node.plan_at_least`.

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
    goal = fraction("target", target)
    planner = partial(
        local_rows,
        target=goal or 1.0,
        fine_target=goal or CLOSE,
        most_pairs=None if effort is None else whole_number("effort", effort),
    )
    return plan_at_least(problem, planner, greedy_rows)[0]
