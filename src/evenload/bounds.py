"""Proven upper limits on the balancedness that a placement could reach.

Each argument shows some time, load / speed of the GPU that needs longest, to be out of reach; the
proofs stand in `core.bound`:

- *mean*: all GPUs together carry the total, so none is needed for longer than the total over the
  sum of the speeds, and the balancedness is at most 1;
- *largest share*: an expert is cut by its replicas, and they are limited, more so where every
  expert needs several;
- *hot set*: the GPUs that hold the hottest experts have other slots to fill;
- *partners*: beside a big replica there must be a small one;
- *groups*, where each has to stay on one node: every content that a node could have is bounded by
  the arguments above, on the GPUs of that node, and the best way to deal the groups out is searched
  over all there are. Where these are too many (`core.deals`), `_relaxed_times`.

They hold for every placement that fills all living slots, duplicates included. *Partners* is for
tokens that are shared evenly among an expert's replicas; all others hold however they are shared,
and so for every dispatch. Where there are no more slots than experts all is one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evenload.arrays import Float, Int
from evenload.batches import judge
from evenload.cluster import Cluster
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.threads import STEPS_A_THREAD, spread

ROUNDING = 1e-9  # how far sums in another order may be off, with room to spare


class Gpus(NamedTuple):
    """Some GPUs as `core.bound` takes them."""

    num_slots: int
    reach: Float
    fewest: Int
    most: Int
    copies: int

    @classmethod
    def of(cls, cluster: Cluster, gpus: tuple[int, ...], copies: int = 1) -> Gpus:
        """Sum up the GPUs of these numbers, where every expert has so many replicas at least."""
        speed, slots = np.array(cluster.speed)[list(gpus)], np.array(cluster.slots)[list(gpus)]
        speed.sort()
        slots.sort()
        rows = speed[::-1], slots, slots[::-1]
        reach, fewest, most = (np.concatenate(([0], np.cumsum(row))) for row in rows)
        return cls(int(fewest[-1]), reach, fewest, most, copies)


def balancedness_bound(problem: Problem, *, thorough: bool = True) -> Float:
    """Bound the balancedness of every placement of a problem: float64 [L], in (0, 1].

    Where groups must stay on one node, of placements that keep to that. In each layer the strongest
    of the arguments counts, see `evenload.bounds`; 1 for a layer without load. Only `thorough`
    looks for partners: milliseconds for a layer with two or three slots per GPU, against some 50
    microseconds for all other arguments.
    """
    if problem.dispatch == "one":
        L, E = problem.load.shape
        placement = Placement.trivial(L, E, problem.cluster)  # any: its bound is for all
        return judge(problem.of_load(problem.load), placement).bound
    replicated = problem.cluster.num_living_slots > problem.num_experts
    limits = [
        _bound(problem, thorough and (dispatch == "even" or not replicated))
        for dispatch, _ in problem.dispatches
    ]
    return problem.mixed(limits)


def _bound(problem: Problem, thorough: bool) -> Float:
    """Bound it under one dispatch: an even one, if thoroughly."""
    load = _relative_load(problem.load)
    living = Gpus.of(problem.cluster, problem.cluster.living_gpus, _copies(problem))
    descending = _descending(load)
    time = _times(descending, living)
    if problem.keeps_groups:
        time = np.maximum(time, _group_times(problem, load, thorough))
    elif thorough:
        time = _tightened(descending, living, time)
    mean = (load.sum(axis=1) > 0.0) / living.reach[-1]
    return np.where(time > mean, mean / np.where(time > 0.0, time, 1.0), 1.0)


def _descending(load: Float) -> Float:
    return np.ascontiguousarray(np.sort(load, axis=-1)[..., ::-1])


def _relative_load(load: Float) -> Float:
    """Divide each layer by its total, [L, E]; a layer without load stays 0."""
    largest = load.max(axis=1, keepdims=True)
    relative = load / np.where(largest > 0.0, largest, 1.0)
    total = np.sort(relative, axis=1).sum(axis=1, keepdims=True)  # whatever the experts' order
    return relative / np.where(total > 0.0, total, 1.0)


def _times(load: Float, gpus: Gpus) -> Float:
    """Bound the time of each row of a load [X, E], descending, by the quick arguments."""
    from evenload.core.bound import quick_times

    time = np.empty(len(load))
    spread(len(load), load.size, lambda a, b: quick_times(load[a:b], *gpus, time[a:b]))
    return time


def _tightened(load: Float, gpus: Gpus, time: Float) -> Float:
    """Bound the time of each row by partners too, from the times of the other arguments on."""
    from evenload.core.bound import tighten_times

    time, steps = time.copy(), len(load) * STEPS_A_THREAD
    known = gpus.num_slots, gpus.reach, gpus.fewest, gpus.copies
    spread(len(load), steps, lambda a, b: tighten_times(load[a:b], *known, time[a:b]))
    return time


def _group_times(problem: Problem, load: Float, thorough: bool) -> Float:
    """Bound the time of placements that keep each group on one node, [L]."""
    from evenload.core.deals import all_deals, deal_out

    cluster = problem.cluster
    nodes = [Gpus.of(cluster, gpus, _copies(problem)) for gpus in cluster.living_by_node]
    keys = [(node.reach.tobytes(), node.fewest.tobytes()) for node in nodes]
    different = list(dict.fromkeys(keys))
    kind = np.array([different.index(key) for key in keys])
    kinds = [nodes[keys.index(key)] for key in different]
    deals = all_deals(problem.num_groups, len(nodes), len(kinds) == 1)
    if deals is None:
        return _relaxed_times(load, problem.num_groups, kinds, len(nodes))
    by_group = load.reshape(len(load), problem.num_groups, -1)
    content = _descending(by_group[:, deals.sets].reshape(len(load), len(deals.sets), -1))
    rows = content.reshape(-1, content.shape[2])
    time = np.stack([_times(rows, gpus).reshape(content.shape[:2]) for gpus in kinds], axis=1)
    # The best deal of each layer is searched, and partners looked for only where that may change
    # it: the node that needs longest in the best deal is bounded more tightly, and the deals
    # compared anew, until that node has been. No other content's time matters: raising it cannot
    # lower the longest. Content is [L, X, E / N], time [L, J, X] for a node of each kind.
    tightened = np.full(time.shape, not thorough)
    longest = np.empty(len(time))
    pending = np.arange(len(time))
    while pending.size:
        dealt, needed = np.empty((pending.size, kind.size), np.int64), np.empty(pending.size)
        deal_out(time[pending], kind, deals.steps, problem.num_groups, dealt, needed)
        longest[pending] = needed
        node = (time[pending[:, None], kind, dealt] == needed[:, None]).argmax(axis=1)
        j, x = kind[node], dealt[np.arange(pending.size), node]
        loose = ~tightened[pending, j, x]
        pending, j, x = pending[loose], j[loose], x[loose]
        for this, gpus in enumerate(kinds):
            at = pending[j == this], this, x[j == this]
            time[at] = _tightened(content[at[0], at[2]], gpus, time[at])
            tightened[at] = True
    return longest


def _relaxed_times(load: Float, num_groups: int, kinds: list[Gpus], num_nodes: int) -> Float:
    """Bound the time of placements that keep each group on one node, [L], without searching.

    With g groups a node, some node carries at least each of

    - the heaviest group and the g - 1 lightest;
    - for g = 2, the i-th heaviest and the i-th lightest group, for every i: of the i heaviest
      groups, either two share a node, or one of them has a partner that is none of the i - 1
      lightest;

    and carries it no faster than all GPUs of one node. The heaviest expert is on a node whose slots
    less its other experts limit the replicas.
    """
    L, E = load.shape
    groups = np.sort(load.reshape(L, num_groups, -1).sum(axis=2), axis=1)
    each = num_groups // num_nodes
    node = groups[:, -1] + groups[:, : each - 1].sum(axis=1)
    if each == 2:
        node = np.maximum(node, (groups + groups[:, ::-1]).max(axis=1))
    replicas = [gpus.num_slots - (E // num_nodes - 1) * gpus.copies for gpus in kinds]
    fastest = max(
        gpus.reach[min(most, gpus.reach.size - 1)]
        for gpus, most in zip(kinds, replicas, strict=True)
    )
    time = node / max(gpus.reach[-1] for gpus in kinds)
    return np.asarray(np.maximum(time, load.max(axis=1) / fastest) * (1.0 - ROUNDING))


def _copies(problem: Problem) -> int:
    """Return the copies of each expert that a bound may count on: that takes even shares."""
    return problem.apart[0] if problem.dispatch == "even" else 1
