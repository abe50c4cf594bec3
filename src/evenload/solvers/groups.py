"""Groups that share a node: which node each lives on, and what each node makes of its groups."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.cluster import Cluster
from evenload.core.deals import all_deals, deal_out
from evenload.problem import Apart, Problem
from evenload.solvers.search import Placed, levels_up_to, place, search

Int = NDArray[np.int64]
Float = NDArray[np.float64]

QUICK_TRIALS = 30  # one part in so many of the effort goes to trying each set of groups
LEAST_QUICK_TRIALS = 5  # where there are fewer, trying the sets would take most of the time
GRID = 2.0**32


class Node(NamedTuple):
    """The living GPUs of one node, and how fast they are in the unit that all nodes share."""

    cluster: Cluster
    capacity: float


def longest_first_onto_nodes(load: Float, room: Int, speed: Float) -> Int:
    """Give each group, longest first, to the node that would be done first with it: int64 [Q].

    Parameters
    ----------
    load : float64 ndarray, [Q]
    room : int64 ndarray, [N]
        Groups that each node takes at most.
    speed : float64 ndarray, [N]
    """
    time, left, mean = np.zeros(len(speed)), room.copy(), (load.max() or 1.0) / speed.max()
    home = np.empty(len(load), np.int64)
    for q in np.argsort(-load, kind="stable"):
        after = np.where(left > 0, time * speed + load[q], np.inf) / np.maximum(speed, 1e-300)
        node = int(np.argmin(_relative(after, mean)))
        home[q] = node
        time[node] = after[node]
        left[node] -= 1
    return home


def home_nodes(problem: Problem) -> Int:
    """Choose a home for every group, longest first onto the node that would be done first.

    A node takes no more experts than it has living slots.

    Returns
    -------
    int64 ndarray, [L, E]
        Node of each expert's group.

    Raises
    ------
    ValueError
        If the groups cannot be dealt out whole, since nodes have too few living slots for one more.
    """
    cluster, groups = problem.cluster, problem.num_groups
    size = problem.num_experts // groups
    living = list(cluster.living_gpus)
    nodes = np.array(living) // cluster.gpus_per_node
    slots = np.array(cluster.slots)[living]
    room = np.bincount(nodes, slots, cluster.num_nodes).astype(np.int64) // size
    speed = np.bincount(nodes, cluster.capacity[living], cluster.num_nodes).astype(np.float64)
    if room.sum() < groups:
        raise ValueError(
            f"topology='prefer': the nodes have room for {room.sum()} whole groups of {size} "
            f"experts, and num_groups={groups}; use more slots, or topology 'ignore'"
        )
    load = problem.load.reshape(problem.num_layers, groups, size).sum(axis=-1)
    home = np.stack([longest_first_onto_nodes(row, room, speed) for row in load])
    return np.repeat(home, size, axis=1)


def kept_homes(problem: Problem, placed: Int) -> tuple[Int, NDArray[np.bool_]]:
    """Tell which node holds each expert's group, where groups have to stay on one.

    Parameters
    ----------
    problem : Problem
    placed : int64 ndarray, [L, S]
        Expert in each living slot.

    Returns
    -------
    home : int64 ndarray, [L, E]
        Node of each expert's group, -1 where groups may spread.
    kept : bool ndarray, [L]
        Whether the placement has every group on one node, and as many on each node.
    """
    L, E = problem.load.shape
    if not problem.hierarchical:
        return np.full((L, E), -1), np.ones(L, np.bool_)
    cluster, groups = problem.cluster, problem.num_groups
    slot_node = (cluster.gpu_of_slot // cluster.gpus_per_node)[cluster.living_slot]
    on_node = np.zeros((L, groups, cluster.num_nodes), np.bool_)
    on_node[np.arange(L)[:, None], placed // (E // groups), slot_node] = True
    home = on_node.argmax(axis=2)
    each = (home[:, :, None] == np.arange(cluster.num_nodes)).sum(axis=1)
    wanted = groups // len(cluster.living_by_node)
    kept = (on_node.sum(axis=2) == 1).all(axis=1) & ((each == 0) | (each == wanted)).all(axis=1)
    return np.repeat(home, E // groups, axis=1), kept


def plan_groups(problem: Problem, trials: int, close: float, bound: Float) -> Placed:
    """Place a problem whose groups stay on one node each, on its living slots.

    Every set of groups that a node may get is planned on that node, and the sets are dealt out so
    that the last node is done soonest: by what its GPUs can reach, not by the sums of its groups.
    Where there are too many sets (see `core.deals`), or the effort is small, the groups are packed
    by their sums. The effort left goes to the nodes that were chosen. Each named effort below the
    one asked for is run too, so that a higher one never ends worse.

    Parameters
    ----------
    problem : Problem
        Under the topology ``"strict"``, on two or more nodes.
    trials : int
        Of one layer.
    close : float
        Share of the bound at which a layer is good enough.
    bound : float64 ndarray, [L]
        Time of the slowest GPU that nothing is below, over that of a load divided at will.
    """
    groups = problem.num_groups
    group_load = problem.load.reshape(problem.num_layers, groups, -1).sum(axis=-1)
    # The heaviest group first: which node a group gets does not depend on what it is called.
    order = experts_of(
        np.argsort(-group_load, axis=1, kind="stable"), problem.num_experts // groups
    )
    ranked = replace(problem, load=np.take_along_axis(problem.load, order, axis=1))
    found = None
    for level in levels_up_to(trials):
        more = _plan_ranked(ranked, level, close, bound)
        found = more if found is None else found.or_better(more)
    assert found is not None
    return found._replace(expert=np.take_along_axis(order, found.expert, axis=1))


def experts_of(sets: Int, group_size: int) -> Int:
    """List the experts of sets of groups: int64 [..., g] -> [..., g * group_size]."""
    experts = sets[..., None] * group_size + np.arange(group_size)
    return experts.reshape(*sets.shape[:-1], -1)


def _plan_ranked(problem: Problem, trials: int, close: float, bound: Float) -> Placed:
    cluster, L = problem.cluster, problem.num_layers
    nodes = [
        Node(cluster.only(gpus), float(cluster.capacity[list(gpus)].sum()))
        for gpus in cluster.living_by_node
    ]
    mean = problem.load.sum(axis=1) / cluster.capacity.sum()
    goal = bound * mean
    kinds = list(dict.fromkeys(nodes))
    kind = np.array([kinds.index(node) for node in nodes])
    deals = all_deals(problem.num_groups, len(nodes), len(kinds) == 1)
    begun: list[Placed | None] = [None] * len(nodes)
    if deals is None or trials // QUICK_TRIALS < LEAST_QUICK_TRIALS:
        groups = _pack_by_load(problem, nodes)
    else:
        tried, time = _try_sets(problem, kinds, deals.sets, goal, trials // QUICK_TRIALS, close)
        chosen = np.empty((L, len(nodes)), np.int64)
        relative = _relative(time, mean[:, None, None])
        deal_out(relative, kind, deals.steps, problem.num_groups, chosen, np.empty(L))
        groups = deals.sets[chosen]
        at = np.arange(L) * len(deals.sets)
        begun = [
            Placed(*(part[at + chosen[:, n]] for part in tried[kind[n]])) for n in range(len(nodes))
        ]
    expert = experts_of(groups, problem.num_experts // problem.num_groups)
    loads = [np.take_along_axis(problem.load, expert[:, n], axis=1) for n in range(len(nodes))]
    # No node needs to be done before the one that has most to do.
    floor = [load.sum(axis=1) / node.capacity for load, node in zip(loads, nodes, strict=True)]
    goal = np.maximum(goal, np.max(floor, axis=0))
    placed, last = [], np.zeros(L)
    for n, (load, node) in enumerate(zip(loads, nodes, strict=True)):
        rows = _search_node(load, node, goal, trials, close, problem.apart, begun[n])
        placed.append(np.take_along_axis(expert[:, n], rows.expert, axis=1))
        last = np.maximum(last, rows.time * floor[n])
    return Placed(np.concatenate(placed, axis=1), _relative(last, mean), bound)


def _relative(time: Float, mean: Float) -> Float:
    """Divide times by a mean, on a grid, so that equal ones are equal whatever scales the load."""
    relative = np.divide(time, mean, out=np.ones_like(time), where=mean > 0.0)
    rounded: Float = np.rint(relative * GRID) / GRID
    return rounded


def _search_node(
    load: Float, node: Node, goal: Float, trials: int, close: float, apart: Apart,
    begun: Placed | None = None,
) -> Placed:  # fmt: skip
    """Search rows [X, E / N] on a node until they take the time `goal` [X], over `close`."""
    mean = load.sum(axis=1) / node.capacity
    goals = _relative(goal, mean)
    return search(load, node.cluster, trials, begun=begun, close=close, goal=goals, apart=apart)


def _try_sets(
    problem: Problem, kinds: list[Node], sets: Int, goal: Float, trials: int, close: float
) -> tuple[list[Placed], Float]:
    """Plan each set of groups on each kind of node.

    Returns
    -------
    tried : list of Placed, [L * sets]
        Of each kind; experts are numbered within the set.
    time : float64 ndarray, [L, kinds, sets]
        When the last GPU of the node is done.
    """
    L, n = problem.num_layers, len(sets)
    expert = experts_of(sets, problem.num_experts // problem.num_groups)
    load = problem.load[:, expert].reshape(L * n, -1)
    goals = np.repeat(goal, n)
    tried = [_search_node(load, node, goals, trials, close, problem.apart) for node in kinds]
    time = [
        rows.time * load.sum(axis=1) / node.capacity
        for rows, node in zip(tried, kinds, strict=True)
    ]
    return tried, np.stack([row.reshape(L, n) for row in time], axis=1)


def _pack_by_load(problem: Problem, nodes: list[Node]) -> Int:
    """Deal the groups out by their loads alone: int64 [L, N, g]."""
    L, N = problem.num_layers, len(nodes)
    group_load = problem.load.reshape(L, problem.num_groups, -1).sum(axis=-1)
    each = problem.num_groups // N
    if len(set(nodes)) == 1:
        packed = place(group_load, Cluster(N, slots_per_gpu=each))
        return packed.expert.reshape(L, N, each)
    room, speed = np.full(N, each), np.array([node.capacity for node in nodes])
    home = np.stack([longest_first_onto_nodes(row, room, speed) for row in group_load])
    return np.argsort(home, axis=1, kind="stable").reshape(L, N, each)
