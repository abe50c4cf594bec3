"""Two slots on each of equal GPUs: bisection on the heaviest pair, over replica counts alone.

The heaviest pair weighs the sum of two shares, so there are finitely many limits to try. Loads are
integers of 40 bits below the mean, shares rounded down: what no rounded share can meet, no real one
can.

Whether counts allow a limit is Hall's condition for thresholds: the replicas can be paired under it
if and only if for every weight v above half the limit, those of at least v are no more than those
of at most limit - v. Such a pair may be two replicas of one expert, so what no counts allow no
placement reaches. Where the counts found need that, a second bisection asks for counts that do not.

A replica above half the limit is heavy, every other light. Two light ones may always meet, unless
they are replicas of one expert; two heavy ones never.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.solvers.exact.layer import Budget, Layer, Outcome, load_cp_model

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


# --- which replicas share a GPU ---------------------------------------------------------------


def lightest_limit(share: Int, count: Int) -> int:
    """Return the least limit under which the replicas can be paired, duplicates allowed.

    The heaviest with the lightest, and so on inwards: by exchange, no pairing is better.
    """
    each = np.sort(np.repeat(share, count))
    return int((each + each[::-1]).max())


def _partners_of_heavy(share: Int, count: Int, heavy: NDArray[np.bool_]) -> Int | None:
    """Choose the light replicas that heavy ones get, [H], or None where they do not suffice.

    H heavy replicas leave G - H pairs of light ones, each with one replica of an expert at most:
    the others have to be partners. The rest are the lightest there are.
    """
    H = int(count[heavy].sum())
    pairs_left = int(count.sum()) // 2 - H
    forced = np.where(heavy, 0, np.maximum(count - pairs_left, 0))
    missing = H - int(forced.sum())
    if pairs_left < 0 or missing < 0:
        return None
    order = np.argsort(share, kind="stable")
    free = np.repeat(order, np.where(heavy, 0, count - forced)[order])
    chosen = np.concatenate([np.repeat(np.arange(share.size), forced), free[:missing]])
    return chosen[np.argsort(share[chosen], kind="stable")]


def pair_apart(share: Int, count: Int, limit: int) -> Int | None:
    """Pair all replicas, none with another of its expert and no pair above the limit.

    Parameters
    ----------
    share : int64 ndarray, [E]
        Weight of one replica of each expert.
    count : int64 ndarray, [E]
        Replicas of each expert; their sum is even.
    limit : int
        Most that a pair may weigh.

    Returns
    -------
    int64 ndarray, [S / 2, 2], or None
        Experts of each pair; None where there is no such pairing.
    """
    heavy = 2 * share > limit
    partner = _partners_of_heavy(share, count, heavy)
    if partner is None:
        return None
    order = np.argsort(-share, kind="stable")
    first = np.repeat(order, np.where(heavy, count, 0)[order])
    if (share[first] + share[partner] > limit).any():
        return None
    left = np.where(heavy, 0, count) - np.bincount(partner, minlength=share.size)
    rest = np.repeat(np.arange(share.size), left)
    half = rest.size // 2  # no expert has more than half of the rest, so half on is another one
    return np.concatenate(
        [np.stack([first, partner], axis=1), np.stack([rest[:half], rest[half:]], axis=1)]
    )


def best_pairs_apart(share: Int, count: Int, most: int) -> tuple[int, Int] | None:
    """Pair apart under the least limit that allows it, or return None where `most` does not.

    Returns
    -------
    limit : int
    pairs : int64 ndarray, [S / 2, 2]
    """
    low, high = lightest_limit(share, count), most
    best = pair_apart(share, count, high)
    if best is None:
        return None
    while low < high:
        middle = (low + high) // 2
        pairs = pair_apart(share, count, middle)
        low, high, best = (middle + 1, high, best) if pairs is None else (low, middle, pairs)
    return high, best


# --- which counts allow a limit ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choices:
    """Every count that an expert may have under a limit, and what one replica weighs then, [n]."""

    expert: Int
    count: Int
    share: Int


def choices_under(load: Int, num_gpus: int, limit: int) -> Choices | None:
    """List the counts under which no share exceeds a limit, or None if the slots are too few."""
    least = load // (limit + 1) + 1
    spare = 2 * num_gpus - int(least.sum())
    if spare < 0:
        return None
    expert = np.repeat(np.arange(load.size), spare + 1)
    count = np.repeat(least, spare + 1) + np.tile(np.arange(spare + 1), load.size)
    return Choices(expert, count, load[expert] // count)


def _walk(model: Any, terms: list[tuple[bool, Any]], most: int) -> None:
    """Keep the sum of terms from falling below zero: (whether it falls, expression), 0 to `most`.

    What rises comes before what falls at the same place.
    """
    level: Any = 0
    pending: list[Any] = []
    for place, (falls, term) in enumerate(terms):
        pending.append(-term if falls else term)
        last_of_fall = falls and (place + 1 == len(terms) or not terms[place + 1][0])
        if last_of_fall:
            reached = model.new_int_var(0, most, "")
            model.add(reached == level + sum(pending))
            level, pending = reached, []


def _build(choice: Choices, num_gpus: int, limit: int, start: Int, apart: bool) -> tuple[Any, Any]:
    """Model the counts under a limit: a 0/1 variable for each, and no weight, so nothing rounds.

    A walk inwards from both ends of the sorted weights keeps "light ones passed minus heavy ones
    passed" from falling below zero.

    Parameters
    ----------
    start : int64 ndarray, [E]
        Counts to try first.
    apart : bool
        Whether no replica may be paired with another of its expert.

    Returns
    -------
    model : cp_model.CpModel
    chosen : list of cp_model.IntVar, [n]
        Whether each choice is taken.
    """
    model = load_cp_model().CpModel()
    chosen = [model.new_bool_var("") for _ in range(choice.expert.size)]
    weighted = [int(c) * var for c, var in zip(choice.count, chosen, strict=True)]
    each = choice.expert.size // start.size
    for first in range(0, choice.expert.size, each):
        model.add_exactly_one(chosen[first : first + each])
    model.add(sum(weighted) == 2 * num_gpus)
    for var, hint in zip(chosen, start[choice.expert] == choice.count, strict=True):
        model.add_hint(var, int(hint))
    heavy = 2 * choice.share > limit
    gap = np.abs(2 * choice.share - limit)  # how far from half the limit
    _walk(model, [(bool(heavy[i]), weighted[i]) for i in np.lexsort((heavy, -gap))], 2 * num_gpus)
    if apart:
        for i in np.flatnonzero(choice.count > num_gpus):
            model.add(chosen[i] == 0)
        _keep_apart(model, choice, weighted, heavy, gap, num_gpus)
    return model, chosen


def _keep_apart(
    model: Any, choice: Choices, weighted: list[Any], heavy: Any, gap: Int, num_gpus: int
) -> None:
    """Demand that experts with more replicas than there are light pairs find heavy partners.

    H heavy replicas leave G - H light pairs, so of a light expert's c replicas c - (G - H) must be
    partners of heavy ones, and they need them by Hall's condition: a walk outwards from the middle.
    """
    num_heavy = sum((weighted[i] for i in np.flatnonzero(heavy)), 0)
    terms: list[tuple[bool, Any]] = []
    for i in np.lexsort((~heavy, gap)):
        if heavy[i]:
            terms.append((False, weighted[i]))
        elif choice.count[i] > 1:
            forced = model.new_int_var(0, int(choice.count[i]), "")
            model.add(forced >= weighted[i] - num_gpus + num_heavy)
            terms.append((True, forced))
    _walk(model, terms, 2 * num_gpus)


# --- the search -------------------------------------------------------------------------------


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
    """The search of a layer.

    Parameters
    ----------
    load : int64 ndarray, [E]
    pairs : int64 ndarray, [G, 2]
        Experts of the best pairs so far, none twice in one.
    weight : int
        Of the heaviest of these.
    low, high : int
        What the heaviest pair cannot weigh, and what it can: of any counts, or of such that keep
        replicas apart.
    """

    load: Int
    pairs: Int
    weight: int
    low: int
    high: int

    def bisect(self, goal: int, budget: Budget, apart: bool) -> None:
        """Close the bracket until it is narrow, at the goal, or the budget ends."""
        G = len(self.pairs)
        while self.high - self.low > CLOSE and self.high > goal and not budget.spent:
            choice = choices_under(self.load, G, self.high)
            limit = _next_limit(choice.share if choice else self.load, self.low, self.high)
            if limit is None:
                self.low = self.high - 1
                return
            limit = max(limit, goal)
            choice = choices_under(self.load, G, limit)
            if choice is None:
                self.low = limit
                continue
            start = np.bincount(self.pairs.ravel(), minlength=self.load.size)
            model, chosen = _build(choice, G, limit, start, apart)
            solver, status = budget.run(model, **PARAMETERS)
            if status == "UNKNOWN":
                return
            if status == "INFEASIBLE":
                self.low = limit
                continue
            taken = np.array([bool(solver.value(var)) for var in chosen])
            self._take(choice.count[taken], apart)  # sorted by expert, and one of each is taken

    def _take(self, count: Int, apart: bool) -> None:
        share = self.load // count
        found = best_pairs_apart(share, count, self.weight)
        if found is not None:
            self.weight, self.pairs = found
        self.high = self.weight if apart else lightest_limit(share, count)


def _check_size(load: Int, num_gpus: int, limit: int) -> None:
    choice = choices_under(load, num_gpus, limit)
    size = 0 if choice is None else choice.expert.size
    if size > MOST_OPTIONS:
        raise ValueError(
            f"num_experts={load.size} have {size} replica counts to choose from in "
            f"{2 * num_gpus} slots, and solver 'exact' takes {MOST_OPTIONS} at most; use fewer "
            "spare slots, or solver 'joint'"
        )


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
        If the layer has more choices than memory should be spent on.
    """
    mean = layer.mean_time
    load = np.floor(layer.load / mean * (1.0 - 1e-15) * (1 << BITS)).astype(np.int64)
    pairs = layer.known.expert.reshape(-1, 2)
    share = load // np.bincount(pairs.ravel(), minlength=load.size)
    high = int(share[pairs].sum(axis=1).max())
    _check_size(load, len(pairs), high)
    # Two shares a pair, each rounded down by less than 1: four below is certainly out of reach.
    low = min(int(layer.known.least_time / mean * (1 << BITS)) - 4, high - 1)
    goal = int(layer.goal / mean * (1 << BITS))
    bracket = Bracket(load, pairs, high, low, high)
    bracket.bisect(goal, budget, apart=False)
    least = (bracket.low + 1) / (1 << BITS) * mean
    bracket.high = bracket.weight
    bracket.bisect(goal, budget, apart=True)
    least_apart = (bracket.low + 1) / (1 << BITS) * mean
    return layer.outcome(bracket.pairs.ravel(), least, least_apart)
