"""How many of an expert's tokens each of its replicas gets, so that the last GPU is done soonest.

For a time T the question is a maximum flow: from every expert its load, to each GPU at most T times
its capacity, and edges where a GPU holds the expert. If not all load gets through, the GPUs from
which no room can be reached have to bear the whole load of some experts, so T must be at least that
load over their capacity (Newton's method on the minimum cut; Dinkelbach 1967). T starts from a
lower bound and stays one, so the first flow that lets all through is best; no set of GPUs is found
twice, so it comes. The flow is Dinic's (1970), on integers, so that it is exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from evenload.core.compile import (
    Float,
    Float1,
    Float2,
    Float3,
    Int,
    Int1,
    Int2,
    Int3,
    entry,
    read_only,
    step,
)

GRID = 2.0**60  # what a layer's loads add up to; a flow is a whole number
SLACK = 2.0**-44  # of a GPU's room: far more than rounding, far less than anyone can measure
MOST_ROOM = 2.0**61  # more than all load; a slow GPU's time at a fast GPU's speed could overflow
FAR = 2**62


class Flow(NamedTuple):
    """One layer: who may send where, what is sent, and the scratch of the search for more.

    There is one edge for each expert and GPU that holds it, however often. Experts that one GPU
    alone holds, or without load, have none: there is nothing to decide.

    Parameters
    ----------
    expert, gpu, copies : int64, [S]
        Ends of each edge, and the replicas that it stands for; grouped by expert.
    first : int64, [E + 1]
        Where each expert's edges begin.
    by_gpu : int64, [S]
        The edges grouped by GPU.
    first_by_gpu : int64, [G + 1]
        Where each GPU's part of `by_gpu` begins.
    weight, excess : int64, [E]
        Load of each expert, and what of it is not sent.
    fixed, room : int64, [G]
        Load on each GPU of the experts that it alone holds, and what it can still take.
    even, sent : int64, [S]
        Load on each edge if every replica gets the same, and now.
    gpu_level, expert_level : int64, [G], [E]
        Experts that have to give way until load from here finds room; `FAR` if none can.
    next_edge, next_giver : int64, [E], [G]
        First edge of an expert, and first place in `by_gpu` of a GPU, not known to be a dead end.
    """

    expert: Any
    gpu: Any
    copies: Any
    first: Any
    by_gpu: Any
    first_by_gpu: Any
    weight: Any
    excess: Any
    fixed: Any
    room: Any
    even: Any
    sent: Any
    gpu_level: Any
    expert_level: Any
    next_edge: Any
    next_giver: Any


FLOW = types.BaseTuple.from_types((Int1,) * 16, Flow)
Slots = read_only(Int3)


@step(Float2, Int, Int1)
def _put_on_grid(load: Any, layer: Any, weight: Any) -> None:
    """Write loads as integers that add up to `GRID` but for rounding; the same at every scale."""
    largest, total = 0.0, 0.0
    for e in range(weight.size):
        largest = max(largest, load[layer, e])
    for e in range(weight.size):
        total += load[layer, e] / largest if largest > 0.0 else 0.0
    for e in range(weight.size):
        weight[e] = np.rint(load[layer, e] / largest / total * GRID) if largest > 0.0 else 0.0


@step(FLOW, Slots, Int, read_only(Int1))
def _connect(flow: Any, slots: Any, layer: Any, gpu_of_slot: Any) -> None:
    """Fill the edges by expert and by GPU, what they carry if shared evenly, and what is fixed."""
    for gpu in range(flow.fixed.size):
        flow.fixed[gpu] = 0
    end = 0
    for e in range(flow.weight.size):
        begin = end
        flow.first[e] = begin
        if flow.weight[e] == 0:
            continue
        count = 0
        while count < slots.shape[2] and slots[layer, e, count] >= 0:
            gpu = gpu_of_slot[slots[layer, e, count]]
            j = begin
            while j < end and flow.gpu[j] != gpu:
                j += 1
            if j == end:
                flow.expert[j], flow.gpu[j], flow.copies[j] = e, gpu, 0
                end += 1
            flow.copies[j] += 1
            count += 1
        if end == begin + 1:
            flow.fixed[flow.gpu[begin]] += flow.weight[e]
            end = begin
            continue
        each = flow.weight[e] // count
        for j in range(begin, end):
            flow.even[j] = each * flow.copies[j]
        flow.even[begin] += flow.weight[e] - each * count
    flow.first[flow.weight.size] = end
    placed = 0
    for gpu in range(flow.fixed.size):
        flow.first_by_gpu[gpu] = placed
        for j in range(end):
            if flow.gpu[j] == gpu:
                flow.by_gpu[placed] = j
                placed += 1
    flow.first_by_gpu[flow.fixed.size] = placed


@step(FLOW, Float, read_only(Float1))
def _start(flow: Any, time: Any, capacity: Any) -> None:
    """Send what the even split sends, cut down alike on each GPU that cannot take it in `time`."""
    for e in range(flow.excess.size):
        flow.excess[e] = flow.weight[e]
    for gpu in range(capacity.size):
        most = min(time * capacity[gpu] * (1.0 + SLACK) + 1.0, MOST_ROOM)
        room = np.int64(most) - flow.fixed[gpu]
        begin, end = flow.first_by_gpu[gpu], flow.first_by_gpu[gpu + 1]
        wanted = np.int64(0)
        for i in range(begin, end):
            wanted += flow.even[flow.by_gpu[i]]
        part = room / wanted if wanted > room else 1.0
        for i in range(begin, end):
            j = flow.by_gpu[i]
            share = flow.even[j] if part == 1.0 else np.int64(flow.even[j] * part)
            flow.sent[j] = min(share, room)
            room -= flow.sent[j]
            flow.excess[flow.expert[j]] -= flow.sent[j]
        flow.room[gpu] = room


@step(FLOW)
def _find_levels(flow: Any) -> None:
    """Search from the GPUs with room, breadth first, for those whose load could move there."""
    queue, end = flow.next_giver, 0  # not needed until the levels are known
    for e in range(flow.excess.size):
        flow.expert_level[e] = FAR
    for gpu in range(flow.room.size):
        flow.gpu_level[gpu] = FAR
        if flow.room[gpu] > 0:
            flow.gpu_level[gpu] = 0
            queue[end] = gpu
            end += 1
    start = 0
    while start < end:
        gpu = queue[start]
        start += 1
        for i in range(flow.first_by_gpu[gpu], flow.first_by_gpu[gpu + 1]):
            e = flow.expert[flow.by_gpu[i]]
            if flow.expert_level[e] < FAR:
                continue
            flow.expert_level[e] = flow.gpu_level[gpu]
            for j in range(flow.first[e], flow.first[e + 1]):
                if flow.sent[j] > 0 and flow.gpu_level[flow.gpu[j]] == FAR:
                    flow.gpu_level[flow.gpu[j]] = flow.gpu_level[gpu] + 1
                    queue[end] = flow.gpu[j]
                    end += 1


@step(FLOW, Int)
def _step_back(flow: Any, gpu: Any) -> Any:
    """Return the next edge into a GPU whose expert is nearer to room, -1 if there is none."""
    i, end = flow.next_giver[gpu], flow.first_by_gpu[gpu + 1]
    nearer = flow.gpu_level[gpu] - 1
    while i < end:
        j = flow.by_gpu[i]
        if flow.sent[j] > 0 and flow.expert_level[flow.expert[j]] == nearer:
            break
        i += 1
    flow.next_giver[gpu] = i
    return flow.by_gpu[i] if i < end else -1


@step(FLOW, Int2, Int)
def _send_excess(flow: Any, path: Any, expert: Any) -> None:
    """Send an expert's excess along shortest ways until it is gone or all of them are full.

    `path` [3, G + 1] is the way being tried: experts, the edges that they send on, the edges that
    give way.
    """
    path[0, 0], depth = expert, 0
    while flow.excess[expert] > 0:
        e = path[0, depth]
        j, end = flow.next_edge[e], flow.first[e + 1]
        while j < end and flow.gpu_level[flow.gpu[j]] != flow.expert_level[e]:
            j += 1
        flow.next_edge[e] = j
        if j == end:  # nowhere to go on: back by one expert
            if depth == 0:
                return
            depth -= 1
            flow.next_giver[flow.gpu[path[1, depth]]] += 1
            continue
        gpu = flow.gpu[j]
        path[1, depth] = j
        if flow.room[gpu] == 0:
            giver = _step_back(flow, gpu)
            if giver < 0:
                flow.next_edge[e] += 1
                continue
            path[2, depth] = giver
            depth += 1
            path[0, depth] = flow.expert[giver]
            continue
        amount = min(flow.excess[expert], flow.room[gpu])
        for i in range(depth):
            amount = min(amount, flow.sent[path[2, i]])
        for i in range(depth):
            flow.sent[path[2, i]] -= amount
        for i in range(depth + 1):
            flow.sent[path[1, i]] += amount
        flow.excess[expert] -= amount
        flow.room[gpu] -= amount
        depth = 0


@step(FLOW, Int2)
def _send_all(flow: Any, path: Any) -> Any:
    """Make the flow the largest there is; tell whether that is all load."""
    while True:
        _find_levels(flow)
        left, stuck = False, True
        for e in range(flow.excess.size):
            flow.next_edge[e] = flow.first[e]
            if flow.first[e] < flow.first[e + 1] and flow.excess[e] > 0:
                left = True
                stuck = stuck and flow.expert_level[e] == FAR
        if not left or stuck:
            return not left
        for gpu in range(flow.room.size):
            flow.next_giver[gpu] = flow.first_by_gpu[gpu]
        for e in range(flow.excess.size):
            if flow.first[e] < flow.first[e + 1] and flow.expert_level[e] < FAR:
                _send_excess(flow, path, e)


@step(FLOW, read_only(Float1), Float)
def _next_time(flow: Any, capacity: Any, time: Any) -> Any:
    """Raise a time to what some GPUs need for load that nobody else can take.

    At time 0 those are all GPUs, and each for what it alone holds; else those far from any room.
    """
    load, speed = np.int64(0), 0.0
    for gpu in range(capacity.size):
        if time == 0.0 or flow.gpu_level[gpu] == FAR:
            load += flow.fixed[gpu]
            speed += capacity[gpu]
    for e in range(flow.weight.size):
        if flow.first[e] < flow.first[e + 1] and (time == 0.0 or flow.expert_level[e] == FAR):
            load += flow.weight[e]
    least = load / speed
    for gpu in range(capacity.size if time == 0.0 else 0):
        if capacity[gpu] > 0.0:
            least = max(least, flow.fixed[gpu] / capacity[gpu])
    return least


@step(FLOW, Slots, Int, read_only(Int1), Float3)
def _write(flow: Any, slots: Any, layer: Any, gpu_of_slot: Any, out: Any) -> None:
    """Divide what each edge carries among the replicas that it stands for."""
    E, X = slots.shape[1], slots.shape[2]
    for e in range(E):
        begin, end = flow.first[e], flow.first[e + 1]
        count, even = 0, True
        for x in range(X):
            out[layer, e, x] = 0.0
            count += slots[layer, e, x] >= 0
        for j in range(begin, end):
            even = even and flow.sent[j] == flow.even[j]
        for x in range(count):
            out[layer, e, x] = 1.0 / count
            if not even:
                j = begin
                while flow.gpu[j] != gpu_of_slot[slots[layer, e, x]]:
                    j += 1
                out[layer, e, x] = flow.sent[j] / flow.copies[j] / flow.weight[e]


@entry(Float2, Slots, read_only(Int1), read_only(Float1), Float3)
def split(
    load: Any, logical_to_physical: Any, gpu_of_slot: Any, capacity: Any, weights: Any
) -> None:
    """Find the weights of each expert's replicas that let the last GPU be done soonest.

    Takes the tokens of each expert [L, E], the slots of each [L, E, X], padded with -1 at the end,
    the GPU that each slot is on [S], and the speed of each GPU [G], 0 for one that is gone, which
    holds no expert. Writes the part of its expert's load that each replica gets [L, E, X]; even
    where nothing asks for else.
    """
    E, S, G = load.shape[1], gpu_of_slot.size, capacity.size
    flow = Flow(
        np.empty(S, np.int64), np.empty(S, np.int64), np.empty(S, np.int64),
        np.empty(E + 1, np.int64), np.empty(S, np.int64), np.empty(G + 1, np.int64),
        np.empty(E, np.int64), np.empty(E, np.int64), np.empty(G, np.int64), np.empty(G, np.int64),
        np.empty(S, np.int64), np.empty(S, np.int64), np.empty(G, np.int64), np.empty(E, np.int64),
        np.empty(E, np.int64), np.empty(G, np.int64),
    )  # fmt: skip
    path = np.empty((3, G + 1), np.int64)
    for layer in range(load.shape[0]):
        _put_on_grid(load, layer, flow.weight)
        _connect(flow, logical_to_physical, layer, gpu_of_slot)
        time = 0.0
        while True:
            time = _next_time(flow, capacity, time)
            _start(flow, time, capacity)
            if _send_all(flow, path):
                break
        _write(flow, logical_to_physical, layer, gpu_of_slot, weights)
