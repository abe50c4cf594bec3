"""Exchange of two replicas, judged by all samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined
from evenload.kernels.sampled import NONE, Sampled, rank_again

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


@inlined
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


@inlined
def swap_peak(state: Sampled, others: Int, a: int, m: int, b: int, k: int) -> int:
    """Return the peak after an exchange, from what `last_of_others` wrote."""
    share, time = state.share, state.time
    unit_m, unit_k = state.unit_time[m], state.unit_time[k]
    peak = np.int64(0)
    for s in range(others.size):
        change = share[a, s] - share[b, s]
        peak += max(others[s], time[m, s] - change * unit_m, time[k, s] + change * unit_k)
    return peak


@inlined
def best_swap(
    state: Sampled, m: int, k: int, sample: int, price: int, most: int, others: Int
) -> tuple:
    """Find the exchange between two GPUs that costs least, peak and moves together.

    Parameters
    ----------
    m, k : int
        GPUs; m gets lighter in `sample`, and k is not done later there than m was.
    price, most : int
        What a move costs, and the number of moves there may be.
    others : int64 ndarray, [M], scratch

    Returns
    -------
    cost, i, j : int
        What is reached, and the two slots, -1 where there is no exchange.
    """
    last_of_others(state, m, k, others)
    share, time, expert, held = state.share, state.time, state.expert, state.held
    unit_m, unit_k = state.unit_time[m], state.unit_time[k]
    alike = unit_m == 1 and unit_k == 1
    room = (time[m, sample] - time[k, sample]) // unit_k
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
            by = share[a, sample] - share[b, sample]
            if by <= 0 or by >= room or held[b, m] > 0:
                continue
            if apart and state.home[b] != NONE:
                continue
            change = new_moves(state, a, m, b, k)
            if moves + change > max(most, moves):
                continue
            cost = (moves + change) * price
            if alike:  # without products the loop runs in vectors
                for s in range(others.size):
                    change_s = share[a, s] - share[b, s]
                    less = time[m, s] - change_s
                    more = time[k, s] + change_s
                    last = others[s]
                    last = less if less > last else last
                    last = more if more > last else last
                    cost += last
            else:
                for s in range(others.size):
                    change_s = share[a, s] - share[b, s]
                    less = time[m, s] - change_s * unit_m
                    more = time[k, s] + change_s * unit_k
                    cost += max(others[s], less, more)
            if cost < best:
                best = cost
                best_i = i
                best_j = j
    return best, best_i, best_j


@inlined
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
    rank_again(state, m, k)
