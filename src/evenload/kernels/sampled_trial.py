"""What the search over samples tries next: exchanges, handovers, and taking moves back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined
from evenload.kernels.random import random_below
from evenload.kernels.sampled import NONE, Sampled, slot_with
from evenload.kernels.sampled_handover import (
    hand_over,
    handover_moves,
    handover_peak,
    may_hand_over,
)
from evenload.kernels.sampled_repair import place_of
from evenload.kernels.sampled_swap import (
    best_swap,
    last_of_others,
    may_swap,
    new_moves,
    swap,
    swap_peak,
)

Int = NDArray[np.int64]
State = NDArray[np.uint64]


@inlined
def cost_of(state: Sampled, price: int) -> int:
    """Return what the search lowers: when the last GPUs are done, and the price of the moves."""
    return state.peak[0] + price * state.moves[0]


@inlined
def draw_sample(state: Sampled, random: State) -> int:
    """Draw a sample as often as its weight says."""
    left = random_below(random, state.sample_weight.sum())
    sample = 0
    while left >= state.sample_weight[sample]:
        left -= state.sample_weight[sample]
        sample += 1
    return sample


@inlined
def try_swap(state: Sampled, random: State, price: int, most: int, limit: int, row: Int) -> bool:
    """Make the best exchange of a drawn sample's last GPU and a drawn other, up to a cost."""
    G = state.slots.size
    sample = draw_sample(state, random)
    m = state.top[sample, 0]
    k = (m + 1 + random_below(random, G - 1)) % G
    cost, i, j = best_swap(state, m, k, sample, price, most, row)
    if i < 0 or cost > limit:
        return False
    swap(state, m, i, k, j)
    return True


@inlined
def nth_gpu_with(state: Sampled, e: int, n: int) -> int:
    """Return the n-th of the GPUs that hold an expert, -1 if there are fewer."""
    for g in range(state.slots.size):
        if state.held[e, g] > 0:
            if n == 0:
                return g
            n -= 1
    return NONE


@inlined
def _hand_over_if(
    state: Sampled, place: int, gpu: int, taker: int, price: int, most: int, limit: int, row: Int
) -> bool:
    giver = state.spare[place]
    if gpu < 0 or not may_hand_over(state, giver, gpu, taker):
        return False
    moves = state.moves[0] + handover_moves(state, giver, gpu, taker)
    if moves > max(most, state.moves[0]):
        return False
    if handover_peak(state, giver, gpu, taker, row) + price * moves > limit:
        return False
    hand_over(state, giver, gpu, taker)
    state.spare[place] = taker
    return True


@inlined
def try_handover(
    state: Sampled, random: State, price: int, most: int, limit: int, row: Int
) -> bool:
    """Hand a drawn spare slot to an expert of a drawn sample's last GPU, or to any."""
    place = random_below(random, state.spare.size)
    if random_below(random, 4) > 0:
        last = state.top[draw_sample(state, random), 0]
        taker = state.expert[last, random_below(random, state.slots[last])]
    else:
        taker = random_below(random, state.count.size)
    giver = state.spare[place]
    gpu = nth_gpu_with(state, giver, random_below(random, state.count[giver]))
    return _hand_over_if(state, place, gpu, taker, price, most, limit, row)


@inlined
def _draw_lost(state: Sampled, gpu: int, random: State) -> int:
    """Draw an expert that a GPU held and holds no more, -1 if there is none."""
    E = state.count.size
    first = random_below(random, E)
    for n in range(E):
        e = (first + n) % E
        if state.old[e, gpu] and state.held[e, gpu] == 0:
            return e
    return NONE


@inlined
def _draw_new(state: Sampled, gpu: int, random: State) -> int:
    """Draw a slot of a GPU whose expert is new to it, -1 if there is none."""
    K = state.slots[gpu]
    first = random_below(random, K)
    for n in range(K):
        i = (first + n) % K
        if state.old[state.expert[gpu, i], gpu] == 0:
            return i
    return NONE


@inlined
def try_undo(state: Sampled, random: State, price: int, most: int, limit: int, row: Int) -> bool:
    """Bring an expert back to a GPU that held it, in place of one that is new there."""
    m = random_below(random, state.slots.size)
    i = _draw_new(state, m, random) if state.moves[0] > 0 else NONE
    back = _draw_lost(state, m, random) if i >= 0 else NONE
    if back < 0:
        return False
    e = state.expert[m, i]
    if state.count[e] > 1 and random_below(random, 2) == 0:
        return _hand_over_if(state, place_of(state, e), m, back, price, most, limit, row)
    k = nth_gpu_with(state, back, random_below(random, state.count[back]))
    if k < 0 or k == m or not may_swap(state, e, m, back, k):
        return False
    moves = state.moves[0] + new_moves(state, e, m, back, k)
    last_of_others(state, m, k, row)
    cost = swap_peak(state, row, e, m, back, k) + price * moves
    if moves > max(most, state.moves[0]) or cost > limit:
        return False
    swap(state, m, i, k, slot_with(state, k, back))
    return True
