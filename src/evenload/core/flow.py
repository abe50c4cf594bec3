"""Which part of an expert's tokens each replica gets while the last GPU is done as soon as it can.

Under each sample of a layer's load the tokens of an expert are a flow to the GPUs that hold it. No
GPU has to be busy longer than T if whatever one has beyond T can be passed on: a GPU gives tokens
of an expert to another holder, which gives on tokens of another expert, until one has room. Where
no room can be reached, the GPUs that were reached bear all load of the experts that only they hold,
so T is at least that load over their speed. T starts at a lower bound and is only raised to another
one, so that the first flow that fits is best (Dinkelbach 1967, on minimum cuts).

Where every rank has its own way to a replica, by where they are, the flow is given: of tokens that
start on a GPU all go to the first replica there, or else to the first on its node if others are
elsewhere, or else to all alike (SGLang 0.5.23, ``srt/eplb/expert_location.py``).

A change of the placement disturbs little: the flow goes on from what it was, and the set of GPUs
that decided T before bounds it from below for next to nothing. Solved anew a trial took 7 to 41
microseconds times samples; so it takes 2 to 5 for all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from evenload.core.compile import Float1, Int, Int1, Int2, step
from evenload.core.start import FIRST, NEVER, NODE, NONE, SLOTS, UNIT_TIME
from evenload.core.state import COUNT, EXPERT, WHOLE, State, StateType

IntArray = NDArray[np.int64]

OF_EXPERT, OF_GPU, NEXT, PART, PASSED = range(5)  # of `Flow.slot`
TIME, LEAST, INSIDE, FLOOR, BOUND = range(5)  # of `Flow.sample`
ROOM, QUEUE, GIVES, TAKES, SEARCHES = range(5)  # of `Flow.scratch`
ENOUGH, LIVE_SHARE = range(2)  # of `Flow.dial`
FLOAT_BITS = 52  # of a float's fraction: less of a time may change nothing
PART_BITS = 16  # of the part of its expert's tokens that a replica gets


class Flow(NamedTuple):
    """A layer's tokens on their way to replicas, under M samples; none where M is 0.

    Parameters
    ----------
    slot : int64 ndarray, [5, S]
        Expert and GPU of each slot, the next slot of the same expert, in a circle; where that is
        given the part of the expert's tokens that it gets, of ``1 << PART_BITS``; and which search
        for room came by last (`PASSED`).
    some : int64 ndarray, [E]
        A slot of each expert.
    sent : int64 ndarray, [M, S]
        Tokens that a slot gets, times what the sample counts.
    used : int64 ndarray, [M, G]
        Tokens that a GPU gets.
    tight : int64 ndarray, [M, G]
        1 for the GPUs whose load decides when the last one is done, see `INSIDE`.
    sample : int64 ndarray, [5, M]
        When the last GPU is done (`TIME`); the time that is good enough (`LEAST`); load of the
        experts that only tight GPUs hold (`INSIDE`); and in a trial that load after a change
        (`FLOOR`), and the time that this takes at least (`BOUND`).
    saved : int64 ndarray, [M, S + 2 G + 2]
        What a trial has changed.
    scratch : int64 ndarray, [5, G]
        The first number of the last row counts the searches for room.
    dial : float64 ndarray, [2]
        Time, over that of a load divided at will, that is good enough (`ENOUGH`), and the part of
        a search's cost that is the best split's (`LIVE_SHARE`); the rest is that of even shares.
    start : int64 ndarray, [G] or [0]
        Tokens that start on each GPU, of ``1 << PART_BITS``; none where they are split live.
    first : int64 ndarray, [G + 1]
        Where the slots of each GPU begin, and where the last one's end.
    unit : float64 ndarray, [G]
        Time that a token takes each GPU, at least 1; infinite for one that is gone.
    """

    slot: IntArray
    some: IntArray
    sent: IntArray
    used: IntArray
    tight: IntArray
    sample: IntArray
    saved: IntArray
    scratch: IntArray
    dial: NDArray[np.float64]
    start: IntArray
    first: IntArray
    unit: NDArray[np.float64]

    @classmethod
    def empty(
        cls, gpu: IntArray, num_experts: int, num_samples: int, enough: float, live_share: float,
        start: IntArray,
    ) -> Flow:  # fmt: skip
        """Make room for a layer on GPUs [4, G]."""
        G, S, M = gpu.shape[1], int(gpu[SLOTS].sum()), num_samples
        slot = np.zeros((5, S), np.int64)
        slot[OF_GPU] = np.repeat(np.arange(G), gpu[SLOTS])
        return cls(
            slot,
            np.empty(num_experts, np.int64),
            np.empty((M, S), np.int64),
            np.empty((M, G), np.int64),
            np.empty((M, G), np.int64),
            np.empty((5, M), np.int64),
            np.empty((M, S + 2 * G + 2), np.int64),
            np.zeros((5, G), np.int64),
            np.array([enough, live_share]),
            start,
            np.append(gpu[FIRST], S),
            gpu[UNIT_TIME].astype(np.float64),
        )


FlowType = types.NamedTuple(
    (Int2, Int1, Int2, Int2, Int2, Int2, Int2, Int2, Float1, Int1, Int1, Float1), Flow
)


@step(FlowType, Int, Int)
def join(f: Flow, slot: int, e: int) -> None:
    """Make a slot one of an expert."""
    other = f.some[e]
    if other == NONE:
        f.slot[NEXT, slot] = slot
    else:
        f.slot[NEXT, slot] = f.slot[NEXT, other]
        f.slot[NEXT, other] = slot
    f.slot[OF_EXPERT, slot] = e
    f.some[e] = slot


@step(FlowType, Int)
def _leave(f: Flow, slot: int) -> None:
    """Make a slot none of its expert's."""
    before = slot
    while f.slot[NEXT, before] != slot:
        before = f.slot[NEXT, before]
    f.slot[NEXT, before] = f.slot[NEXT, slot]
    f.some[f.slot[OF_EXPERT, slot]] = NONE if before == slot else before


@step(FlowType, Int, Int)
def _is_inside(f: Flow, m: int, e: int) -> bool:
    """Whether only tight GPUs hold an expert."""
    first = f.some[e]
    slot = first
    while f.tight[m, f.slot[OF_GPU, slot]] == 1:
        slot = f.slot[NEXT, slot]
        if slot == first:
            return True
    return False


@step(FlowType, Int, Int)
def time_for(f: Flow, m: int, load: int) -> int:
    """Return the least time in which the tight GPUs can bear a load, `NEVER` if none is less."""
    G = f.used.shape[1]
    speed = 0.0
    equal = True
    for g in range(G):
        if f.tight[m, g] == 1:
            speed += 1.0 / f.unit[g]
            equal = equal and f.unit[g] == 1.0
    if equal:
        return -(-load // np.int64(speed))
    if load / speed >= NEVER:
        return NEVER
    time = np.int64(load / speed)
    while True:  # what is rounded off on each GPU
        room = np.int64(0)
        for g in range(G):
            if f.tight[m, g] == 1:
                room += _room(f, g, time)
        if room >= load:
            return time
        time += max(np.int64(1), np.int64((load - room) / speed), time >> FLOAT_BITS)


@step(FlowType, Int, Int)
def _room(f: Flow, g: int, time: int) -> int:
    """Return the tokens that a GPU can take in a time."""
    return time if f.unit[g] == 1.0 else np.int64(time / f.unit[g])


@step(FlowType, Int, Int, Int)
def _send(f: Flow, m: int, start: int, end: int) -> bool:
    """Pass on what a GPU has beyond its room, as much as the way found holds.

    Returns
    -------
    bool
        Whether more has to be passed on, and the way can hold more.
    """
    scratch = f.scratch
    amount = f.used[m, start] - scratch[ROOM, start]
    amount = min(amount, scratch[ROOM, end] - f.used[m, end])
    g = end
    while g != start:
        amount = min(amount, f.sent[m, scratch[GIVES, g]])
        g = f.slot[OF_GPU, scratch[GIVES, g]]
    more = True
    g = end
    while g != start:
        f.sent[m, scratch[GIVES, g]] -= amount
        f.sent[m, scratch[TAKES, g]] += amount
        more = more and f.sent[m, scratch[GIVES, g]] > 0
        g = f.slot[OF_GPU, scratch[GIVES, g]]
    f.used[m, start] -= amount
    f.used[m, end] += amount
    return more and f.used[m, start] > scratch[ROOM, start]


@step(FlowType, Int, Int)
def _pass_on(f: Flow, m: int, start: int) -> bool:
    """Pass on what a GPU has beyond its room, to the nearest with room, breadth first.

    Until it fits, or a way holds no more, so that others may be the shortest from then on. A GPU
    filled changes nothing that was found before. `GIVES` and `TAKES` are the slots by which each
    GPU was reached; `TAKES` of others is -1.

    Returns
    -------
    bool
        False where no more room is to be reached.
    """
    ring, passed, scratch = f.slot[NEXT], f.slot[PASSED], f.scratch
    for g in range(f.used.shape[1]):
        scratch[TAKES, g] = NONE
    scratch[TAKES, start] = f.first[start]
    scratch[QUEUE, 0] = start
    scratch[SEARCHES, 0] += 1
    n = 0
    end = 1
    while n < end:
        g = scratch[QUEUE, n]
        n += 1
        for gives in range(f.first[g], f.first[g + 1]):
            takes = ring[gives]
            if takes == gives or f.sent[m, gives] == 0 or passed[gives] == scratch[SEARCHES, 0]:
                continue
            while takes != gives:
                k = f.slot[OF_GPU, takes]
                passed[takes] = scratch[SEARCHES, 0]
                if scratch[TAKES, k] == NONE:
                    scratch[GIVES, k] = gives
                    scratch[TAKES, k] = takes
                    if f.used[m, k] < scratch[ROOM, k] and not _send(f, m, start, k):
                        return True
                    scratch[QUEUE, end] = k
                    end += 1
                takes = ring[takes]
    return False


@step(FlowType, Int)
def set_rooms(f: Flow, time: int) -> None:
    """Set the tokens that each GPU can take in a time."""
    for g in range(f.used.shape[1]):
        f.scratch[ROOM, g] = _room(f, g, time)


@step(FlowType, Int, Int, Int)
def level(f: Flow, m: int, time: int, cut: int) -> bool:
    """Level one sample's flow, from a lower bound on the time of the last GPU.

    Returns
    -------
    bool
        Whether it is done by `cut`; else the flow is left half-way.
    """
    G = f.used.shape[1]
    set_rooms(f, time)
    for g in range(G):
        while f.used[m, g] > f.scratch[ROOM, g]:
            if _pass_on(f, m, g):
                continue
            inside = np.int64(0)
            for k in range(G):
                f.tight[m, k] = np.int64(f.scratch[TAKES, k] != NONE)
                if f.tight[m, k] == 1:
                    inside += f.used[m, k]
            f.sample[INSIDE, m] = inside
            time = max(time + 1, time_for(f, m, inside))
            if time > cut:
                return False
            set_rooms(f, time)
    f.sample[TIME, m] = time
    return True


@step(FlowType, Int)
def _all_are_tight(f: Flow, m: int) -> None:
    inside = np.int64(0)
    for g in range(f.used.shape[1]):
        f.tight[m, g] = 1
        inside += f.used[m, g]
    f.sample[INSIDE, m] = inside


@step(StateType, FlowType, Int)
def _part_by_place(s: State, f: Flow, e: int) -> None:
    """Find what part of an expert's tokens each of its slots gets, by where they start."""
    first, all_slots = f.some[e], np.int64(0)
    slot = first
    while True:
        f.slot[PART, slot] = 0
        all_slots += 1
        slot = f.slot[NEXT, slot]
        if slot == first:
            break
    far = np.int64(0)
    for g in range(f.start.size):
        own, near, beside = NEVER, NEVER, np.int64(0)
        for _ in range(all_slots):
            gpu = f.slot[OF_GPU, slot]
            if gpu == g:
                own = min(own, slot)
            if s.gpu[NODE, gpu] == s.gpu[NODE, g]:
                near = min(near, slot)
                beside += 1
            slot = f.slot[NEXT, slot]
        if own == NEVER and beside < all_slots:
            own = near
        if own == NEVER:
            far += f.start[g]
        else:
            f.slot[PART, own] += f.start[g]
    for _ in range(all_slots):
        f.slot[PART, slot] += far // all_slots
        slot = f.slot[NEXT, slot]


@step(StateType, FlowType, Int, Int)
def _send_by_place(s: State, f: Flow, m: int, e: int) -> None:
    """Send each slot of an expert its part."""
    slot = f.some[e]
    for _ in range(f.slot.shape[1]):
        sent = s.cost[WHOLE, e, m] * f.slot[PART, slot] >> PART_BITS
        f.used[m, f.slot[OF_GPU, slot]] += sent - f.sent[m, slot]
        f.sent[m, slot] = sent
        slot = f.slot[NEXT, slot]
        if slot == f.some[e]:
            break


@step(StateType, FlowType, Int, Int)
def _find_last(s: State, f: Flow, m: int, cut: int) -> bool:
    """Find when the last GPU is done, and tell whether that is by `cut`."""
    last = np.int64(0)
    time = np.int64(-1)
    for g in range(f.used.shape[1]):
        f.tight[m, g] = 0
        if f.used[m, g] * s.gpu[UNIT_TIME, g] > time:
            last, time = g, f.used[m, g] * s.gpu[UNIT_TIME, g]
    f.tight[m, last] = 1
    f.sample[TIME, m] = max(time, f.sample[LEAST, m])
    return time <= cut


@step(StateType, FlowType)
def settle(s: State, f: Flow) -> int:
    """Find the flows of a state just filled; return the time of the last GPU over all samples."""
    G, S = s.gpu.shape[1], f.slot.shape[1]
    for e in range(f.some.size):
        f.some[e] = NONE
    for g in range(G):
        for i in range(s.gpu[SLOTS, g]):
            join(f, s.gpu[FIRST, g] + i, s.slot[EXPERT, g, i])
    by_place = f.start.size > 0
    for e in range(f.some.size if by_place else 0):
        _part_by_place(s, f, e)
    total = np.int64(0)
    for m in range(f.used.shape[0]):
        for g in range(G):
            f.used[m, g] = 0
        for slot in range(S):
            e = f.slot[OF_EXPERT, slot]
            sent = s.cost[WHOLE, e, m] // s.expert[COUNT, e]
            if slot == f.some[e]:
                sent = s.cost[WHOLE, e, m] - sent * (s.expert[COUNT, e] - 1)
            f.sent[m, slot] = sent
            f.used[m, f.slot[OF_GPU, slot]] += sent
        _all_are_tight(f, m)
        f.sample[LEAST, m] = np.int64(time_for(f, m, f.sample[INSIDE, m]) * f.dial[ENOUGH])
        if by_place:
            for e in range(f.some.size):
                _send_by_place(s, f, m, e)
            _find_last(s, f, m, NEVER)
        else:
            level(f, m, f.sample[LEAST, m], NEVER)
        total += f.sample[TIME, m]
    return total


@step(StateType, FlowType, Int, Int)
def _weigh_inside(s: State, f: Flow, e: int, by: int) -> None:
    """Add an expert's load to what the tight GPUs have to bear alone, or take it off."""
    for m in range(f.used.shape[0]):
        if _is_inside(f, m, e):
            f.sample[FLOOR, m] += by * s.cost[WHOLE, e, m]


@step(FlowType, Int)
def _save(f: Flow, m: int) -> None:
    S, G = f.sent.shape[1], f.used.shape[1]
    for slot in range(S):
        f.saved[m, slot] = f.sent[m, slot]
    for g in range(G):
        f.saved[m, S + g] = f.used[m, g]
        f.saved[m, S + G + g] = f.tight[m, g]
    f.saved[m, S + 2 * G] = f.sample[TIME, m]
    f.saved[m, S + 2 * G + 1] = f.sample[INSIDE, m]


@step(FlowType, Int)
def _restore(f: Flow, m: int) -> None:
    S, G = f.sent.shape[1], f.used.shape[1]
    for slot in range(S):
        f.sent[m, slot] = f.saved[m, slot]
    for g in range(G):
        f.used[m, g] = f.saved[m, S + g]
        f.tight[m, g] = f.saved[m, S + G + g]
    f.sample[TIME, m] = f.saved[m, S + 2 * G]
    f.sample[INSIDE, m] = f.saved[m, S + 2 * G + 1]


@step(FlowType, Int, Int, Int, Int)
def _rename(f: Flow, i: int, a: int, j: int, b: int) -> None:
    """Make slot i one of a, and slot j, unless that is -1, one of b."""
    _leave(f, i)
    if j != NONE:
        _leave(f, j)
        join(f, j, b)
    join(f, i, a)


@step(FlowType, Int, Int, Int, Int)
def _follow(f: Flow, m: int, i: int, j: int, b: int) -> None:
    """Let a sample's tokens follow their experts after the slots i and j were renamed.

    Where there is no j, those of b in slot i go to its replica on the GPU with the fewest tokens.
    """
    sent = f.sent[m, i]
    back = np.int64(0)
    if j != NONE:
        back = f.sent[m, j]
        f.sent[m, j] = sent
    else:
        j = f.some[b]
        slot = f.slot[NEXT, j]
        while slot != f.some[b]:
            if f.used[m, f.slot[OF_GPU, slot]] < f.used[m, f.slot[OF_GPU, j]]:
                j = slot
            slot = f.slot[NEXT, slot]
        f.sent[m, j] += sent
    f.sent[m, i] = back
    f.used[m, f.slot[OF_GPU, i]] += back - sent
    f.used[m, f.slot[OF_GPU, j]] += sent - back


@step(StateType, FlowType, Int, Int, Int, Int, Int)
def change_if(s: State, f: Flow, i: int, a: int, j: int, b: int, limit: int) -> int:
    """Make slot i of expert b one of a, unless the last GPU is done too late then.

    Only the flow changes; the state has to follow where this is done.

    Parameters
    ----------
    j : int
        The slot of a that becomes one of b; or -1 where b has other slots, and a gets one more.
    limit : int
        What the time of the last GPU, over all samples, may be.

    Returns
    -------
    int
        That time; `NEVER` where it is above the limit, and nothing has changed.
    """
    M, by_place = f.used.shape[0], f.start.size > 0
    for m in range(M):
        f.sample[FLOOR, m] = f.sample[INSIDE, m]
    if by_place:
        _rename(f, i, a, j, b)
        _part_by_place(s, f, a)
        _part_by_place(s, f, b)
    else:
        _weigh_inside(s, f, a, -1)
        _weigh_inside(s, f, b, -1)
        _rename(f, i, a, j, b)
        _weigh_inside(s, f, a, 1)
        _weigh_inside(s, f, b, 1)
    total = np.int64(0)
    for m in range(M):
        bound = f.sample[LEAST, m]
        if not by_place:
            bound = max(bound, time_for(f, m, f.sample[FLOOR, m]))
        f.sample[BOUND, m] = bound
        total += bound
    done = 0
    while total <= limit and done < M:
        bound = f.sample[BOUND, done]
        _save(f, done)
        if by_place:
            _send_by_place(s, f, done, a)
            _send_by_place(s, f, done, b)
            fits = _find_last(s, f, done, bound + limit - total)
        else:
            _follow(f, done, i, j, b)
            if bound > f.sample[LEAST, done]:
                f.sample[INSIDE, done] = f.sample[FLOOR, done]
            else:
                _all_are_tight(f, done)
            fits = level(f, done, bound, bound + limit - total)
        done += 1
        total += f.sample[TIME, done - 1] - bound if fits else NEVER
    if total <= limit:
        return total
    for m in range(done):
        _restore(f, m)
    _rename(f, i, b, j, a)
    return NEVER
