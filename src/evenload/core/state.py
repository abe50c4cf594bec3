"""The state of one layer while it is searched, and the two steps that change it.

A layer is judged by M samples of what its load may be; mostly by one, its load. All of it is in
integers, so that a step taken back leaves no trace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from evenload.core.compile import Bool, Int, Int1, Int2, Int3, step
from evenload.core.grid import sort_keys
from evenload.core.start import FIRST, NEVER, NODE, NONE, SLOTS, UNIT_TIME

IntArray = NDArray[np.int64]

EXPERT, SHARE = range(2)  # of `State.slot`
NOW, MORE, FEWER, WHOLE = range(4)  # of `State.cost`
COUNT, HOME, AT_HOME = range(3)  # of `State.expert`
HELD, OLD = range(2)  # of `State.held`
PEAK, MOVES, AWAY = range(3)  # of `State.total`
TOP = 3  # GPUs ranked in each of many samples: a swap touches two, so one is left to compare with


class State(NamedTuple):
    """A layer on GPUs that may differ; a tuple, since that is what kernels can take.

    Parameters
    ----------
    slot : int64 ndarray, [2, G, K]
        `EXPERT` in each slot, and under one sample its `SHARE`, by which each GPU's slots descend.
    gpu : int64 ndarray, [4, G]
        See `start`.
    expert : int64 ndarray, [3, E]
        Replicas of each expert (`COUNT`), the node that has to hold one of them or -1 (`HOME`), and
        how many are there (`AT_HOME`).
    held : int16 ndarray, [2, E, G]
        Replicas of each expert on each GPU (`HELD`), and whether it ran there before (`OLD`).
    cost : int64 ndarray, [4, E, M]
        What a replica costs in each sample (`NOW`), what it would with one `MORE` and one `FEWER`,
        and what the expert costs (`WHOLE`), all times what the sample counts.
    price : int64 ndarray, [R, E, M]
        What one of 1 to R replicas costs in each sample, where that is time: `WHOLE` is the least
        that all of them together cost, with whatever number. More than R cost together what R do.
        R is 0 where a replica costs its part of the tokens.
    spare : int64 ndarray, [S - E]
        Expert of every replica beyond the first of each.
    time : int64 ndarray, [G, M]
        When each GPU is done, times what the sample counts.
    slowest : int64 ndarray, [2, G] for one sample, else [M, 3]
        Keys ``-time << gpu_bits | gpu``, ascending: by descending time, equal ones by number;
        `NEVER` where there are fewer. The second row of one sample is scratch.
    total : int64 ndarray, [3]
        Time of the last GPU, summed over the samples (`PEAK`; see `enough`); experts that are new
        to their GPU (`MOVES`); under one sample the load computed away from its home (`AWAY`).
    enough : int64 ndarray, [M]
        -1, or what a GPU may take in a sample, times what that counts: `PEAK` then is the time of
        all GPUs beyond that, which a balancer that copies experts has to bring elsewhere.
    gpu_bits : int
        Bits that hold a GPU's number.
    strict : bool
        Whether no expert may leave its home, or only one replica of each has to stay.
    copies : int
        GPUs that have to hold each expert, at least; or nodes, if `by_node`. See `apart`.
    """

    slot: IntArray
    gpu: IntArray
    expert: IntArray
    held: NDArray[np.int16]
    cost: IntArray
    price: IntArray
    spare: IntArray
    time: IntArray
    slowest: IntArray
    total: IntArray
    enough: IntArray
    gpu_bits: int
    strict: bool
    copies: int
    by_node: bool

    @classmethod
    def empty(
        cls, gpu: IntArray, num_experts: int, num_samples: int, strict: bool,
        copies: int = 1, by_node: bool = False, price_rows: int = 0,
    ) -> State:  # fmt: skip
        """Make room for the state of a layer on GPUs [4, G], with `price_rows` of `price`."""
        G, E, M = gpu.shape[1], num_experts, num_samples
        S = int(gpu[SLOTS].sum())
        return cls(
            np.zeros((2, G, int(gpu[SLOTS].max())), np.int64),
            gpu.copy(),
            np.full((3, E), NONE),
            np.zeros((2, E, G), np.int16),
            np.empty((4, E, M), np.int64),
            np.empty((price_rows, E, M), np.int64),
            np.empty(S - E, np.int64),
            np.empty((G, M), np.int64),
            np.full((2, G) if M == 1 else (M, TOP), NEVER),
            np.zeros(3, np.int64),
            np.full(M, NONE),
            max((G - 1).bit_length(), 1),
            strict,
            copies,
            by_node,
        )


StateType = types.NamedTuple(
    (
        *(Int3, Int2, Int2, types.int16[:, :, ::1], Int3, Int3, Int1, Int2, Int2, Int1, Int1),
        *(Int, Bool, Int, Bool),
    ),
    State,
)


@step(StateType, Int)
def recost(s: State, e: int) -> None:
    """Bring what a replica of an expert costs up to date with its count.

    The one place that knows what a replica costs: its part of the expert's tokens, or its time.
    """
    count, known = s.expert[COUNT, e], s.price.shape[0]
    for m in range(s.time.shape[1] if known > 0 else 0):
        for row in range(WHOLE):
            n = count + 1 if row == MORE else count
            n = max(count - 1, 1) if row == FEWER else n
            if n <= known:
                s.cost[row, e, m] = s.price[n - 1, e, m]
            else:
                s.cost[row, e, m] = s.price[known - 1, e, m] * known // n
    for m in range(s.time.shape[1] if known == 0 else 0):
        whole = s.cost[WHOLE, e, m]
        if count == 1:  # as most experts: divisions are what setting up a layer takes longest with
            s.cost[NOW, e, m] = whole
            s.cost[MORE, e, m] = whole >> 1
            s.cost[FEWER, e, m] = whole
        else:
            s.cost[NOW, e, m] = whole // count
            s.cost[MORE, e, m] = whole // (count + 1)
            s.cost[FEWER, e, m] = whole // (count - 1)


@step(StateType, Int, Int)
def is_away(s: State, e: int, g: int) -> bool:
    """Whether a GPU is on another node than the expert's home."""
    return s.expert[HOME, e] != NONE and s.expert[HOME, e] != s.gpu[NODE, g]


@step(StateType, Int, Int, Int)
def _tally(s: State, e: int, g: int, by: int) -> None:
    """Count a replica that comes to a GPU, or leaves it."""
    before = s.held[HELD, e, g]
    s.held[HELD, e, g] = before + by
    if s.held[OLD, e, g] == 0 and (before == 0 or before + by == 0):
        s.total[MOVES] += by
    if is_away(s, e, g):
        s.total[AWAY] += by * s.cost[NOW, e, 0]
    else:
        s.expert[AT_HOME, e] += by
    for m in range(s.time.shape[1]):
        s.time[g, m] += by * s.cost[NOW, e, m] * s.gpu[UNIT_TIME, g]


@step(StateType, Int, Int)
def _sift(s: State, g: int, i: int) -> None:
    """Move a slot of a GPU to where its share belongs."""
    e, share = s.slot[EXPERT, g, i], s.slot[SHARE, g, i]
    while i > 0 and s.slot[SHARE, g, i - 1] < share:
        s.slot[SHARE, g, i] = s.slot[SHARE, g, i - 1]
        s.slot[EXPERT, g, i] = s.slot[EXPERT, g, i - 1]
        i -= 1
    while i + 1 < s.gpu[SLOTS, g] and s.slot[SHARE, g, i + 1] > share:
        s.slot[SHARE, g, i] = s.slot[SHARE, g, i + 1]
        s.slot[EXPERT, g, i] = s.slot[EXPERT, g, i + 1]
        i += 1
    s.slot[SHARE, g, i] = share
    s.slot[EXPERT, g, i] = e


@step(StateType, Int)
def _sort_slots(s: State, g: int) -> None:
    """Sort the slots of a GPU by descending share, under one sample."""
    for end in range(1, s.gpu[SLOTS, g] if s.time.shape[1] == 1 else 0):
        e, share = s.slot[EXPERT, g, end], s.slot[SHARE, g, end]
        i = end
        while i > 0 and s.slot[SHARE, g, i - 1] < share:
            s.slot[SHARE, g, i] = s.slot[SHARE, g, i - 1]
            s.slot[EXPERT, g, i] = s.slot[EXPERT, g, i - 1]
            i -= 1
        s.slot[SHARE, g, i] = share
        s.slot[EXPERT, g, i] = e


@step(StateType, Int, Int)
def gpu_at(s: State, m: int, place: int) -> int:
    """Return the GPU at a place of `State.slowest` in a sample, -1 where there are fewer."""
    key = s.slowest[m, place]
    return NONE if key == NEVER else key & ((1 << s.gpu_bits) - 1)


@step(StateType, Int, Int)
def time_at(s: State, m: int, place: int) -> int:
    """Return when the GPU at a place of `State.slowest` is done."""
    return -(s.slowest[m, place] >> s.gpu_bits)


@step(StateType, Int, Int)
def _rerank(s: State, g: int, before: int) -> None:
    """Move a GPU to its place, of which the time was another one before, under one sample."""
    ranking, last = s.slowest[0], s.slowest.shape[1] - 1
    old = (-before << s.gpu_bits) | g
    new = (-s.time[g, 0] << s.gpu_bits) | g
    low = 0
    high = last
    while low < high:
        middle = (low + high) >> 1
        if ranking[middle] < old:
            low = middle + 1
        else:
            high = middle
    while low > 0 and ranking[low - 1] > new:
        ranking[low] = ranking[low - 1]
        low -= 1
    while low < last and ranking[low + 1] < new:
        ranking[low] = ranking[low + 1]
        low += 1
    ranking[low] = new


@step(StateType, Int, Int, Int)
def _put(s: State, g: int, i: int, e: int) -> None:
    """Put a replica in place of the one in a slot; no other GPU may be out of its place."""
    before = s.time[g, 0]
    _tally(s, s.slot[EXPERT, g, i], g, -1)
    _tally(s, e, g, 1)
    s.slot[EXPERT, g, i] = e
    if s.time.shape[1] == 1:
        s.slot[SHARE, g, i] = s.cost[NOW, e, 0]
        _sift(s, g, i)
        _rerank(s, g, before)


@step(StateType, Int)
def _find_slowest(s: State, m: int) -> None:
    """Find the three GPUs that are done last in one of many samples."""
    a = NEVER
    b = NEVER
    c = NEVER
    for g in range(s.time.shape[0]):
        key = (-s.time[g, m] << s.gpu_bits) | g
        if key < c:
            if key < a:
                a, b, c = key, a, b
            elif key < b:
                b, c = key, b
            else:
                c = key
    s.slowest[m, 0] = a
    s.slowest[m, 1] = b
    s.slowest[m, 2] = c


@step(StateType)
def _add_up(s: State) -> None:
    peak = np.int64(0)
    for m in range(s.time.shape[1]):
        if s.enough[m] == NONE:
            peak += time_at(s, m, 0)
            continue
        for g in range(s.time.shape[0]):
            peak += max(s.time[g, m] - s.enough[m], np.int64(0))
    s.total[PEAK] = peak


@step(StateType, Int1)
def fill(s: State, placed: IntArray) -> None:
    """Set the state from a placement.

    What the experts cost as a whole, their homes and what is old have to be set already.

    Parameters
    ----------
    s : State, output
    placed : int64, [S]
        Expert in each slot, the slots of the GPUs one after the other.
    """
    E, G, M = s.expert.shape[1], s.gpu.shape[1], s.time.shape[1]
    for e in range(E):
        s.expert[COUNT, e] = 0
        s.expert[AT_HOME, e] = 0
        for g in range(G):
            s.held[HELD, e, g] = 0
    for slot in range(placed.size):
        s.expert[COUNT, placed[slot]] += 1
    n = 0
    for e in range(E):
        recost(s, e)
        for _ in range(s.expert[COUNT, e] - 1):
            s.spare[n] = e
            n += 1
    s.total[MOVES] = 0
    s.total[AWAY] = 0
    for g in range(G):
        for m in range(M):
            s.time[g, m] = 0
        for i in range(s.gpu[SLOTS, g]):
            e = placed[s.gpu[FIRST, g] + i]
            s.slot[EXPERT, g, i] = e
            s.slot[SHARE, g, i] = s.cost[NOW, e, 0]
            _tally(s, e, g, 1)
        _sort_slots(s, g)
    rank_all(s)


@step(StateType)
def rank_all(s: State) -> None:
    """Rank the GPUs where any time may have changed."""
    G, M = s.time.shape
    if M == 1:
        for g in range(G):
            s.slowest[0, g] = (-s.time[g, 0] << s.gpu_bits) | g
        sort_keys(s.slowest[0], G, s.slowest[1])
    else:
        for m in range(M):
            _find_slowest(s, m)
    _add_up(s)


@step(StateType, Int1)
def copy_out(s: State, placed: IntArray) -> None:
    """Write the expert in every slot, the slots of the GPUs one after the other: int64 [S]."""
    for g in range(s.gpu.shape[1]):
        for i in range(s.gpu[SLOTS, g]):
            placed[s.gpu[FIRST, g] + i] = s.slot[EXPERT, g, i]


@step(StateType, Int, Int)
def slot_with(s: State, g: int, e: int) -> int:
    """Return a slot of a GPU that holds an expert, -1 if there is none."""
    for i in range(s.gpu[SLOTS, g]):
        if s.slot[EXPERT, g, i] == e:
            return i
    return NONE


@step(StateType, Int, Int, Int, Int)
def swap(s: State, m: int, i: int, k: int, j: int) -> None:
    """Exchange slot i of GPU m with slot j of GPU k."""
    a, b = s.slot[EXPERT, m, i], s.slot[EXPERT, k, j]
    _put(s, m, i, b)
    _put(s, k, j, a)
    for sample in range(s.time.shape[1] if s.time.shape[1] > 1 else 0):
        least = time_at(s, sample, TOP - 1)
        # The third may be one of the two: then it is among the top, and that says enough.
        touched = s.time[m, sample] >= least or s.time[k, sample] >= least
        for place in range(TOP):
            g = gpu_at(s, sample, place)
            touched = touched or g in (m, k)
        if touched:
            _find_slowest(s, sample)
    _add_up(s)


@step(StateType, Int, Int)
def _recount(s: State, e: int, by: int) -> None:
    """Change the count of an expert, and what its replicas cost on the GPUs that hold it."""
    M = s.time.shape[1]
    after = MORE if by > 0 else FEWER
    if s.expert[HOME, e] != NONE:
        away = s.expert[COUNT, e] - s.expert[AT_HOME, e]
        s.total[AWAY] += away * (s.cost[after, e, 0] - s.cost[NOW, e, 0])
    for g in range(s.gpu.shape[1]):
        held = s.held[HELD, e, g]
        if held == 0:
            continue
        before = s.time[g, 0]
        for m in range(M):
            change = s.cost[after, e, m] - s.cost[NOW, e, m]
            s.time[g, m] += held * change * s.gpu[UNIT_TIME, g]
        if M == 1:
            for i in range(s.gpu[SLOTS, g]):
                if s.slot[EXPERT, g, i] == e:
                    s.slot[SHARE, g, i] = s.cost[after, e, 0]
            _sort_slots(s, g)
            _rerank(s, g, before)
    s.expert[COUNT, e] += by
    recost(s, e)


@step(StateType, Int, Int, Int)
def hand_over(s: State, place: int, g: int, taker: int) -> None:
    """Make the slot of a spare replica on a GPU one of another expert.

    All other replicas of both experts cost more and less from then on.

    Parameters
    ----------
    s : State, changed
    place : int
        Of the replica in `State.spare`.
    g, taker : int
        A GPU that holds its expert, and the expert that gets the slot.
    """
    giver = s.spare[place]
    s.spare[place] = taker
    _recount(s, giver, -1)
    _recount(s, taker, 1)
    _put(s, g, slot_with(s, g, giver), taker)
    if s.time.shape[1] == 1:
        _add_up(s)
    else:
        rank_all(s)
