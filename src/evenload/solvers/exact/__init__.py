"""The best placement there is, proven: replica counts and places by constraint programming.

``layer`` is one layer of a problem, and how CP-SAT runs on it. With two slots on each of equal GPUs
``pairs`` searches over replica counts alone; ``shares`` models everything else.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.checks import fraction
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.seconds import planned_seconds, undivided_seconds
from evenload.solvers.answer import Answer
from evenload.solvers.by_node import to_placement
from evenload.solvers.exact import pairs, shares
from evenload.solvers.exact.layer import LIMIT, OPTIMAL, Budget, Outcome, layers, load_cp_model
from evenload.solvers.search import check_effort

Float = NDArray[np.float64]

__all__ = ["Solution", "exact", "solve_exactly"]

EFFORTS = {"fast": 500, "standard": 5_000, "thorough": 50_000}
ROUNDING = 1e-9  # how far sums in another order may be off, with room to spare
MOST_NAMED = 8  # layers that a note names


class Solution(NamedTuple):
    """What is proven of each layer.

    Parameters
    ----------
    physical_to_logical : int64 ndarray, [L, S]
        Expert in each slot, -1 on GPUs that are not alive.
    proven_least_time : float64 ndarray, [L]
        No placement's last GPU is done earlier, in tokens at the fastest living GPU's speed, or in
        seconds per batch where the problem is by time; those with duplicates included.
    status : tuple of str, [L]
        ``"optimal"`` (to 1e-7 of the time) among placements without avoidable duplicates,
        ``"target reached"`` or ``"limit reached"``: the effort ended before a proof.
    """

    physical_to_logical: NDArray[np.int64]
    proven_least_time: Float
    status: tuple[str, ...]


def solve_exactly(
    problem: Problem, *, effort: int | str = "standard", target: float | None = None
) -> Solution:
    """Minimise the time of each layer's slowest GPU, and prove it.

    Parameters and errors are those of `exact`.
    """
    goal, steps = fraction("target", target), check_effort(effort, EFFORTS)
    load_cp_model()
    if problem.topology == "prefer":
        raise ValueError(
            "topology='prefer' is beyond solver 'exact'; use solver 'joint', or topology 'strict' "
            "or 'ignore'"
        )
    if problem.by_time and len(problem.phases) > 1:
        raise ValueError(
            f"{len(problem.phases)} phases are beyond solver 'exact'; use solver 'incremental', or "
            "one phase"
        )
    if problem.survive is not None:
        raise ValueError(
            f"survive={problem.survive[0]!r} is beyond solver 'exact'; use solver 'auto', 'joint' "
            "or 'incremental'"
        )
    found: list[Outcome] = []
    for layer in layers(problem, goal):
        budget, known = Budget(steps), layer.outcome(layer.start)
        way = pairs if pairs.suits(layer) else shares
        done = known.status != LIMIT or budget.spent
        found.append(known if done else way.search(layer, budget))
    expert, least, status = zip(*found, strict=True)
    placed = to_placement(problem, np.stack(expert))
    return Solution(placed.physical_to_logical, np.array(least), status)


def _notes(
    solution: Solution, reached: Float, bound: Float, what: str = "balancedness"
) -> list[str]:
    """Tell which layers the effort did not suffice for, and which a duplicate might do good."""

    def told(layers: NDArray[np.bool_], text: str) -> list[str]:
        which = np.flatnonzero(layers)
        if which.size == 0:
            return []
        named = ", ".join(map(str, which[:MOST_NAMED])) + (
            ", ..." if which[MOST_NAMED:].size else ""
        )
        counted = f"{which.size} of {len(layers)} layers ({named})"
        return [
            text.format(
                layers=counted, what=what, reached=reached[which].mean(), bound=bound[which].mean()
            )
        ]

    status = np.array(solution.status)
    return told(
        status == LIMIT,
        "not proven optimal: the effort ended first in {layers}, which reach a mean {what} "
        "of {reached:.6f} and at most {bound:.6f} is possible; use more effort",
    ) + told(
        (status == OPTIMAL) & (reached * (1.0 + 2e-7) < bound),
        "best without duplicates: in {layers} more than the mean {what} of {reached:.6f} "
        "takes an expert twice on one GPU, and at most {bound:.6f} is possible",
    )


def exact(
    problem: Problem, *, effort: int | str = "standard", target: float | None = None
) -> Answer:
    """Find the best placement and prove it, for small layers and for research.

    Replica counts and places are searched together by CP-SAT (extra ``exact``),
    from what ``"joint"`` finds. GPUs may differ in slots and speed, and may be gone. No expert is
    placed twice on a GPU where that can be avoided. The bound holds for such placements too, which
    are rarely better balanced. That takes a second proof, which is given at most half as many steps
    as the placement took, or 1/250 of the effort where that is more: where it does not end, or a
    duplicate would be better, the bound is above the best without duplicates, and a note says so.

    With two slots on each of equal GPUs only the counts are searched, and layers of hundreds of
    experts are solved; else expect proofs up to some ten experts, and beyond that a good placement
    with a bound.

    Unlike the other solvers it gives the same bytes on two machines only where both have the same
    version of OR-tools: another version may find another placement, and where the effort ends
    before a proof a better or a worse one. Wall clock and the number of cores change nothing. Ranks
    that plan on their own must agree on the version.

    Parameters
    ----------
    problem : Problem
        Where it is hierarchical, every node gets as many groups, and each stays on one.
    effort : {"fast", "standard", "thorough"} or int, default "standard"
        Steps that the search of one layer may take: 500, 5,000, 50,000 or any number. A step is a
        hundredth of CP-SAT's unit of deterministic time, very roughly 10 to 30 ms.
    target : float, optional
        Balancedness in (0, 1] at which a layer is good enough. Default: the best.

    Returns
    -------
    Answer
        With the proven bound on the balancedness [L], and a note where the effort ended first.

    Raises
    ------
    ValueError
        If OR-tools is missing, an option is illegal, the topology is ``"prefer"``, or a layer is
        too large for CP-SAT's memory.
    """
    solution = solve_exactly(problem, effort=effort, target=target)
    placement = Placement(solution.physical_to_logical, problem.cluster, problem.num_experts)
    whole = undivided_seconds(problem) if problem.by_time else problem.load.sum(axis=1)
    mean = whole / problem.cluster.capacity.sum()
    least = solution.proven_least_time * (1.0 - ROUNDING)
    bound = np.minimum(1.0, np.divide(mean, least, out=np.ones_like(mean), where=least > 0.0))
    if problem.by_time:
        seconds = planned_seconds(problem, placement)[problem.phases[0].name]
        reached = np.divide(mean, seconds, out=np.ones_like(mean), where=seconds > 0.0)
        notes = _notes(solution, reached, bound, "ratio of undivided to reached seconds")
        return Answer(placement, None, tuple(notes), least_seconds=least)
    notes = _notes(solution, placement.evaluate(problem.load)[1], bound)
    return Answer(placement, bound, tuple(notes))
