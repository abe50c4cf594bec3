"""The best way to deal groups out to nodes, given what each node needs for each set of groups."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import Float1, Float3, Int, Int1, Int2, entry

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

    sets: NDArray[np.int64]
    steps: NDArray[np.int64]


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


@entry(Float3, Int1, Int2, Int, Int2, Float1)
def deal_out(time: Any, kind: Any, steps: Any, num_groups: Any, content: Any, longest: Any) -> None:
    """Deal groups out so that the node that needs longest needs least, in each layer.

    Takes the `time` [L, J, X] of a node of each kind with each content, the kind of each node [N]
    and the steps of `Deals`. Writes the content of each node [L, N] and the longest time [L].
    """
    every = 1 << num_groups
    least, step_to = np.empty(every), np.empty(every, np.int64)
    for layer in range(time.shape[0]):
        for dealt in range(every):
            least[dealt] = np.inf
        least[0] = 0.0
        for y in range(steps.shape[0]):
            needed = time[layer, kind[steps[y, 0]], steps[y, 1]]
            needed = max(needed, least[steps[y, 2]])
            if needed < least[steps[y, 3]]:
                least[steps[y, 3]] = needed
                step_to[steps[y, 3]] = y
        longest[layer] = least[every - 1]
        dealt = every - 1
        for node in range(kind.size - 1, -1, -1):
            y = step_to[dealt]
            content[layer, node] = steps[y, 1]
            dealt = steps[y, 2]
