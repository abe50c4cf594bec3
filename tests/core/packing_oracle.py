"""The packing algorithm in the plainest Python, one row at a time: the oracle of every backend.

A row is packed into lists: ``packs[p][r]`` is the item at rank r of pack p, ``loads[p]`` the weight
of pack p. Loads are summed in the order in which items arrive and corrected swap by swap, as the
backends do, so that in float64 they must agree to the last bit.
"""

import math

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def pack_row(
    weight: npt.ArrayLike,
    num_packs: int,
    num_attempts: int = 5,
    boost: float = 1.05,
    max_swaps: int = 20,
    target: float | None = None,
) -> tuple[IntArray, IntArray]:
    """Pack index and rank in its pack of each of the n items, both [n]."""
    weights = [float(w) for w in np.asarray(weight)]
    if len(weights) == num_packs:
        return np.arange(num_packs), np.zeros(num_packs, dtype=np.int64)
    enough = -1.0 if target is None else math.fsum(weights) / (num_packs * target)
    virtual = list(weights)
    best_packs: list[list[int]] = []
    best_load = math.inf
    for _ in range(num_attempts):
        packs, loads = greedy_row(weights, virtual, num_packs)
        refine_row(weights, packs, loads, max_swaps, enough)
        if max(loads) < best_load:
            best_packs, best_load = packs, max(loads)
        if best_load <= enough:
            break
        for item in packs[loads.index(max(loads))]:
            virtual[item] *= boost
    return as_arrays(best_packs)


def greedy_row(
    weights: list[float], virtual: list[float], num_packs: int
) -> tuple[list[list[int]], list[float]]:
    """Largest virtual weight first, into the lightest pack that has room."""
    size = len(weights) // num_packs
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    loads = [0.0] * num_packs
    for item in sorted(range(len(weights)), key=lambda i: -virtual[i]):
        with_room = [p for p in range(num_packs) if len(packs[p]) < size]
        p = min(with_room, key=lambda p: loads[p])
        packs[p].append(item)
        loads[p] += weights[item]
    return packs, loads


def refine_row(
    weights: list[float],
    packs: list[list[int]],
    loads: list[float],
    max_swaps: int,
    enough: float = -1.0,
) -> int:
    """Swap in place while the heaviest pack is too heavy and gets lighter; the swaps done."""
    for done in range(max_swaps):
        m = loads.index(max(loads))
        if loads[m] <= enough:
            return done
        swap = best_swap(weights, packs, loads, m)
        if swap is None:
            return done
        k, v, u = swap
        d = weights[packs[m][u]] - weights[packs[k][v]]
        packs[m][u], packs[k][v] = packs[k][v], packs[m][u]
        loads[m] -= d
        loads[k] += d
    return max_swaps


def best_swap(
    weights: list[float], packs: list[list[int]], loads: list[float], m: int
) -> tuple[int, int, int] | None:
    """Pack k, rank of v in it and rank of u in pack m of the best swap, or None if none helps."""
    best, best_outcome = None, loads[m]
    for k in range(len(packs)):
        for v in range(len(packs[k])):
            for u in range(len(packs[m])):
                d = weights[packs[m][u]] - weights[packs[k][v]]
                outcome = max(loads[m] - d, loads[k] + d)
                if k != m and outcome < best_outcome:
                    best, best_outcome = (k, v, u), outcome
    return best


def as_arrays(packs: list[list[int]]) -> tuple[IntArray, IntArray]:
    """Pack index and rank of each item, both [n]."""
    num_items = sum(len(items) for items in packs)
    pack_index = np.empty(num_items, dtype=np.int64)
    rank_in_pack = np.empty(num_items, dtype=np.int64)
    for p, items in enumerate(packs):
        pack_index[items] = p
        rank_in_pack[items] = range(len(items))
    return pack_index, rank_in_pack


def loads_of(weight: npt.ArrayLike, pack_index: npt.ArrayLike, num_packs: int) -> np.ndarray:
    """Pack loads [X, num_packs], summed in float64, of weights and pack indices [X, n]."""
    weights, packs = np.asarray(weight, dtype=np.float64), np.asarray(pack_index)
    loads = np.zeros((len(weights), num_packs))
    np.add.at(loads, (np.arange(len(weights))[:, None], packs), weights)
    return loads
