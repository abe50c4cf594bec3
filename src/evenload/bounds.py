"""Proven upper limits on the balancedness that a placement could reach.

Each argument is a function that shows some time, load / speed of the GPU that needs longest, to be
out of reach; the proofs stand with them:

- *mean*: all GPUs together carry the total, so none is needed for longer than the total over the
  sum of the speeds, and the balancedness is at most 1;
- *largest share*: `kernels.bound_share`;
- *hot set*: `kernels.bound_hot_set`;
- *partners*: `kernels.bound_partner`;
- *groups*, where each has to stay on one node: every content that a node could have is bounded by
  the arguments above, on the GPUs of that node, and the best way to deal the groups out is searched
  over all there are. Where these are too many (`kernels.deals`), `_relaxed_times`.

They hold for every placement that fills all living slots and shares an expert's tokens evenly among
its replicas, duplicates included.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.cluster import Cluster
from evenload.kernels.bound_gpus import Gpus, gpus_of
from evenload.problem import Problem
from evenload.threads import STEPS_A_THREAD, spread

Float = NDArray[np.float64]
Int = NDArray[np.int64]

ROUNDING = 1e-9  # how far sums in another order may be off, with room to spare


def balancedness_bound(problem: Problem, *, thorough: bool = True) -> Float:
    """Bound the balancedness of every placement of a problem, whichever planner made it.

    In each layer the strongest of the arguments counts, see `evenload.bounds`.

    Parameters
    ----------
    problem : Problem
        Load, cluster and groups. Where groups must stay on one node, the bound is on placements
        that keep to that; else on all.
    thorough : bool, default True
        Whether to look for partners too: milliseconds for a layer with two or three slots a GPU,
        against some 50 microseconds for all other arguments.

    Returns
    -------
    float64 ndarray, [L]
        In (0, 1]; 1 for a layer without load.
    """
    load = _relative_load(problem.load)
    living = _gpus(problem.cluster, problem.cluster.living_gpus)
    time = _times(np.sort(load, axis=1)[:, ::-1], living)
    if problem.hierarchical and len(problem.cluster.living_by_node) > 1:
        time = np.maximum(time, _group_times(problem, load, thorough))
    elif thorough:
        time = _tightened(np.sort(load, axis=1)[:, ::-1], living, time)
    mean = (load.sum(axis=1) > 0.0) / living.reach[-1]
    return np.where(time > mean, mean / np.where(time > 0.0, time, 1.0), 1.0)


def _relative_load(load: Float) -> Float:
    """Divide each layer by its total, [L, E]; a layer without load stays 0."""
    largest = load.max(axis=1, keepdims=True)
    relative = load / np.where(largest > 0.0, largest, 1.0)
    total = np.sort(relative, axis=1).sum(axis=1, keepdims=True)  # whatever the experts' order
    return relative / np.where(total > 0.0, total, 1.0)


def _gpus(cluster: Cluster, numbers: tuple[int, ...]) -> Gpus:
    chosen = list(numbers)
    return gpus_of(np.array(cluster.speed)[chosen], np.array(cluster.slots)[chosen])


def _times(load: Float, gpus: Gpus) -> Float:
    """Bound the time of each row of a load [X, E], each descending, by the quick arguments."""
    from evenload.kernels.bound import quick_times

    rows = np.ascontiguousarray(load)
    time = np.empty(len(rows))

    def run(first: int, end: int) -> None:
        quick_times(rows[first:end], gpus, time[first:end])

    spread(len(rows), rows.size, run)
    return time


def _tightened(load: Float, gpus: Gpus, time: Float) -> Float:
    """Bound the time of each row by partners too, from the times of the other arguments on."""
    from evenload.kernels.bound import tighten_times

    rows = np.ascontiguousarray(load)
    tighter = time.copy()

    def run(first: int, end: int) -> None:
        tighten_times(rows[first:end], gpus, tighter[first:end])

    spread(len(rows), len(rows) * STEPS_A_THREAD, run)
    return tighter


def _group_times(problem: Problem, load: Float, thorough: bool) -> Float:
    """Bound the time of placements that keep each group on one node, [L]."""
    from evenload.kernels.deals import all_deals

    cluster = problem.cluster
    nodes = [_gpus(cluster, gpus) for gpus in cluster.living_by_node]
    kinds, kind = _kinds(nodes)
    deals = all_deals(problem.num_groups, len(nodes), len(kinds) == 1)
    if deals is None:
        return _relaxed_times(load, problem.num_groups, kinds, len(nodes))
    by_group = load.reshape(len(load), problem.num_groups, -1)
    content = by_group[:, deals.sets].reshape(len(load), len(deals.sets), -1)
    content = np.sort(content, axis=2)[:, :, ::-1]
    rows = content.reshape(-1, content.shape[2])
    time = np.stack([_times(rows, gpus).reshape(content.shape[:2]) for gpus in kinds], axis=1)
    return _lightest_deals(content, time, kinds, kind, deals.steps, problem.num_groups, thorough)


def _kinds(nodes: list[Gpus]) -> tuple[list[Gpus], Int]:
    """Tell equal nodes: one of each kind, and the kind of each node."""
    keys = [(node.reach.tobytes(), node.fewest.tobytes()) for node in nodes]
    different = list(dict.fromkeys(keys))
    kind = np.array([different.index(key) for key in keys])
    return [nodes[keys.index(key)] for key in different], kind


def _lightest_deals(
    content: Float,
    time: Float,
    kinds: list[Gpus],
    kind: Int,
    steps: Int,
    num_groups: int,
    thorough: bool,
) -> Float:
    """Search the best deal of each layer, and look for partners only where that may change it.

    The node that needs longest in the best deal is bounded more tightly, and the deals compared
    anew, until that node has been. No other content's time matters: raising it cannot lower the
    longest.

    Parameters
    ----------
    content : float64, [L, X, E / N], descending
        Load of the experts of each content of a node.
    time : float64, [L, J, X], changed in place
        What a node of each kind needs for it at least.
    """
    from evenload.kernels.deals import lightest_deal

    tightened = np.full(time.shape, not thorough)
    longest = np.empty(len(time))
    pending = list(range(len(time)))
    while pending:
        loose: dict[int, list[tuple[int, int]]] = {}
        for layer in pending:
            longest[layer], j, x = lightest_deal(time[layer], kind, steps, num_groups)
            if not tightened[layer, j, x]:
                loose.setdefault(j, []).append((layer, x))
        for j, found in loose.items():
            layers, sets = map(list, zip(*found, strict=True))
            rows = content[layers, sets]
            time[layers, j, sets] = _tightened(rows, kinds[j], time[layers, j, sets])
            tightened[layers, j, sets] = True
        pending = sorted(layer for found in loose.values() for layer, _ in found)
    return longest


def _relaxed_times(load: Float, num_groups: int, kinds: list[Gpus], num_nodes: int) -> Float:
    """Bound the time of placements that keep each group on one node, without searching.

    With g groups a node, some node carries at least each of

    - the heaviest group and the g - 1 lightest;
    - for g = 2, the i-th heaviest and the i-th lightest group, for every i: of the i heaviest
      groups, either two share a node, or one of them has a partner that is none of the i - 1
      lightest;

    and carries it no faster than all GPUs of one node. The heaviest expert is on a node whose slots
    less its other experts limit the replicas.

    Parameters
    ----------
    load : float64, [L, E], relative

    Returns
    -------
    float64, [L]
    """
    L, E = load.shape
    groups = np.sort(load.reshape(L, num_groups, -1).sum(axis=2), axis=1)
    each = num_groups // num_nodes
    node = groups[:, -1] + groups[:, : each - 1].sum(axis=1)
    if each == 2:
        node = np.maximum(node, (groups + groups[:, ::-1]).max(axis=1))
    replicas = [gpus.num_slots - E // num_nodes + 1 for gpus in kinds]
    fastest = max(
        gpus.reach[min(most, gpus.reach.size - 1)]
        for gpus, most in zip(kinds, replicas, strict=True)
    )
    time = node / max(gpus.reach[-1] for gpus in kinds)
    relaxed: Float = np.maximum(time, load.max(axis=1) / fastest) * (1.0 - ROUNDING)
    return relaxed
