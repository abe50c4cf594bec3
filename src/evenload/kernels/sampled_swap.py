"""Exchange of two replicas, judged by all samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel
from evenload.kernels.sampled import NONE, Sampled, rank

Int = NDArray[np.int64]

NEVER = np.int64(2**62)


@inlined
def may_swap(state: Sampled, a: int, m: int, b: int, k: int) -> bool:
    """Whether a replica of a on GPU m and one of b on k may change places: no duplicate, homes."""
    return (
        a != b
        and state.held[a, k] == 0
        and state.held[b, m] == 0
        and (state.node[m] == state.node[k] or (state.home[a] == NONE and state.home[b] == NONE))
    )


@inlined
def new_moves(state: Sampled, a: int, m: int, b: int, k: int) -> int:
    """Count the moves that exchanging a on GPU m for b on k adds; negative where it undoes some."""
    change = (1 - state.old[a, k]) + (1 - state.old[b, m]) * 1
    change -= (state.held[a, m] == 1) * (1 - state.old[a, m])
    change -= (state.held[b, k] == 1) * (1 - state.old[b, k])
    return change


@kernel
def last_of_others(state: Sampled, m: int, k: int, out: Int) -> None:
    """Write when the last GPU but m and k is done in each sample, 0 if there is none: [M]."""
    for s in range(out.size):
        out[s] = 0
        for place in range(state.top.shape[1]):
            g = state.top[s, place]
            if g not in (m, k):
                if g != NONE:
                    out[s] = state.time[g, s]
                break


@kernel
def swap_peak(state: Sampled, others: Int, a: int, m: int, b: int, k: int) -> int:
    """Return the peak after an exchange, from what `last_of_others` wrote."""
    share, time, sample_weight = state.share, state.time, state.sample_weight
    unit_m, unit_k = state.unit_time[m], state.unit_time[k]
    peak = np.int64(0)
    for s in range(others.size):
        change = share[a, s] - share[b, s]
        last = max(others[s], time[m, s] - change * unit_m, time[k, s] + change * unit_k)
        peak += sample_weight[s] * last
    return peak


@kernel
def best_swap(
    state: Sampled, m: int, k: int, sample: int, price: int, most: int, others: Int
) -> tuple:
    """Find the exchange between two GPUs that costs least, peak and moves together.

    Parameters
    ----------
    m, k : int
        GPUs; m gets lighter in `sample`.
    price, most : int
        What a move costs, and the number of moves there may be.
    others : int64 ndarray, [M], scratch

    Returns
    -------
    cost, i, j : int
        What is reached, and the two slots, -1 where there is no exchange.
    """
    last_of_others(state, m, k, others)
    share, time, sample_weight = state.share, state.time, state.sample_weight
    expert, held = state.expert, state.held
    unit_m, unit_k = state.unit_time[m], state.unit_time[k]
    moves = state.moves[0]
    apart = state.node[m] != state.node[k]
    best = NEVER
    best_i = NONE
    best_j = NONE
    for i in range(state.slots[m]):
        a = expert[m, i]
        if held[a, k] > 0 or (apart and state.home[a] != NONE):
            continue
        for j in range(state.slots[k]):
            b = expert[k, j]
            if share[a, sample] <= share[b, sample] or held[b, m] > 0:
                continue
            if apart and state.home[b] != NONE:
                continue
            change = new_moves(state, a, m, b, k)
            if moves + change > max(most, moves):
                continue
            cost = (moves + change) * price
            for s in range(others.size):
                by = share[a, s] - share[b, s]
                last = max(others[s], time[m, s] - by * unit_m, time[k, s] + by * unit_k)
                cost += sample_weight[s] * last
            if cost < best:
                best = cost
                best_i = i
                best_j = j
    return best, best_i, best_j


@kernel
def swap(state: Sampled, m: int, i: int, k: int, j: int) -> None:
    """Exchange slot i of GPU m with slot j of GPU k."""
    a, b = state.expert[m, i], state.expert[k, j]
    state.moves[0] += new_moves(state, a, m, b, k)
    state.expert[m, i] = b
    state.expert[k, j] = a
    state.held[a, m] -= 1
    state.held[a, k] += 1
    state.held[b, k] -= 1
    state.held[b, m] += 1
    for s in range(state.sample_weight.size):
        change = state.share[a, s] - state.share[b, s]
        state.time[m, s] -= change * state.unit_time[m]
        state.time[k, s] += change * state.unit_time[k]
    rank(state)
