"""Two slots on each of equal GPUs: bisection on the heaviest pair, over replica counts alone.

The heaviest pair weighs the sum of two shares, so there are finitely many limits to try. Loads are
integers of 40 bits below the mean, shares rounded down: what no rounded share can meet, no real one
can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenload.solvers.exact import counts
from evenload.solvers.exact.cpsat import Budget
from evenload.solvers.exact.layer import Layer, Outcome
from evenload.solvers.exact.pairing import best_pairs_apart

Int = NDArray[np.int64]

BITS = 40
CLOSE = 1 << 8  # distance of limits, 2**-32 of the mean, below which they count as one
MOST_OPTIONS = 500_000  # about a GB in CP-SAT
# Presolve takes longer than the search: the model is small and says what it means already.
PARAMETERS = {"cp_model_presolve": False}


def suits(layer: Layer) -> bool:
    """Whether the pairs are all there is to decide."""
    cluster = layer.cluster
    return cluster.gpus_are_equal and cluster.slots[0] == 2 and layer.num_groups == 1


def _next_limit(share: Int, low: int, high: int) -> int | None:
    """Return a sum of two shares near the middle of low < sum < high, or None."""
    each = np.unique(share)
    middle = (low + high) // 2
    last = np.searchsorted(each, middle - each, side="right")
    below = (each + each[last - 1])[last > 0]
    if below.size and below.max() > low:
        return int(below.max())
    above = (each[last < each.size] + each[last[last < each.size]]).min(initial=high)
    return int(above) if above < high else None


@dataclass
class Bracket:
    """What is known of the heaviest pair: impossible up to `low`, reached at `high`.

    Parameters
    ----------
    low, high : int
    pairs : int64 ndarray, [G, 2]
        Experts of the pairs that reach `high`.
    """

    low: int
    high: int
    pairs: Int
    apart: bool = False

    def try_limit(self, load: Int, limit: int, budget: Budget) -> bool:
        """Decide a limit, or return False where the budget ends first."""
        choice = counts.options(load, len(self.pairs), limit)
        if choice is None:
            self.low = limit
            return True
        start = np.bincount(self.pairs.ravel(), minlength=load.size)
        model = counts.build(choice, len(self.pairs), limit, start, self.apart)
        solver, status = budget.run(model.model, **PARAMETERS)
        if status == "INFEASIBLE":
            self.low = limit
        elif status in ("OPTIMAL", "FEASIBLE"):
            self._take(load, model.counts(solver), limit)
        return status != "UNKNOWN"

    def _take(self, load: Int, count: Int, limit: int) -> None:
        found = best_pairs_apart(load // count, count, limit)
        if found is None:
            # Only with duplicates: rare, and keeping them apart costs variables.
            self.apart = True
        else:
            self.high, self.pairs = found


def _check_size(load: Int, num_gpus: int, limit: int) -> None:
    choice = counts.options(load, num_gpus, limit)
    size = 0 if choice is None else choice.expert.size
    if size > MOST_OPTIONS:
        raise ValueError(
            f"num_experts={load.size} have {size} replica counts to choose from in "
            f"{2 * num_gpus} slots, and solver 'exact' takes {MOST_OPTIONS} at most; use fewer "
            "spare slots, or solver 'joint'"
        )


def _bisect(bracket: Bracket, load: Int, goal: int, budget: Budget) -> None:
    while bracket.high - bracket.low > CLOSE and bracket.high > goal and not budget.spent:
        choice = counts.options(load, len(bracket.pairs), bracket.high)
        share = load if choice is None else choice.share
        limit = _next_limit(share, bracket.low, bracket.high)
        if limit is None:
            bracket.low = bracket.high - 1
            return
        if not bracket.try_limit(load, max(limit, goal), budget):
            return


def search(layer: Layer, budget: Budget) -> Outcome:
    """Find the counts whose heaviest pair is lightest.

    Parameters
    ----------
    layer : Layer
        One that `suits`.
    budget : Budget

    Raises
    ------
    ValueError
        If the layer has more options than memory should be spent on.
    """
    mean = layer.mean_time
    load = np.floor(layer.load / mean * (1.0 - 1e-15) * (1 << BITS)).astype(np.int64)
    pairs = layer.known.expert.reshape(-1, 2)
    share = load // np.bincount(pairs.ravel(), minlength=load.size)
    high = int(share[pairs].sum(axis=1).max())
    _check_size(load, len(pairs), high)
    # Two shares a pair, each rounded down by less than 1: four below is certainly out of reach.
    low = int(layer.known.least_time / mean * (1 << BITS)) - 4
    bracket = Bracket(min(low, high - 1), high, pairs)
    _bisect(bracket, load, int(layer.goal / mean * (1 << BITS)), budget)
    least = (bracket.low + 1) / (1 << BITS) * mean
    return layer.outcome(bracket.pairs.ravel(), least)
