"""What the experts of a batch take: under a placement, and at least.

An expert with n tokens in a batch and r replicas costs r f(n / r). Seconds are means over batches,
see `evenload.cost.TimeTable`; the slowest GPU is the one with the largest mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evenload.arrays import Float, Int, keep_numpy
from evenload.cluster import Cluster
from evenload.cost.expert_time import ExpertTime
from evenload.cost.table import CERTAIN, TimeTable
from evenload.dispatch import check_timed

if TYPE_CHECKING:
    from evenload.placement import Placement
    from evenload.problem import Problem

MOST_REPLICAS = 128  # that a table knows; more take together what so many take
ROUNDING = 1e-9  # what a table's integers may be off, with room to spare
BETWEEN = 1e-3  # what tables of two curves may be off between their chances, with room to spare


def most_replicas(cluster: Cluster, num_experts: int) -> int:
    """Return how many replicas of an expert a plan's table has to know."""
    spare = cluster.num_living_slots - num_experts
    return min(spare + 1, 2 * len(cluster.living_gpus), MOST_REPLICAS)


def table_of(problem: Problem, phase: int, max_replicas: int) -> TimeTable:
    """Return the times of a phase's batches."""
    curve, batch = problem.expert_time, problem.phases[phase].tokens_per_batch
    assert curve is not None
    assert batch is not None
    return TimeTable.build([curve], batch, max_replicas)


def gpu_seconds(
    placement: Placement,
    load: Any,
    expert_time: ExpertTime,
    *,
    tokens_per_batch: int,
    top_k: int = 1,
    dispatch: str = "even",
) -> Any:
    """Return the mean seconds per batch that each GPU takes for its experts, float64 [L, G].

    Parameters
    ----------
    placement : Placement
        Slower GPUs take longer, by the speeds of its cluster; one that is gone takes 0.
    load : array_like or torch.Tensor, [L, E] or [E]
        Tokens of each expert in a window.
    expert_time : ExpertTime
        Of the fastest GPU.
    tokens_per_batch, top_k : int
        As for `ExpertTime.expected_seconds`.
    dispatch : {"even", "live"}
        ``"live"`` shares the window's tokens so that the fullest GPU has fewest; a replica that
        gets none takes no time.

    Raises
    ------
    ValueError
        For a load of another model, a number out of range, or another dispatch.

    Examples
    --------
    >>> from evenload import Cluster, Placement
    >>> read = ExpertTime([(1, 1.0), (100, 1.0), (200, 2.0)])
    >>> place = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
    >>> gpu_seconds(place, [[98, 1, 1]], read, tokens_per_batch=100).round(2)
    array([[1.63, 1.63]])
    """
    checked, rewrap = placement.check_load(load)
    plain = placement.rewrapped(keep_numpy)
    return rewrap(_gpu_seconds(plain, checked, expert_time, tokens_per_batch, top_k, dispatch))


def layer_seconds(placement: Placement, load: Any, expert_time: ExpertTime, **how: Any) -> Any:
    """Return the mean seconds per batch of the slowest GPU of each layer, float64 [L].

    Parameters and errors are those of `gpu_seconds`.
    """
    checked, rewrap = placement.check_load(load)
    each = gpu_seconds(placement.rewrapped(keep_numpy), checked, expert_time, **how)
    return rewrap(each.max(axis=1))


def _gpu_seconds(
    placement: Placement,
    checked: Float,
    expert_time: ExpertTime,
    tokens_per_batch: int,
    top_k: int,
    dispatch: str,
) -> Float:
    check_timed(dispatch)
    rows, cluster = placement.rows, placement.cluster
    L, G = len(rows), cluster.num_gpus
    layer, slot = np.nonzero(rows >= 0)
    expert = rows[layer, slot]
    if dispatch == "even":
        R = 1 << (int(placement.counts.max()) - 1).bit_length()
        table = TimeTable.build([expert_time], tokens_per_batch, R)
        ticks = table.of(checked, top_k=top_k)[0]
        count = placement.counts[layer, expert]
        each = ticks[count - 1, layer, expert] / count
    else:
        table = TimeTable.build([expert_time], tokens_per_batch)
        part = np.zeros(rows.shape)
        weights, slots = placement.weights(checked, dispatch), placement.logical_to_physical
        assert weights is not None
        at, e, x = np.nonzero(slots >= 0)
        part[at, slots[at, e, x]] = weights[at, e, x]
        chance = table.chances(checked, top_k=top_k)[layer, expert] * part[layer, slot]
        each = table.at(np.minimum(np.rint(chance), CERTAIN).astype(np.int64))[0, 0]
    gpu = layer * G + cluster.gpu_of_slot[slot]
    work = np.bincount(gpu, each * table.seconds_per_tick, L * G).reshape(L, G)  # one by one
    living = cluster.capacity > 0.0
    return np.where(living, work / np.where(living, cluster.capacity, 1.0), 0.0)


def planned_seconds(problem: Problem, placement: Placement) -> dict[str, Float]:
    """Return what `layer_seconds` says of each phase of a problem, by the phase's name."""
    curve, found = problem.expert_time, dict[str, Float]()
    assert curve is not None
    for phase in problem.phases:
        assert phase.tokens_per_batch is not None
        how = {"tokens_per_batch": phase.tokens_per_batch, "top_k": problem.top_k}
        found[phase.name] = np.zeros(problem.num_layers)
        for dispatch, share in problem.dispatches:
            seconds = layer_seconds(placement, phase.load, curve, dispatch=dispatch, **how)
            found[phase.name] += share * seconds
    return found


def over_phases(problem: Problem, seconds: dict[str, Float]) -> Float:
    """Return the mean over phases, each by its weight, [L]."""
    weights = [phase.weight for phase in problem.phases]
    return np.asarray(np.average(np.stack(list(seconds.values())), axis=0, weights=weights))


def replica_seconds(problem: Problem, num_replicas: int) -> Float:
    """Return what one of 1 to R replicas of each expert takes per batch: float64 [L, E, R].

    Of the first phase of a problem, and on the fastest GPU.
    """
    ticks = _ticks(problem, 0, num_replicas)[0].transpose(1, 2, 0)
    unit = table_of(problem, 0, num_replicas).seconds_per_tick
    return np.asarray(ticks / np.arange(1, num_replicas + 1) * unit)


def tokens_per_second(problem: Problem) -> float:
    """Return the tokens, each counted for every expert it goes to, that one GPU does at best.

    In a mean layer, at full speed and as `undivided_seconds` says.
    """
    weights = [phase.weight for phase in problem.phases]
    batch = np.average([phase.tokens_per_batch or 0 for phase in problem.phases], weights=weights)
    return float(batch * problem.top_k / undivided_seconds(problem).mean())


def undivided_seconds(problem: Problem) -> Float:
    """Return what a layer's experts take together per batch, each with its best number: [L].

    In seconds of the fastest GPU; the time of all GPUs, if the load could be divided at will.
    """
    R = most_replicas(problem.cluster, problem.num_experts)
    return over_phases(problem, {
        phase.name: _ticks(problem, n, R)[0].min(axis=0).sum(axis=1)
        * table_of(problem, n, R).seconds_per_tick
        for n, phase in enumerate(problem.phases)
    })  # fmt: skip


def _ticks(problem: Problem, phase: int, R: int) -> Int:
    return table_of(problem, phase, R).of(problem.phases[phase].load, top_k=problem.top_k)


def least_seconds(problem: Problem) -> Float:
    """Bound the mean seconds per batch of the slowest GPU of every placement: float64 [L].

    - *all slots*: GPUs together bear the least sum of r f(n / r) over counts r, 1 or more of each
      expert, that fill all S slots; where r f(n / r) is not convex in r, of its lower hull. Each
      slot beyond the first of each expert then adds the least that is left to add.
    - *largest share*: the replicas of an expert are on r GPUs at most, one of which bears its part
      of r f(n / r) or more. Whatever the counts, S slots keep only S - E of these times, over all
      experts and r, from being the largest.

    For a live split, which may leave replicas idle: however n tokens are divided, one part takes
    f(1) or more, and no token takes less than the least f(k) / k. Over phases it is the mean, each
    by its weight. Groups that share a node and copies that have to survive only add to it.
    """
    bounds = {}
    for n, phase in enumerate(problem.phases):
        bounds[phase.name] = np.zeros(problem.num_layers)
        for dispatch, share in problem.dispatches:
            bound = _least_even if dispatch == "even" else _least_live
            bounds[phase.name] += share * bound(problem, n)
    return np.asarray(over_phases(problem, bounds) * (1.0 - ROUNDING))


def _least_even(problem: Problem, phase: int) -> Float:
    cluster, E = problem.cluster, problem.num_experts
    spare = cluster.num_living_slots - E
    R = min(spare + 1, MOST_REPLICAS)
    ticks = _ticks(problem, phase, R)[0]
    speed = np.sort(cluster.capacity[np.array(cluster.living_gpus)])[::-1]
    if spare >= R:  # too many to tell of each: as if none had to be filled
        whole = _least_live(problem, phase) * speed.sum()
    else:
        added = np.sort(_hull(ticks).transpose(1, 0, 2).reshape(ticks.shape[1], -1), axis=1)
        whole = ticks[0].sum(axis=1) + added[:, :spare].sum(axis=1)
        whole = whole * table_of(problem, phase, R).seconds_per_tick
    reach = np.cumsum(speed)[np.minimum(np.arange(R), len(speed) - 1)]
    share = np.minimum.accumulate(ticks / reach[:, None, None], axis=0)
    each = np.sort(share.transpose(1, 0, 2).reshape(ticks.shape[1], -1), axis=1)[:, ::-1]
    largest = each[:, min(spare, each.shape[1] - 1)]
    largest = largest * table_of(problem, phase, R).seconds_per_tick
    return np.asarray(np.maximum(whole / speed.sum(), largest))


def _hull(total: Int) -> Float:
    """Return the rises of the lower convex hull of each column, [R, ...] -> [R - 1, ...].

    By the formula of isotonic regression: the rise after r is the most, over i up to r, of the
    least slope from i to any j beyond r.
    """
    R = len(total)
    rise = np.full((R - 1, *total.shape[1:]), -np.inf)
    for i in range(R - 1):
        run = np.arange(1, R - i).reshape(-1, *(1,) * (total.ndim - 1))
        slope = (total[i + 1 :] - total[i]) / run
        rise[i:] = np.maximum(rise[i:], np.minimum.accumulate(slope[::-1], axis=0)[::-1])
    return rise


def _least_live(problem: Problem, phase: int) -> Float:
    curve, batch = problem.expert_time, problem.phases[phase].tokens_per_batch
    assert curve is not None
    assert batch is not None
    tokens = np.arange(1, batch + 1)
    seconds = curve.seconds(tokens)
    least = ExpertTime.roofline(float(seconds[0]), 1.0, float((seconds / tokens).min()), 1.0)
    how = {"tokens_per_batch": batch, "top_k": problem.top_k}
    whole = least.expected_seconds(problem.phases[phase].load, **how).sum(axis=1)
    return np.asarray(whole * (1.0 - BETWEEN) / problem.cluster.capacity.sum())
