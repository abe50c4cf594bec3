"""Exchange of two replicas between GPUs that may differ in speed, and descent by it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel
from evenload.kernels.fleet import Fleet, is_away, set_load, set_slot, time_at
from evenload.kernels.undo import Undo, keep

Int = NDArray[np.int64]


@inlined
def may_swap(fleet: Fleet, m: int, i: int, k: int, j: int) -> bool:
    """Whether slot i of GPU m and slot j of GPU k may change places: no duplicate, homes kept."""
    a, b = fleet.expert[m, i], fleet.expert[k, j]
    if fleet.held[a, k] > 0 or fleet.held[b, m] > 0:
        return False
    node_m, node_k = fleet.node[m], fleet.node[k]
    return node_m == node_k or (
        (fleet.home[a] != node_m or fleet.at_home[a] > 1)
        and (fleet.home[b] != node_k or fleet.at_home[b] > 1)
    )


@inlined
def _account(fleet: Fleet, e: int, weight: int, source: int, target: int) -> None:
    fleet.held[e, source] -= 1
    fleet.held[e, target] += 1
    change = is_away(fleet, e, target) * 1 - is_away(fleet, e, source) * 1
    fleet.away[0] += change * weight
    fleet.at_home[e] -= change


@kernel
def swap(fleet: Fleet, m: int, i: int, k: int, j: int) -> None:
    """Exchange slot i of GPU m with slot j of GPU k."""
    a, b = fleet.expert[m, i], fleet.expert[k, j]
    weight_a, weight_b = fleet.share[m, i], fleet.share[k, j]
    set_slot(fleet, m, i, weight_b, b)
    set_slot(fleet, k, j, weight_a, a)
    _account(fleet, a, weight_a, m, k)
    _account(fleet, b, weight_b, k, m)
    set_load(fleet, m, fleet.load[m] - weight_a + weight_b)
    set_load(fleet, k, fleet.load[k] - weight_b + weight_a)


@kernel
def best_swap(fleet: Fleet, m: int, k: int, limit: int) -> tuple:
    """Find the exchange after which the later of two GPUs is done soonest.

    A walk over both rows from their largest shares: where m would still be done after k, the share
    that m gets has to be smaller, else the share that it gives, at most 2 K steps.

    Parameters
    ----------
    limit : int
        Only a time below this counts.

    Returns
    -------
    time, i, j : int
        The time of the later one and the two slots; (limit, -1, -1) where none is below the limit.
    """
    # Arrays by name, and no call that takes the whole fleet: passing that costs more than a walk.
    share, expert, held = fleet.share, fleet.expert, fleet.held
    home, at_home, node_m, node_k = fleet.home, fleet.at_home, fleet.node[m], fleet.node[k]
    slots_m, slots_k = fleet.slots[m], fleet.slots[k]
    unit_m, unit_k = fleet.unit_time[m], fleet.unit_time[k]
    load_m, load_k = fleet.load[m], fleet.load[k]
    i = 0
    j = 0
    best_i = -1
    best_j = -1
    while i < slots_m and j < slots_k:
        change = share[m, i] - share[k, j]
        time_m = (load_m - change) * unit_m
        time_k = (load_k + change) * unit_k
        later = max(time_m, time_k)
        if later < limit:
            a = expert[m, i]
            b = expert[k, j]
            if (
                held[a, k] == 0
                and held[b, m] == 0
                and (
                    node_m == node_k
                    or (
                        (home[a] != node_m or at_home[a] > 1)
                        and (home[b] != node_k or at_home[b] > 1)
                    )
                )
            ):
                limit = later
                best_i = i
                best_j = j
        too_little = time_m > time_k
        j += too_little
        i += 1 - too_little
    return limit, best_i, best_j


@kernel
def _least_time(load_m: int, unit_m: int, load_k: int, unit_k: int) -> int:
    """Bound the time of the later of two GPUs after any exchange between them."""
    both = load_m + load_k
    if unit_m == unit_k:
        return (both + 1) // 2 * unit_m
    return np.int64(both * (unit_m * (unit_k / (unit_m + unit_k))))


@kernel
def _partner(fleet: Fleet, mean: int) -> tuple:
    """Search the GPUs from the first one done up for the best exchange with the last one.

    As `descend._partner`: ends where no better can come, or where an exchange already takes the
    pair three quarters of the way from the mean to the second to last, which will be last then.
    """
    ranking, bits, load, unit_time = fleet.ranking, fleet.bits, fleet.load, fleet.unit_time
    G = ranking.size
    mask = (1 << bits) - 1
    m = ranking[G - 1] & mask
    best = ranking[G - 1] >> bits
    second = ranking[max(G - 2, 0)] >> bits
    enough = mean + 3 * (second - mean) // 4
    partner = -1
    slot_m = -1
    slot_k = -1
    for place in range(G - 1):
        k = ranking[place] & mask
        if _least_time(load[m], unit_time[m], load[k], unit_time[k]) >= best:
            if unit_time[m] == unit_time[k]:
                break
            continue
        later, i, j = best_swap(fleet, m, k, best)
        if i >= 0:
            partner, slot_m, slot_k = k, i, j
            best = later
            if best <= enough:
                break
    return m, slot_m, partner, slot_k


@kernel
def descend(fleet: Fleet, mean: int, goal: int, most_swaps: int, undo: Undo, kept: int) -> int:
    """Swap the last GPU's replicas until the goal, a standstill, or the number of swaps.

    Returns
    -------
    int
        GPUs kept in `undo`, of which `kept` were there before.
    """
    for _ in range(most_swaps):
        if time_at(fleet, -1) <= goal:
            break
        m, i, k, j = _partner(fleet, mean)
        if k < 0:
            break
        kept = keep(undo, kept, fleet, m)
        kept = keep(undo, kept, fleet, k)
        swap(fleet, m, i, k, j)
    return kept
