"""Where a search starts: how many replicas each expert gets, and a first place for each.

Replicas by the largest share next and packing longest first are DeepSeek EPLB's rules (2025).
Experts are called by their rank here, the heaviest first; all arrays are int64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import Bool, Int, Int1, Int2, step
from evenload.core.grid import bit_length, push, replace_top, sort_keys

IntArray = NDArray[np.int64]

NONE = -1
NEVER = np.int64(2**62)

# Rows of `gpu` [4, G]: the number of slots, the first slot, the time for a unit of load, the node.
SLOTS, FIRST, UNIT_TIME, NODE = range(4)


@step(Int1, Int, Int, Int, Int2, Int1, Int1)
def replicate(
    weight: IntArray,
    num_slots: int,
    least: int,
    most: int,
    scratch: IntArray,
    count: IntArray,
    order: IntArray,
) -> None:
    """Hand every spare slot to the expert with the largest share, which makes that the smallest.

    Experts with the fewest replicas are sorted already; only those that got more enter a heap, and
    the two sorted parts are merged at the end.

    Parameters
    ----------
    weight : [E], descending
    num_slots : int
        Slots S, at least ``E * least`` and at most ``E * most``.
    least, most : int
        Fewest and most replicas of one expert.
    scratch : [2, E]
    count : [E], output
        Replicas of each expert.
    order : [E], output
        Experts by descending share ``weight // count``, ties by the lowest number.
    """
    E = weight.size
    bits = bit_length(E)
    mask = (1 << bits) - 1
    top = weight[0]
    heap = scratch[0]
    first = 0  # experts from here on have the fewest
    n = 0  # heap[:n] holds those that may get more
    full = E  # heap[full:] holds those that have all they may
    for e in range(E):
        count[e] = least
    for _ in range(num_slots - least * E):
        single = ((top - weight[first] // least) << bits) | first if first < E else NEVER
        if n > 0 and heap[0] < single:
            e = heap[0] & mask
            n -= 1
            if n > 0:
                replace_top(heap, n, heap[n])
        else:
            e = first
            first += 1
        count[e] += 1
        key = ((top - weight[e] // count[e]) << bits) | e
        if count[e] < most:
            push(heap, n, key)
            n += 1
        else:
            full -= 1
            heap[full] = key
    for i in range(full, E):
        heap[n] = heap[i]
        n += 1
    sort_keys(heap, n, scratch[1])
    i = 0
    for place in range(E):
        single = ((top - weight[first] // least) << bits) | first if first < E else NEVER
        if i < n and heap[i] < single:
            order[place] = heap[i] & mask
            i += 1
        else:
            order[place] = first
            first += 1


@step(Int1, Int, Int)
def _update(tree: IntArray, leaf: int, key: int) -> None:
    tree[leaf] = key
    node = leaf >> 1
    while node >= 1:
        tree[node] = min(tree[2 * node], tree[2 * node + 1])
        node >>= 1


@step(Int1, Int1, Int1, Int2, Int1, Int2, Int1)
def longest_first(
    weight: IntArray,
    count: IntArray,
    order: IntArray,
    gpu: IntArray,
    tree: IntArray,
    scratch: IntArray,
    placed: IntArray,
) -> None:
    """Place the next heaviest replica on the lightest GPU with a free slot, at equal speed.

    No expert twice on a GPU, unless only such GPUs have a slot left. The lightest GPU is found by a
    tournament over keys ``load << bits | gpu``: each inner node holds the smaller of its children.

    Parameters
    ----------
    weight, count : [E]
    order : [E]
        Experts in the order to be placed.
    gpu : [4, G]
    tree : [2 * 2**bits], scratch, where `bits` hold a GPU's number
    scratch : [2, G]
    placed : [S], output
        Expert in each slot, the slots of the GPUs one after the other.
    """
    G = gpu.shape[1]
    width = tree.size // 2
    bits = bit_length(width)
    mask = width - 1
    free, waiting = scratch[0], scratch[1]
    for leaf in range(width):
        tree[width + leaf] = leaf if leaf < G else NEVER
    for node in range(width - 1, 0, -1):
        tree[node] = min(tree[2 * node], tree[2 * node + 1])
    for g in range(G):
        free[g] = gpu[SLOTS, g]
    for place in range(order.size):
        e = order[place]
        share = weight[e] // count[e]
        left = count[e]
        while left > 0:
            held = 0  # GPUs that got a replica of e: out of the tournament until e is done
            while left > 0 and tree[1] < NEVER:
                g = tree[1] & mask
                key = tree[1] + (share << bits)
                placed[gpu[FIRST, g] + gpu[SLOTS, g] - free[g]] = e
                free[g] -= 1
                left -= 1
                if free[g] == 0:
                    key = NEVER
                elif left > 0:
                    waiting[held] = key
                    held += 1
                    key = NEVER
                _update(tree, width + g, key)
            for i in range(held):
                _update(tree, width + (waiting[i] & mask), waiting[i])


@step(Int1, Int1, Int1, Int1, Int2, Int1, Bool, Int2, Int1)
def soonest_done(
    weight: IntArray,
    wanted: IntArray,
    order: IntArray,
    count: IntArray,
    gpu: IntArray,
    home: IntArray,
    lightest: bool,
    scratch: IntArray,
    placed: IntArray,
) -> None:
    """Place the next replica on the GPU that is done first with it, on GPUs of any speed.

    Every expert gets its first replica on its home node, where it has one, before the others are
    placed; the experts of a home have to fit the node. No expert comes twice on a GPU that lacks
    another one.

    Parameters
    ----------
    weight, wanted : [E]
        Load and wanted number of replicas.
    order : [E]
    count : [E], output
        Replicas placed, in the end with those that fill the slots left.
    gpu : [4, G]
    home : [E]
        Node that has to hold a replica of each expert, -1 for none.
    lightest : bool
        Fill the slots that are left with replicas of the lightest experts, not of the largest
        share.
    scratch : [2, G]
    placed : [S], output
    """
    E, G = weight.size, gpu.shape[1]
    free, load = scratch[0], scratch[1]
    for g in range(G):
        free[g] = gpu[SLOTS, g]
        load[g] = 0
    for e in range(E):
        count[e] = 0
    for phase in range(2):  # first the replicas at home, then all others
        for place in range(E):
            e = order[place]
            copies = wanted[e] - count[e]
            if phase == 0:
                copies = np.int64(home[e] != NONE)
            share = weight[e] // wanted[e]
            for _ in range(copies):
                best = NONE
                soonest = NEVER
                for g in range(G):
                    time = (load[g] + share) * gpu[UNIT_TIME, g]
                    if free[g] == 0 or time >= soonest or (phase == 0 and gpu[NODE, g] != home[e]):
                        continue
                    if not _holds(placed, gpu[FIRST, g], gpu[SLOTS, g] - free[g], e):
                        soonest = time
                        best = g
                if best == NONE:
                    break
                placed[gpu[FIRST, best] + gpu[SLOTS, best] - free[best]] = e
                free[best] -= 1
                load[best] += share
                count[e] += 1
    for g in range(G):
        while free[g] > 0:
            first, used = gpu[FIRST, g], gpu[SLOTS, g] - free[g]
            best = NONE
            for e in range(E):
                if _holds(placed, first, used, e):
                    continue
                if (
                    best == NONE
                    or (lightest and weight[e] * count[best] < weight[best] * count[e])
                    or (not lightest and weight[e] * count[best] > weight[best] * count[e])
                ):
                    best = e
            if best == NONE:  # all are there: a duplicate costs least where the load is least
                best = E - 1
            placed[first + used] = best
            count[best] += 1
            free[g] -= 1


@step(Int1, Int, Int, Int)
def _holds(placed: IntArray, first: int, used: int, e: int) -> bool:
    """Whether one of the slots from `first` on holds an expert."""
    for slot in range(first, first + used):  # noqa: SIM110 - `any` takes long to compile
        if placed[slot] == e:
            return True
    return False
