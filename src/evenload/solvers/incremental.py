"""Plans that hold under drift and move few experts."""

from __future__ import annotations

import numpy as np

from evenload.checks import fraction, not_negative, whole_number
from evenload.maps import EMPTY
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.answer import Answer
from evenload.solvers.current import see_current
from evenload.solvers.effort import check_effort
from evenload.solvers.replanning import Replanning, Scratch
from evenload.solvers.rows import Int

STEPS = {"fast": 4000, "standard": 16000, "thorough": 160000}
SMALL = 80  # slots of a layer up to which a level has all its steps
MOVE_ALL = 0.1  # balancedness that moving all slots of a layer has to gain, where no price is given
CLOSE = 0.9999  # balancedness at which a layer is left at that


def incremental(
    problem: Problem,
    *,
    max_moves: int | None = None,
    max_total_moves: int | None = None,
    move_cost: float | None = None,
    effort: str | int = "standard",
    target: float | None = None,
) -> Answer:
    """Reach the best balance per move, over all that the load may be.

    What is lowered is the mean over the samples of the last GPU's time, relative to that of a load
    divided at will, plus `move_cost` for each expert that is new to its GPU. Searched by threshold
    accepting from what runs now, and from a fresh plan whose GPUs are matched with the running ones
    so that most experts stay (an assignment problem); each layer takes what costs less. Without a
    current placement a fresh plan is improved under the samples.

    Parameters
    ----------
    problem : Problem
    max_moves : int, optional
        Experts of one layer that may move to another GPU; 0 keeps the current placement as it is.
        Moves that experts without a living slot force are made all the same, and told of.
    max_total_moves : int, optional
        Experts of all layers together that may move; the layers that gain most get them.
    move_cost : float, optional
        What a move has to gain in its layer: in balancedness, or more exactly in the last GPU's
        time over the mean. 0 moves whatever helps, and is never worse than planning from scratch.
        Default: 0.1 / S, so that moving the experts of all S living slots has to gain 0.1.
    effort : {"fast", "standard", "thorough"} or int, default "standard"
        Steps of one layer: 4000, 16000, 160000 for layers of up to 80 slots; beyond, fewer with the
        square of the slots, since a step looks at that many pairs, and where moves have a price
        with its fourth power, since more give nothing there; or a number. Where moves are not
        free the start from scratch has a quarter of them.
    target : float, optional
        Balancedness in (0, 1], on average over the samples, at which a layer is good enough.
        Default: 0.9999.

    Returns
    -------
    Answer
        An expert that stays on its GPU stays in its slot.

    Raises
    ------
    ValueError
        For negative moves or costs, moves to be limited without a current placement, an unknown
        effort, a target outside (0, 1], the topology ``"prefer"``, or too few moves to come to a
        plan that keeps groups on nodes from one that does not.
    """
    steps = check_effort(effort, STEPS, "steps")
    goal = 1.0 / (fraction("target", target) or CLOSE)
    usual = MOVE_ALL / problem.cluster.num_living_slots
    price = usual if move_cost is None else not_negative("move_cost", move_cost)
    most = None if max_moves is None else whole_number("max_moves", max_moves)
    total = None if max_total_moves is None else whole_number("max_total_moves", max_total_moves)
    _check_topology(problem)
    if isinstance(effort, str):
        free = problem.current is None or price == 0.0
        steps = _fewer_for_large(steps, problem.cluster.num_living_slots, 2 if free else 4)
    if problem.current is None:
        _check_unlimited(max_moves=max_moves, max_total_moves=max_total_moves, move_cost=move_cost)
        return Answer(_to_placement(problem, Scratch(problem, steps, goal).planned().placed))
    running = see_current(problem.current, problem)
    layers = Replanning(Scratch(problem, steps, goal), running)
    found = layers.plan(price, most, total)
    return Answer(_to_placement(problem, layers.in_old_slots(found)), notes=layers.notes)


def _fewer_for_large(steps: int, slots: int, power: int) -> int:
    return int(steps * SMALL**power // max(SMALL, slots) ** power)


def _check_topology(problem: Problem) -> None:
    if problem.topology == "prefer":
        raise ValueError(
            "topology='prefer' is beyond solver 'incremental'; use topology 'strict' or 'ignore', "
            "or solver 'joint', which plans from scratch"
        )


def _check_unlimited(**limits: float | None) -> None:
    for name, value in limits.items():
        if value is not None:
            raise ValueError(
                f"{name}={value} needs to know what runs now; give current, or leave {name} out"
            )


def _to_placement(problem: Problem, placed: Int) -> Placement:
    whole = np.full((problem.num_layers, problem.cluster.num_slots), EMPTY)
    whole[:, problem.cluster.living_slot] = placed
    return Placement(whole, problem.cluster, problem.num_experts)
