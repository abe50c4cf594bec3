"""Groups that stay on one node: which groups a node gets, and what each node makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from evenload.cluster import Cluster
from evenload.core.deals import Deals, all_deals
from evenload.problem import Problem
from evenload.solvers.fleets import GpuArrays, improve, improve_alike, no_homes, start
from evenload.solvers.homes import longest_first_onto_nodes
from evenload.solvers.local_search import search_rows
from evenload.solvers.rows import Float, Int, Rows, unless_all_fit

QUICK_TRIALS = 30  # one part in so many of the effort goes to trying each set
GRID = 2.0**32  # times are compared on it, so that equal ones are equal whatever scales the load
LEAST_QUICK_TRIALS = 5  # where there are fewer, trying the sets would take most of the time


def experts_of(sets: Int, group_size: int) -> Int:
    """List the experts of sets of groups: int64 [..., g] -> [..., g * group_size]."""
    experts = sets[..., None] * group_size + np.arange(group_size)
    return experts.reshape(*sets.shape[:-1], -1)


class Node(NamedTuple):
    """The living GPUs of one node.

    Parameters
    ----------
    cluster : Cluster
        They alone; its speeds count from the fastest of the node.
    speed : float
        Of the fastest of the node, that of the fastest of all nodes being 1.
    """

    cluster: Cluster
    speed: float

    @property
    def capacity(self) -> float:
        """Speed of all GPUs of the node, in the unit that all nodes share."""
        return float(self.cluster.capacity.sum()) * self.speed


def _nodes(cluster: Cluster) -> list[Node]:
    return [
        Node(cluster.only(gpus), float(cluster.capacity[list(gpus)].max()))
        for gpus in cluster.living_by_node
    ]


@dataclass(frozen=True, eq=False)
class Tried:
    """What each set of groups reaches on each kind of node.

    Parameters
    ----------
    time : float64 ndarray, [L, kinds, n]
        When the last GPU of the node is done, over that of a load divided at will: whole numbers,
        in parts of 2**32.
    expert : list of int64 ndarray, [L, n, slots]
        Plan of each set on each kind of node, experts numbered within the set.
    """

    time: Float
    expert: list[Int]


def plan_node(
    load: Float, cluster: Cluster, goal: Float, trials: int, begun: Rows | None = None
) -> Rows:
    """Plan rows on the GPUs of one node.

    Parameters
    ----------
    load : float64 ndarray, [X, E / N]
    cluster : Cluster
        The node's living GPUs.
    goal : float64 ndarray, [X]
        Time of the last GPU that is good enough, over that of a load divided at will.
    trials : int
        Of each row.
    begun : Rows, optional
        Where to go on from.
    """
    gpus = GpuArrays.of(cluster)
    if not gpus.alike:
        rows = begun or start(load, gpus, no_homes(load))
        return improve(load, gpus, no_homes(load), 0.0, rows, goal, trials)
    rows = begun or _start_alike(load, gpus.num_slots, len(gpus.slots))
    slots = gpus.slots[0]
    if slots == 1 or slots >= load.shape[1] or len(gpus.slots) == 1:
        return rows
    return improve_alike(load, gpus, rows, goal, trials)[0]


def _start_alike(load: Float, num_slots: int, num_gpus: int) -> Rows:
    return unless_all_fit(search_rows)(load, num_slots, num_gpus)


def _mean_time(load: Float, capacity: float) -> Float:
    """Time of each row if its load could be divided at will: float64 [X]."""
    total: Float = load.sum(axis=1) / capacity
    return total


def _time(load: Float, rows: Rows, node: Node) -> Float:
    """Time until the last GPU of each row is done: float64 [X]."""
    from evenload.kernels.evaluate import count_replicas, gpu_load, heaviest_time

    count = count_replicas(rows.expert, load.shape[1])
    per_gpu = gpu_load(load, rows.expert, count, node.cluster.first_slot)
    return heaviest_time(per_gpu, node.cluster.capacity) / node.speed


def _goal_of(load: Float, node: Node, wanted: Float) -> Float:
    """Turn a time [X] that is good enough into one relative to each row's mean."""
    mean = _mean_time(load, node.capacity)
    return np.divide(wanted, mean, out=np.ones_like(mean), where=mean > 0.0)


def _try_sets(problem: Problem, nodes: list[Node], sets: Int, wanted: Float, trials: int) -> Tried:
    """Plan each set of groups on each kind of node."""
    L, n = problem.num_layers, len(sets)
    expert = experts_of(sets, problem.num_experts // problem.num_groups)
    load = problem.load[:, expert].reshape(L * n, -1)
    time, rows = [], []
    for node in nodes:
        goal = _goal_of(load, node, np.repeat(wanted, n))
        rows.append(plan_node(load, node.cluster, goal, trials))
        time.append(_time(load, rows[-1], node).reshape(L, n))
    mean = _mean_time(problem.load, float(problem.cluster.capacity.sum()))[:, None, None]
    whole = np.stack(time, axis=1)
    relative = np.divide(whole, mean, out=np.zeros_like(whole), where=mean > 0.0)
    return Tried(np.rint(relative * GRID), [r.expert.reshape(L, n, -1) for r in rows])


def _deal_out(tried: Tried, kind: Int, deals: Deals, num_groups: int) -> Int:
    """Choose a set for each node of each layer: int64 [L, N]."""
    from evenload.core.deals import deal_out

    chosen = np.empty((len(tried.time), len(kind)), np.int64)
    deal_out(tried.time, kind, deals.steps, num_groups, chosen, np.empty(len(chosen)))
    return chosen


def _pack_by_load(problem: Problem, nodes: list[Node]) -> Int:
    """Deal the groups out by their loads alone: int64 [L, N, g]."""
    L, N = problem.num_layers, len(nodes)
    group_load = problem.load.reshape(L, problem.num_groups, -1).sum(axis=-1)
    if len(set(nodes)) == 1:
        return _start_alike(group_load, problem.num_groups, N).expert.reshape(L, N, -1)
    room, speed = np.full(N, problem.num_groups // N), np.array([n.capacity for n in nodes])
    home = np.stack([longest_first_onto_nodes(row, room, speed) for row in group_load])
    return np.argsort(home, axis=1, kind="stable").reshape(L, N, -1)


def tries_sets(trials: int) -> bool:
    """Whether an effort is enough to plan every set of groups that a node may get."""
    return trials // QUICK_TRIALS >= LEAST_QUICK_TRIALS


def plan_nodes(problem: Problem, goal: Float, trials: int, begun: Rows | None = None) -> Rows:
    """Plan a problem whose groups stay on one node each, living slots only.

    Every set of groups that a node may get is planned on that node, and the sets are dealt out so
    that the last node is done soonest: by what its GPUs can reach, not by the sums of its groups.
    Where there are too many sets (see `core.deals`), or the effort is small, the groups stay
    where they were begun, or are packed by their sums. The effort left goes to the nodes that were
    chosen.

    Parameters
    ----------
    problem : Problem
        Under the topology ``"strict"``, on two or more nodes.
    goal : float64 ndarray, [L]
        Time of the last GPU that is good enough, over that of a load divided at will.
    trials : int
        Of one layer.
    begun : Rows, optional
        A plan on equal nodes to go on from.
    """
    order = _experts_by_group_load(problem)
    ranked = replace(problem, load=np.take_along_axis(problem.load, order, axis=1))
    if begun is not None:
        begun = Rows(_inverse(order)[np.arange(len(order))[:, None], begun.expert])
    rows = _plan_ranked(ranked, goal, trials, begun)
    return Rows(np.take_along_axis(order, rows.expert, axis=1))


def _inverse(order: Int) -> Int:
    """Return the place of each number in rows that are permutations."""
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None, :], axis=1)
    return place


def _experts_by_group_load(problem: Problem) -> Int:
    """Order the experts group by group, the heaviest group first: int64 [L, E].

    Which node a group gets then does not depend on what the groups are called.
    """
    groups = problem.num_groups
    group_load = problem.load.reshape(problem.num_layers, groups, -1).sum(axis=-1)
    order = np.argsort(-group_load, axis=1, kind="stable")
    return experts_of(order, problem.num_experts // groups)


def _plan_ranked(problem: Problem, goal: Float, trials: int, begun: Rows | None) -> Rows:
    nodes = _nodes(problem.cluster)
    wanted = goal * _mean_time(problem.load, float(problem.cluster.capacity.sum()))
    kinds = list(dict.fromkeys(nodes))
    kind = np.array([kinds.index(node) for node in nodes])
    deals = all_deals(problem.num_groups, len(nodes), len(kinds) == 1)
    if deals is not None and tries_sets(trials):
        tried = _try_sets(problem, kinds, deals.sets, wanted, trials // QUICK_TRIALS)
        chosen = _deal_out(tried, kind, deals, problem.num_groups)
        layer = np.arange(problem.num_layers)
        each = [tried.expert[kind[n]][layer, chosen[:, n]] for n in range(len(nodes))]
        return _plan_chosen(problem, nodes, deals.sets[chosen], each, wanted, trials)
    if begun is not None:
        groups, each = _as_begun(problem, begun, len(nodes))
        return _plan_chosen(problem, nodes, groups, each, wanted, trials)
    groups = _pack_by_load(problem, nodes)
    return _plan_chosen(problem, nodes, groups, None, wanted, trials)


def _as_begun(problem: Problem, begun: Rows, num_nodes: int) -> tuple[Int, list[Int]]:
    """Take a plan on equal nodes apart: the groups of each node, and its plan of them.

    Returns
    -------
    groups : int64 ndarray, [L, N, g]
    each : list of int64 ndarray, [L, slots]
        One a node, experts numbered within its groups.
    """
    L, size = problem.num_layers, problem.num_experts // problem.num_groups
    expert = begun.expert.reshape(L, num_nodes, -1)
    held = np.zeros((L, num_nodes, problem.num_groups), bool)
    np.put_along_axis(held, expert // size, True, axis=2)
    groups = np.nonzero(held)[2].reshape(L, num_nodes, -1)
    place = np.cumsum(held, axis=2) - 1  # of a group among those of the node
    within = np.take_along_axis(place, expert // size, axis=2) * size + expert % size
    return groups, [within[:, n] for n in range(num_nodes)]


def _plan_chosen(
    problem: Problem,
    nodes: list[Node],
    groups: Int,
    begun: list[Int] | None,
    wanted: Float,
    trials: int,
) -> Rows:
    """Plan the groups [L, N, g] that each node got, from where they were begun."""
    expert = experts_of(groups, problem.num_experts // problem.num_groups)
    loads = [np.take_along_axis(problem.load, expert[:, n], axis=1) for n in range(len(nodes))]
    floor = np.max(
        [_mean_time(x, node.capacity) for x, node in zip(loads, nodes, strict=True)], axis=0
    )
    wanted = np.maximum(wanted, floor)
    placed = []
    for n, (load, node) in enumerate(zip(loads, nodes, strict=True)):
        goal = _goal_of(load, node, wanted)
        rows = None if begun is None else Rows(begun[n])
        placed.append(
            np.take_along_axis(
                expert[:, n], plan_node(load, node.cluster, goal, trials, rows).expert, axis=1
            )
        )
    return Rows(np.concatenate(placed, axis=1))
