"""Batches drawn from what a load tells, and what GPUs do with them under the dispatch ``"one"``.

An expert has n tokens of a batch, n ~ Binomial(batch, chance that a token goes to it). The draws
come from integers, are the same on every machine, and are stratified: in D batches each expert's
draws have one from every D-th part of its distribution (McKay et al. 1979, Latin hypercubes).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from evenload.arrays import Float, Int, keep_numpy
from evenload.cluster import Cluster
from evenload.cost.expert_time import ExpertTime
from evenload.cost.table import CERTAIN, FULL, binomial
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.threads import spread

PLANNED_SEED, JUDGED_SEED = 1, 2  # a plan is judged by other batches than it was made for
JUDGED = 64  # batches that judge a plan
ROUGH = 512  # parts of a chance, so that few distributions are worked out
STEPS_A_BATCH = 8  # of threads, for each slot of a batch


class Chosen(NamedTuple):
    """What one replica of each active expert comes to, in B batches."""

    replica: Int  #: of each expert, in the order of ``logical_to_physical``, [B, L, E]
    total: Float  #: what each GPU does, over all batches: active experts or ticks, [L, G]
    latest: Float  #: when the fullest GPU is done: active experts or ticks, over speed, [B, L]


def slowness(placement: Placement) -> Float:
    """Return the time of each GPU for what takes the fastest one 1, [G]; infinite for dead ones."""
    capacity = placement.cluster.capacity
    with np.errstate(divide="ignore"):
        return np.asarray(capacity.max() / capacity)


def choose(placement: Placement, ticks: Int, *, by_count: bool) -> Chosen:
    """Choose the replicas that active experts use, see `core.assign`.

    `ticks` [B, L, E] are what each expert takes, 0 for those without tokens; `by_count` takes all
    active ones to be alike.
    """
    from evenload.core.assign import choose_by_count, choose_by_time

    slots, cluster = placement.rewrapped(keep_numpy).logical_to_physical, placement.cluster
    (B, L, E), G = ticks.shape, cluster.num_gpus
    unit, ticks = slowness(placement), np.ascontiguousarray(ticks)
    replica, total = np.zeros((L, B, E), np.int64), np.zeros((L, G), np.int64)
    latest = np.empty((L, B))
    by_layer = np.ascontiguousarray(ticks.transpose(1, 0, 2))
    order = by_layer if by_count else np.argsort(-by_layer, axis=2, kind="stable")

    def run(first: int, end: int) -> None:
        part = slice(first, end)
        where = slots[part], cluster.gpu_of_slot, unit
        out = replica[part], total[part], latest[part]
        if by_count:
            choose_by_count(by_layer[part], *where, *out)
        else:
            choose_by_time(by_layer[part], order[part], *where, *out)

    spread(L, B * placement.rows.size * STEPS_A_BATCH, run)
    return Chosen(replica.transpose(1, 0, 2), total.astype(np.float64), latest.T)


def ticks_of(counts: Int, expert_time: ExpertTime, seconds_per_tick: Float | float) -> Int:
    """Return what experts take by their tokens [...], in ticks."""
    return np.rint(expert_time.seconds(counts) / seconds_per_tick).astype(np.int64)


def tick(expert_time: ExpertTime, tokens: int) -> float:
    """Return the seconds of a tick, for batches of so many tokens."""
    return float(expert_time.seconds(tokens)) / FULL


def on_gpus(placement: Placement, chosen: Int, amount: Int) -> Int:
    """Add up an amount of each expert [B, L, E] on the GPUs of the replicas chosen: [B, L, G]."""
    slots, cluster = placement.rewrapped(keep_numpy).logical_to_physical, placement.cluster
    (B, L, E), G = chosen.shape, cluster.num_gpus
    slot = slots[np.arange(L)[:, None], np.arange(E), chosen]
    row = np.arange(B * L).reshape(B, L, 1) * G
    found = np.zeros(B * L * G, np.int64)
    np.add.at(found, row + cluster.gpu_of_slot[slot], amount)
    return found.reshape(B, L, G)


@dataclass(frozen=True, eq=False)
class Judged:
    """What one replica of each active expert comes to: means over batches drawn from a load."""

    active: Float  #: most active experts on a GPU, [L]
    active_bound: Float  #: the least that any placement can have, [L]
    gpu_load: Float  #: tokens of each GPU in the load, [L, G]
    work: Float  #: what GPUs do, over their speeds, if that could be divided at will, [L]
    latest: Float  #: the slowest GPU's time, [L]
    earliest: Float  #: when it is at the earliest, with any placement, [L]
    seconds_per_tick: float | None  #: of those three; None where they count active experts

    @property
    def balancedness(self) -> Float:
        """Mean over largest of what GPUs do, [L]."""
        return _part(self.work, self.latest)

    @property
    def bound(self) -> Float:
        """What no placement's balancedness exceeds, [L]."""
        return _part(self.work, self.earliest)

    @property
    def seconds(self) -> Float | None:
        """Seconds of the slowest GPU, [L]; None without an `ExpertTime`."""
        return None if self.seconds_per_tick is None else self.latest * self.seconds_per_tick

    @property
    def seconds_bound(self) -> Float | None:
        """The least seconds that any placement can have, [L]."""
        return None if self.seconds_per_tick is None else self.earliest * self.seconds_per_tick


def _part(least: Float, most: Float) -> Float:
    return np.minimum(np.divide(least, most, out=np.ones_like(least), where=most > 0.0), 1.0)


def _earliest(cluster: Cluster, slow: Float) -> Float:
    """Return when the last GPU is done at the earliest, by the number of active experts.

    A GPU is done with its first, second, ... expert at some time, and n experts take the n first of
    all these times.
    """
    living = np.array(cluster.living_gpus)
    done = [np.arange(1, cluster.slots[g] + 1) * slow[g] for g in living]
    return np.concatenate([[0.0], np.sort(np.concatenate(done))])


def judge(problem: Problem, placement: Placement, number: int = JUDGED) -> Judged:
    """Judge a placement by batches drawn from what a problem's load may be."""
    counts, tokens = draw(problem, number, JUDGED_SEED)
    return judge_batches(placement, counts, problem.expert_time, int(tokens.max()))


def judge_batches(
    placement: Placement, counts: Int, expert_time: ExpertTime | None = None, most: int = 0
) -> Judged:
    """Judge a placement by batches of tokens of each expert, [B, L, E], of `most` tokens each."""
    unit = None if expert_time is None else tick(expert_time, most)
    active, ticks = _work(counts, None, most), _work(counts, expert_time, most)
    chosen = choose(placement, ticks, by_count=unit is None)
    cluster, slow = placement.cluster, slowness(placement)
    number_active = active.sum(axis=2)
    work = ticks.sum(axis=2) / (1.0 / slow).sum()
    shortest = np.where(active > 0, ticks, ticks.max(initial=1)).min(axis=2)
    earliest = np.maximum(work, _earliest(cluster, slow)[number_active] * shortest)
    earliest = np.maximum(earliest, ticks.max(axis=2) * slow.min())
    number = on_gpus(placement, chosen.replica, active)
    return Judged(
        active=number.max(axis=2).mean(axis=0),
        active_bound=np.ceil(number_active / len(cluster.living_gpus)).mean(axis=0),
        gpu_load=on_gpus(placement, chosen.replica, counts).mean(axis=0),
        work=work.mean(axis=0),
        latest=chosen.latest.mean(axis=0),
        earliest=earliest.mean(axis=0),
        seconds_per_tick=unit,
    )


def draw(problem: Problem, number: int, seed: int) -> tuple[Int, Int]:
    """Draw batches from what a problem's load may be.

    Experts of a rank, by falling load, get the same draws, so that these depend neither on the
    experts' names nor on the number of layers.

    Returns
    -------
    counts : int64 ndarray, [D, L, E]
        Tokens of each expert. Of a layer without load: as if all experts had the same.
    tokens : int64 ndarray, [D]
        What each batch has.
    """
    order = np.argsort(-problem.load, axis=1, kind="stable")
    samples, weight = problem.likely
    end = np.cumsum(weight)
    at = (np.arange(number) + 0.5) / number * end[-1]
    sample = np.minimum(np.searchsorted(end, at, side="right"), len(end) - 1)
    tokens = np.empty(number, np.int64)
    uniform = _uniform(order.shape[1], number, seed)
    layer = np.arange(len(order))[:, None]
    counts = np.empty((number, *order.shape), np.int64)
    phase_of = problem.sample_phase
    for m in np.unique(sample):
        phase = problem.phases[0 if phase_of is None else int(phase_of[m])]
        assert phase.tokens_per_batch is not None
        load = samples[m][layer, order]  # by rank, so that sums have one order
        total = np.cumsum(load, axis=1)[:, -1:]
        even = np.full_like(load, 1.0 / load.shape[1])
        share = np.divide(load, total, out=even, where=total > 0.0)
        chance = np.rint(np.minimum(share * problem.top_k, 1.0) * CERTAIN).astype(np.int64)
        drawn = np.flatnonzero(sample == m)
        tokens[drawn] = phase.tokens_per_batch
        ranked = _quantiles(phase.tokens_per_batch, chance, uniform[:, drawn])
        for d, row in zip(drawn, ranked, strict=True):
            counts[d][layer, order] = row
    return counts, tokens


def drawn_work(problem: Problem, number: int) -> tuple[Float, Float]:
    """Return what experts take in drawn batches [D, L, E], and what each batch counts [D].

    Active experts count 1, or by `Problem.expert_time` what their tokens take. A batch counts in
    proportion to all that it takes, since a search looks at each relative to its mean.
    """
    counts, tokens = draw(problem, number, PLANNED_SEED)
    work = _work(counts, problem.expert_time, int(tokens.max())).astype(np.float64)
    return work, np.maximum(work.sum(axis=(1, 2)), 1.0)


def _work(counts: Int, time: ExpertTime | None, most: int) -> Int:
    """Return what experts take: 1 for active ones, or ticks for batches of `most` tokens."""
    return (
        (counts > 0).astype(np.int64) if time is None else ticks_of(counts, time, tick(time, most))
    )


def _quantiles(batch: int, chance: Int, uniform: Int) -> Int:
    """Return the tokens of experts with a chance [L, E] at some numbers [E, d]: [d, L, E]."""
    found = np.empty((uniform.shape[1], *chance.shape), np.int64)
    fraction, power = np.frexp(chance)
    rough = np.ldexp(np.rint(fraction * ROUGH), power) / ROUGH
    for value in np.unique(rough):
        layer, e = np.nonzero(rough == value)
        first, end = _ends(batch, int(value))
        found[:, layer, e] = (first + np.searchsorted(end, uniform[e], side="right")).T
    return found


@lru_cache(maxsize=8192)
def _ends(batch: int, chance: int) -> tuple[int, Int]:
    first, weight = binomial(batch, chance)
    ends = np.rint(np.cumsum(weight) * CERTAIN).astype(np.int64)
    return first, ends[:-1]  # past all of them is the last number


def _uniform(experts: int, number: int, seed: int) -> Int:
    """Return numbers below `CERTAIN`, [experts, number], in each row one from every part of it."""
    raw = _hash(experts * number, 2 * seed).reshape(experts, number)
    place = np.argsort(np.argsort(raw, axis=1, kind="stable"), axis=1, kind="stable")
    inside = _hash(experts * number, 2 * seed + 1).reshape(experts, number)
    width = CERTAIN // number
    return np.asarray(place * width + (inside % np.uint64(width)).astype(np.int64))


def _hash(number: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Return the first numbers of SplitMix64 (Steele et al. 2014)."""
    step = 0x9E3779B97F4A7C15
    start = seed * 0xD1B54A32D192ED03 % 2**64
    x = np.uint64(start) + np.arange(1, number + 1, dtype=np.uint64) * np.uint64(step)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
