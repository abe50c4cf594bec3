"""A redundant replica's slot handed from one expert to another, judged by all samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel
from evenload.kernels.sampled import NONE, Sampled, rank, reshare, slot_with

Int = NDArray[np.int64]


@inlined
def may_hand_over(state: Sampled, giver: int, gpu: int, taker: int) -> bool:
    """Whether the slot of `giver` on a GPU may become one of `taker`."""
    return (
        giver != taker
        and state.count[giver] > 1
        and state.held[taker, gpu] == 0
        and (state.home[taker] == NONE or state.home[taker] == state.node[gpu])
    )


@inlined
def handover_moves(state: Sampled, giver: int, gpu: int, taker: int) -> int:
    """Count the moves that a handover adds; negative where it undoes one."""
    undone = (state.held[giver, gpu] == 1) * (1 - state.old[giver, gpu])
    return (1 - state.old[taker, gpu]) * 1 - undone


@inlined
def handover_peak(state: Sampled, giver: int, gpu: int, taker: int, last: Int) -> int:
    """Return the peak after a handover.

    Parameters
    ----------
    last : int64 ndarray, [M], scratch
    """
    time, share = state.time, state.share
    more, fewer = state.share_of_more, state.share_of_fewer
    held, unit_time = state.held, state.unit_time
    M = last.size
    for s in range(M):  # GPUs that hold neither: one of the top three, or all are looked at below
        last[s] = 0
        known = False
        for place in range(state.top.shape[1]):
            g = state.top[s, place]
            if g == NONE:
                known = True
                break
            if held[giver, g] == 0 and held[taker, g] == 0:
                last[s] = time[g, s]
                known = True
                break
        if not known:
            for g in range(unit_time.size):
                if held[giver, g] == 0 and held[taker, g] == 0:
                    last[s] = max(last[s], time[g, s])
    for g in range(unit_time.size):
        give, take = held[giver, g], held[taker, g]
        if give == 0 and take == 0:
            continue
        here = g == gpu
        for s in range(M):
            change = take * (more[taker, s] - share[taker, s])
            change += give * (fewer[giver, s] - share[giver, s])
            if here:
                change += more[taker, s] - fewer[giver, s]
            last[s] = max(last[s], time[g, s] + change * unit_time[g])
    peak = np.int64(0)
    for s in range(M):
        peak += last[s]
    return peak


@kernel
def _reweigh(state: Sampled, e: int, by: int) -> None:
    """Change an expert's count, and the time of the GPUs that hold it."""
    for sign in (-1, 1):
        for g in range(state.slots.size):
            if state.held[e, g] > 0:
                for s in range(state.sample_weight.size):
                    time = state.held[e, g] * state.share[e, s] * state.unit_time[g]
                    state.time[g, s] += sign * time
        if sign == -1:
            state.count[e] += by
            reshare(state, e)


@kernel
def hand_over(state: Sampled, giver: int, gpu: int, taker: int) -> None:
    """Make a slot of `giver` on a GPU one of `taker`; the list of spares is the caller's."""
    state.moves[0] += handover_moves(state, giver, gpu, taker)
    _reweigh(state, giver, -1)
    _reweigh(state, taker, 1)
    state.expert[gpu, slot_with(state, gpu, giver)] = taker
    state.held[giver, gpu] -= 1
    state.held[taker, gpu] += 1
    for s in range(state.sample_weight.size):
        change = state.share[taker, s] - state.share[giver, s]
        state.time[gpu, s] += change * state.unit_time[gpu]
    rank(state)
