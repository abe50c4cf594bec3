"""The best way to deal groups out to nodes, given what each node needs for each set of groups."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]

MOST_STEPS = 20_000  # of the search, for one layer: some 20 microseconds
MOST_SETS = 500  # contents of a node, each of which is bounded


class Deals(NamedTuple):
    """Every way to deal groups out to nodes, node by node.

    Parameters
    ----------
    sets : int64, [X, g]
        Contents of a node: every set of g groups.
    steps : int64, [Y, 4]
        Node, content, groups dealt before and after (as bits), in an order in which all ways to
        deal some groups come before any that goes on from them.
    """

    sets: Int
    steps: Int


@cache
def all_deals(num_groups: int, num_nodes: int, nodes_are_equal: bool) -> Deals | None:
    """List every way to deal groups out evenly, or None if they are too many to look at.

    Where nodes are equal, each takes the first group that is left, which leaves out only orders.
    """
    each = num_groups // num_nodes
    if math.comb(num_groups, each) > MOST_SETS:
        return None
    sets = list(itertools.combinations(range(num_groups), each))
    bits = [sum(1 << group for group in content) for content in sets]
    steps: list[tuple[int, int, int, int]] = []
    reached = [0]
    for node in range(num_nodes):
        before, reached = reached, []
        for dealt in before:
            first = ~dealt & (dealt + 1) if nodes_are_equal else 0
            steps += [
                (node, i, dealt, dealt | b)
                for i, b in enumerate(bits)
                if not b & dealt and b & first == first
            ]
            if len(steps) > MOST_STEPS:
                return None
        reached = sorted({after for step, *_, after in steps if step == node})
    return Deals(np.array(sets), np.array(steps))


@kernel
def deal_out(time: Float, kind: Int, steps: Int, num_groups: int, content: Int) -> float:
    """Deal groups out so that the node that needs longest needs least.

    Parameters
    ----------
    time : float64, [J, X]
        Time of a node of each kind with each content.
    kind : int64, [N]
        Kind of each node.
    steps : int64, [Y, 4]
        See `Deals`.
    num_groups : int
    content : int64, [N], output
        Content of each node.

    Returns
    -------
    float
        What the longest node needs.
    """
    least = np.full(1 << num_groups, np.inf)
    step_to = np.full(1 << num_groups, -1)
    least[0] = 0.0
    for y in range(steps.shape[0]):
        node, x, before, after = steps[y]
        longest = max(least[before], time[kind[node], x])
        if longest < least[after]:
            least[after] = longest
            step_to[after] = y
    dealt = (1 << num_groups) - 1
    for node in range(kind.size - 1, -1, -1):
        y = step_to[dealt]
        content[node] = steps[y, 1]
        dealt = steps[y, 2]
    return least[-1]


@kernel
def lightest_deal(time: Float, kind: Int, steps: Int, num_groups: int) -> tuple:
    """Return what the longest node of the best deal needs, its kind and its content.

    Parameters are those of `deal_out`.
    """
    content = np.empty(kind.size, np.int64)
    needed = deal_out(time, kind, steps, num_groups, content)
    for node in range(kind.size):
        if time[kind[node], content[node]] == needed:
            return needed, kind[node], content[node]
    return needed, kind[0], content[0]
