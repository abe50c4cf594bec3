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

from bisect import bisect_left
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.solvers.exact.layer import MOST_OPTIONS, Budget, Layer, Outcome, load_cp_model

Int = NDArray[np.int64]

BITS = 40
CLOSE = 1 << 8  # distance of limits, 2**-32 of the mean, below which they count as one


def suits(layer: Layer) -> bool:
    """Whether the pairs are all there is to decide."""
    cluster = layer.cluster
    paired = cluster.gpus_are_equal and cluster.slots[0] == 2 and layer.num_groups == 1
    return paired and not layer.by_time


# --- which replicas share a GPU ---------------------------------------------------------------


def lightest_limit(share: Int, count: Int) -> int:
    """Return the least limit under which the replicas can be paired, duplicates allowed.

    The heaviest with the lightest, and so on inwards: by exchange, no pairing is better.
    """
    each = np.sort(np.repeat(share, count))
    return int((each + each[::-1]).max())


def _pair_apart(share: Int, count: Int, limit: int) -> Int | None:
    """Pair all replicas within a limit, none with another of its expert: [S / 2, 2], or None.

    H heavy replicas leave G - H pairs of light ones, each with one replica of an expert at most:
    the others have to be partners of heavy ones. Their other partners are the lightest there are.
    """
    heavy = 2 * share > limit
    H = int(count[heavy].sum())
    pairs_left = int(count.sum()) // 2 - H
    light = np.where(heavy, 0, count)
    forced = np.maximum(light - pairs_left, 0)
    missing = H - int(forced.sum())
    if pairs_left < 0 or missing < 0:
        return None
    order = np.argsort(share, kind="stable")
    free = np.repeat(order, (light - forced)[order])
    partner = np.concatenate([np.repeat(np.arange(share.size), forced), free[:missing]])
    partner = partner[np.argsort(share[partner], kind="stable")]
    order = np.argsort(-share, kind="stable")
    first = np.repeat(order, (count - light)[order])
    if (share[first] + share[partner] > limit).any():
        return None
    left = light - np.bincount(partner, minlength=share.size)
    rest = np.repeat(np.arange(share.size), left)
    half = rest.size // 2  # no expert has more than half of the rest, so half on is another one
    return np.concatenate(
        [np.stack([first, partner], axis=1), np.stack([rest[:half], rest[half:]], axis=1)]
    )


def best_pairs_apart(share: Int, count: Int, most: int) -> tuple[int, Int] | None:
    """Pair all replicas under the least limit, at most `most`, that lets no two of an expert meet.

    Takes the weight of one replica of each expert and their number, int64 [E]; an even one in all.
    Returns the limit and the experts of each pair, int64 [S / 2, 2], or None if `most` is too low.
    """
    limits = range(lightest_limit(share, count), most)
    at = bisect_left(limits, True, key=lambda limit: _pair_apart(share, count, limit) is not None)
    limit = limits[at] if at < len(limits) else most
    pairs = _pair_apart(share, count, limit)
    return None if pairs is None else (limit, pairs)


# --- which counts allow a limit ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Choices:
    """Every count that an expert may have under a limit, and what one replica weighs then, [n]."""

    expert: Int
    count: Int
    share: Int


def _choices_under(load: Int, num_gpus: int, limit: int) -> Choices | None:
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
    for falls, run in groupby(terms, key=lambda term: term[0]):
        level += sum(-term if falls else term for _, term in run)
        if falls:
            reached = model.new_int_var(0, most, "")
            model.add(reached == level)
            level = reached


def _build(choice: Choices, num_gpus: int, limit: int, start: Int, apart: bool) -> tuple[Any, Any]:
    """Model the counts under a limit: a 0/1 variable for each, and no weight, so nothing rounds.

    A walk inwards from both ends of the sorted weights keeps "light ones passed minus heavy ones
    passed" from falling below zero.

    With `apart`, no replica may be paired with another of its expert. H heavy replicas leave G - H
    light pairs, so of a light expert's c replicas c - (G - H) must be partners of heavy ones, and
    they need them by Hall's condition: a walk outwards from the middle.

    Returns the model, and whether each choice is taken: list of cp_model.IntVar, [n]. The counts
    `start` [E] are tried first.
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
    if not apart:
        return model, chosen
    for i in np.flatnonzero(choice.count > num_gpus):
        model.add(chosen[i] == 0)
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
    return model, chosen


# --- the search -------------------------------------------------------------------------------


def _next_limit(share: Int, low: int, high: int) -> int | None:
    """Return a sum of two shares near the middle of low < sum < high, or None."""
    each = np.unique(share)
    middle = (low + high) // 2
    last = np.searchsorted(each, middle - each, side="right")
    below = (each + each[last - 1])[last > 0].max(initial=low)
    if below > low:
        return int(below)
    above = (each[last < each.size] + each[last[last < each.size]]).min(initial=high)
    return int(above) if above < high else None


def search(layer: Layer, budget: Budget) -> Outcome:
    """Find the counts whose heaviest pair is lightest, in a layer that `suits`.

    A ValueError where it has more choices than memory should be spent on.
    """
    mean, E = layer.mean_time, layer.num_experts
    load = np.floor(layer.whole / mean * (1.0 - 1e-15) * (1 << BITS)).astype(np.int64)
    pairs = layer.start.reshape(-1, 2)  # the best so far, none with an expert twice
    G = len(pairs)
    weight = int((load // np.bincount(pairs.ravel(), minlength=E))[pairs].sum(axis=1).max())
    choice = _choices_under(load, G, weight)
    if choice and choice.expert.size > MOST_OPTIONS:
        raise ValueError(
            f"num_experts={E} have {choice.expert.size} replica counts to choose from in {2 * G} "
            f"slots, and solver 'exact' takes {MOST_OPTIONS} at most; use fewer spare slots, or "
            "solver 'joint'"
        )
    # Two shares a pair, each rounded down by less than 1: four below is certainly out of reach.
    low = min(int(layer.least_time / mean * (1 << BITS)) - 4, weight - 1)
    goal = int(layer.goal / mean * (1 << BITS))
    proven = []
    for apart in (False, True):
        high = weight  # `low` is what the heaviest pair cannot weigh, and `high` what it can
        while high - low > CLOSE and high > goal and not budget.spent:
            choice = _choices_under(load, G, high)
            limit = _next_limit(choice.share if choice else load, low, high)
            if limit is None:
                low = high - 1
                break
            limit = max(limit, goal)
            choice = _choices_under(load, G, limit)
            if choice is None:
                low = limit
                continue
            start = np.bincount(pairs.ravel(), minlength=E)
            model, chosen = _build(choice, G, limit, start, apart)
            # Presolve takes longer than the search: the model says what it means already.
            solver, status = budget.run(model, cp_model_presolve=False)
            if status == "UNKNOWN":
                break
            if status == "INFEASIBLE":
                low = limit
                continue
            taken = np.array([bool(solver.value(var)) for var in chosen])
            count = choice.count[taken]  # sorted by expert, and one of each is taken
            weight, pairs = best_pairs_apart(load // count, count, weight) or (weight, pairs)
            high = weight if apart else lightest_limit(load // count, count)
        proven.append((low + 1) / (1 << BITS) * mean)
    return layer.outcome(pairs.ravel(), *proven)
