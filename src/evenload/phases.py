"""Batches that a layer gets: of one kind, or of several phases that are planned for together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from evenload.arrays import Float, Int, Rewrap, check_load, within_range
from evenload.checks import positive_real, whole_number
from evenload.cost.expert_time import ExpertTime
from evenload.cost.table import MOST_TOKENS
from evenload.dispatch import check_timed
from evenload.forecast import Samples, is_trace, outlook, shares


@dataclass(frozen=True, eq=False)
class Phase:
    """One kind of batches, as those of prefill or of decode."""

    name: str  #: "" where there is only one
    load: Float  #: [L, E]
    weight: float = 1.0  #: its part of all that counts; those of all phases add up to 1
    tokens_per_batch: int | None = None  #: tokens that all GPUs put through a layer at once


def check_batches(
    expert_time: Any, tokens_per_batch: Any, top_k: Any, dispatch: str, num_experts: int
) -> tuple[ExpertTime | None, int | None, int]:
    """Return the three as plain values, or raise `ValueError` for what does not go together."""
    if expert_time is not None and not isinstance(expert_time, ExpertTime):
        raise ValueError(
            f"expert_time={expert_time!r} is not an ExpertTime; use ExpertTime.preset, "
            "ExpertTime.read, or points of one's own"
        )
    if expert_time is not None and dispatch != "one":
        check_timed(dispatch)
    k = whole_number("top_k", top_k, 1, num_experts)
    if tokens_per_batch is None:
        if expert_time is not None or dispatch == "one":
            needs = "expert_time" if expert_time is not None else "dispatch='one'"
            raise ValueError(f"{needs} needs to know what a batch has; give tokens_per_batch")
        if k != 1:
            raise ValueError(
                f"top_k={k} is of the tokens of a batch; give tokens_per_batch, or leave it out"
            )
        return None, None, 1
    batch = whole_number("tokens_per_batch", tokens_per_batch, 1, MOST_TOKENS)
    if expert_time is None and dispatch != "one":
        raise ValueError(
            f"tokens_per_batch={batch} is for plans by time; give expert_time, use dispatch "
            "'one', or leave tokens_per_batch out"
        )
    return expert_time, batch, k


class Joint(NamedTuple):
    """Loads of several phases, as one problem has them; P phases, M samples of all together."""

    #: [L, E]: each phase's shares by its part of what counts, times the tokens of all of them; with
    #: an expert's time that part is by what batches take together
    load: Float
    rewrap: Rewrap  #: of the first phase's load
    phases: tuple[Phase, ...]
    samples: Float  #: [M, L, E], each layer of each adding up to 1
    sample_weight: Float  #: [M], those of a phase adding up to its weight
    sample_phase: Int  #: [M], the number of the phase that each is of

    @property
    def of_problem(self) -> dict[str, Any]:
        """What a `Problem` has beside the load, by its names."""
        return {name: value for name, value in self._asdict().items() if name != "load"}


def joined(
    loads: Mapping[str, Any],
    phase_weight: Mapping[str, float] | None = None,
    estimator: str | None = None,
    tokens_per_batch: Any = None,
    **batches: Any,
) -> Joint:
    """Return the loads of several phases as `evenload.solve` plans for them.

    `tokens_per_batch` is one number or one by phase; `batches` are `expert_time`, `top_k` and
    `dispatch`. What is wrong is a `ValueError` that names the phase.
    """
    if not loads:
        raise ValueError("load is an empty mapping; give at least one phase, as {'decode': load}")
    if estimator is not None and not any(map(is_trace, loads.values())):
        raise ValueError(
            f"estimator={estimator!r} needs loads over time, and each phase has one window; give a "
            "trace [T, L, E] of a phase, or leave estimator out"
        )
    found = {name: _outlook(name, load, estimator or "adaptive") for name, load in loads.items()}
    names = list(found)
    L, E = found[names[0]][0].shape
    for name, (load, _, _) in found.items():
        for what, here, there in zip(("layers", "experts"), load.shape, (L, E), strict=True):
            if here != there:
                raise ValueError(
                    f"load[{name!r}] has {here} {what}, and load[{names[0]!r}] {there}; use phases "
                    "of one model"
                )
    weights = None if phase_weight is None else _by_name("phase_weight", phase_weight, names)
    sizes: Mapping[str, Any] = dict.fromkeys(names, tokens_per_batch)
    if isinstance(tokens_per_batch, Mapping):
        sizes = _by_name("tokens_per_batch", tokens_per_batch, names)
    k = batches["top_k"]
    batch = {
        n: check_batches(tokens_per_batch=sizes[n], num_experts=E, **batches)[1] for n in names
    }
    if weights is None:
        weights = {n: _batches(found[n][0], (batch[n] or 0) * k) for n in names}
    weights = {n: positive_real(f"phase_weight[{n!r}]", weights[n]) for n in names}
    loads = {n: within_range(load).copy() for n, (load, _, _) in found.items()}
    parts = _parts({n: weights[n] * _batch_time(loads[n], batch[n], **batches) for n in names})
    phases = [Phase(n, loads[n], part, batch[n]) for n, part in _parts(weights).items()]
    # Searches by time know that a batch of more tokens takes longer; those by tokens do not.
    counts = _parts(weights) if batches["dispatch"] in ("even", "one") else parts
    mixed = sum(parts[n] * shares(loads[n]) for n in names)
    tokens = sum(load.sum(axis=1, keepdims=True) for load in loads.values())
    likely = [may_be for _, may_be, _ in found.values()]
    return Joint(
        np.asarray(mixed * tokens),
        found[names[0]][2],
        tuple(phases),
        np.concatenate([may_be.load for may_be in likely]),
        np.concatenate([f.weight * counts[n] for n, f in zip(names, likely, strict=True)]),
        np.repeat(np.arange(len(names)), [len(may_be.weight) for may_be in likely]),
    )


def _parts(weights: Mapping[str, float]) -> dict[str, float]:
    """Divide weights by their sum."""
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}


def _batch_time(
    load: Float, batch: int | None, expert_time: ExpertTime | None, top_k: int, dispatch: str
) -> float:
    """Return the seconds of all experts of a batch, a mean layer's; 1 where tokens count."""
    if expert_time is None or batch is None:
        return 1.0
    seconds = expert_time.expected_seconds(load, tokens_per_batch=batch, top_k=top_k)
    return float(seconds.sum(axis=1).mean()) or 1.0


def _outlook(name: str, load: Any, estimator: str) -> tuple[Float, Samples, Rewrap]:
    """Return what is expected of a phase, [L, E], samples of it, and how results go back."""
    try:
        if is_trace(load):
            return outlook(load, estimator)
        checked, rewrap = check_load(load)
    except ValueError as error:
        raise ValueError(f"load[{name!r}]: {error}") from None
    return checked, Samples(shares(within_range(checked))[None], np.ones(1)), rewrap


def _batches(load: Float, tokens: int) -> float:
    """Return how many batches of so many expert tokens a load has; 1 where that is not known."""
    return float(load.sum(axis=1).mean() / tokens) if tokens and load.any() else 1.0


def _by_name(argument: str, given: Any, names: list[str]) -> Mapping[str, Any]:
    """Return what is given for each phase; a `ValueError` if that is for others or not for all."""
    there = ", ".join(map(repr, names))
    if not isinstance(given, Mapping):
        raise ValueError(f"{argument}={given!r} is not by phase; use a dict with {there}")
    for name in given:
        if name not in names:
            raise ValueError(f"{argument} has {name!r}, and load no such phase; use {there}")
    for name in names:
        if name not in given:
            raise ValueError(f"{argument} has nothing for {name!r}; use a dict with {there}")
    return given


def heaviest(weight: Float, phase: Int | None, count: int) -> tuple[Int, Float]:
    """Choose about `count` samples [M] of the most weight, as many of each phase.

    Returns
    -------
    chosen : int64 ndarray
        Their numbers, those of a phase by descending weight.
    weight : float64 ndarray
        Theirs; of several phases each keeps the weight that all its samples had.
    """
    if phase is None or phase.max(initial=0) == 0:
        chosen = np.argsort(-weight, kind="stable")[:count]
        return chosen, weight[chosen]
    numbers, weights = [], []
    for p in range(int(phase.max()) + 1):
        own = np.flatnonzero(phase == p)
        kept = own[np.argsort(-weight[own], kind="stable")][
            : max(count // (int(phase.max()) + 1), 1)
        ]
        numbers.append(kept)
        weights.append(weight[kept] * (weight[own].sum() / weight[kept].sum()))
    return np.concatenate(numbers), np.concatenate(weights)
