"""Whether any replica counts let all pairs stay below a limit: a model of the counts alone.

Hall's condition for thresholds: the replicas can be paired under a limit if and only if for every
weight v above half the limit, those of at least v are no more than those of at most limit - v.
So a 0/1 variable says which count an expert has, and a walk inwards from both ends of the sorted
weights keeps "light ones passed minus heavy ones passed" from falling below zero. No weight enters
the model, so nothing is rounded in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.solvers.exact.cpsat import load_cp_model

Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Options:
    """Every count that an expert may have under a limit, one entry each, [n].

    Parameters
    ----------
    expert, count, share : int64 ndarray, [n]
        Share is what one of `count` replicas weighs.
    """

    expert: Int
    count: Int
    share: Int


def options(load: Int, num_gpus: int, limit: int) -> Options | None:
    """List the counts under which no share exceeds a limit, or None if the slots are too few.

    Parameters
    ----------
    load : int64 ndarray, [E]
    num_gpus : int
        GPUs G of two slots each.
    limit : int
    """
    least = load // (limit + 1) + 1
    spare = 2 * num_gpus - int(least.sum())
    if spare < 0:
        return None
    choices = np.minimum(least + spare, num_gpus) - least + 1
    expert = np.repeat(np.arange(load.size), choices)
    first = np.repeat(np.cumsum(choices) - choices, choices)
    count = least[expert] + np.arange(expert.size) - first
    return Options(expert, count, load[expert] // count)


def _walk(model: Any, terms: list[tuple[int, bool, Any]], most: int) -> None:
    """Keep the sum of terms from falling below zero at every key.

    Parameters
    ----------
    model : cp_model.CpModel
    terms : list of (key, falls, expression)
        In ascending order; what rises comes before what falls at the same key.
    most : int
        Upper limit of the sum.
    """
    level: Any = 0
    pending: list[Any] = []
    for place, (_, falls, term) in enumerate(terms):
        pending.append(-term if falls else term)
        last_of_fall = falls and (place + 1 == len(terms) or not terms[place + 1][1])
        if last_of_fall:
            reached = model.new_int_var(0, most, "")
            model.add(reached == level + sum(pending))
            level, pending = reached, []


@dataclass(frozen=True, eq=False)
class CountModel:
    """A model whose solutions are the counts under which every pair stays below a limit.

    Parameters
    ----------
    model : cp_model.CpModel
    chosen : list of cp_model.IntVar, [n]
        Whether each option is taken.
    options : Options
    """

    model: Any
    chosen: list[Any]
    options: Options

    def counts(self, solver: Any) -> Int:
        """Return the counts [E] that a solver found."""
        taken = np.array([bool(solver.value(var)) for var in self.chosen])
        count: Int = self.options.count[taken]  # sorted by expert, and one of each is taken
        return count


def build(choice: Options, num_gpus: int, limit: int, start: Int, apart: bool) -> CountModel:
    """Model the counts under a limit.

    Parameters
    ----------
    choice : Options
        The options under the limit.
    num_gpus : int
    limit : int
    start : int64 ndarray, [E]
        Counts to try first.
    apart : bool
        Whether no replica may be paired with another of its expert.
    """
    model = load_cp_model().CpModel()
    chosen = [model.new_bool_var("") for _ in range(choice.expert.size)]
    weighted = [int(c) * var for c, var in zip(choice.count, chosen, strict=True)]
    ends = np.flatnonzero(np.diff(choice.expert, append=-1)) + 1
    for first, end in zip(np.concatenate(([0], ends[:-1])), ends, strict=True):
        model.add_exactly_one(chosen[first:end])
    model.add(sum(weighted) == 2 * num_gpus)
    for var, hint in zip(chosen, start[choice.expert] == choice.count, strict=True):
        model.add_hint(var, int(hint))
    heavy = 2 * choice.share > limit
    gap = np.abs(2 * choice.share - limit)  # how far from half the limit
    inwards = np.lexsort((heavy, -gap))
    _walk(model, [(0, bool(heavy[i]), weighted[i]) for i in inwards], 2 * num_gpus)
    if apart:
        _keep_apart(model, choice, weighted, heavy, gap, num_gpus)
    return CountModel(model, chosen, choice)


def _keep_apart(
    model: Any, choice: Options, weighted: list[Any], heavy: Any, gap: Int, num_gpus: int
) -> None:
    """Demand that experts with more replicas than there are light pairs find heavy partners.

    H heavy replicas leave G - H light pairs, so of a light expert's c replicas c - (G - H) must be
    partners of heavy ones, and they need them by Hall's condition: a walk outwards from the middle.
    """
    num_heavy = sum((weighted[i] for i in np.flatnonzero(heavy)), 0)
    terms: list[tuple[int, bool, Any]] = []
    for i in np.lexsort((~heavy, gap)):
        if heavy[i]:
            terms.append((0, False, weighted[i]))
        elif choice.count[i] > 1:
            forced = model.new_int_var(0, int(choice.count[i]), "")
            model.add(forced >= weighted[i] - num_gpus + num_heavy)
            terms.append((0, True, forced))
    _walk(model, terms, 2 * num_gpus)
