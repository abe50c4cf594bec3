"""How many of an expert's tokens each of its replicas gets, so that the last GPU is done soonest.

For a time T the question is a maximum flow: from every expert its load, to each GPU at most T times
its capacity, and edges where a GPU holds the expert. If not all load gets through, the GPUs from
which no room can be reached have to bear the whole load of some experts, so T must be at least that
load over their capacity (Newton's method on the minimum cut; Dinkelbach 1967). T starts from a
lower bound and stays one, so the first flow that lets all through is best; no set of GPUs is found
twice, so it comes. The flow is Dinic's (1970), on integers, so that it is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]

GRID = 2.0**60  # what a layer's loads add up to; a flow is a whole number
SLACK = 2.0**-44  # of a GPU's room: far more than rounding, far less than anyone can measure
MOST_ROOM = 2.0**61  # more than all load; a slow GPU's time at a fast GPU's speed could overflow
FAR = 2**62


class Edges(NamedTuple):
    """Who may send where: one edge for each expert and GPU that holds it, however often.

    Experts that one GPU alone holds, or without load, have none: there is nothing to decide.

    Parameters
    ----------
    expert, gpu, copies : int64 ndarray, [S]
        Ends of each edge, and the replicas that it stands for; grouped by expert.
    first : int64 ndarray, [E + 1]
        Where each expert's edges begin.
    by_gpu : int64 ndarray, [S]
        The edges grouped by GPU.
    first_by_gpu : int64 ndarray, [G + 1]
        Where each GPU's part of `by_gpu` begins.
    weight : int64 ndarray, [E]
        Load of each expert.
    fixed : int64 ndarray, [G]
        Load on each GPU of the experts that it alone holds.
    """

    expert: Int
    gpu: Int
    copies: Int
    first: Int
    by_gpu: Int
    first_by_gpu: Int
    weight: Int
    fixed: Int


class Flow(NamedTuple):
    """What is sent, and the scratch of the search for more.

    Parameters
    ----------
    even, sent : int64 ndarray, [S]
        Load on each edge if every replica gets the same, and now.
    room : int64 ndarray, [G]
        What each GPU can still take.
    excess : int64 ndarray, [E]
        What each expert has not sent.
    gpu_level, expert_level : int64 ndarray, [G], [E]
        Experts that have to give way until load from here finds room; `FAR` if none can.
    next_edge, next_giver : int64 ndarray, [E], [G]
        First edge of an expert, and first place in `by_gpu` of a GPU, not known to be a dead end.
    path : int64 ndarray, [3, G + 1]
        The way being tried: experts, the edges that they send on, the edges that give way.
    """

    even: Int
    sent: Int
    room: Int
    excess: Int
    gpu_level: Int
    expert_level: Int
    next_edge: Int
    next_giver: Int
    path: Int


@kernel
def _empty(E: int, S: int, G: int) -> tuple[Edges, Flow]:
    """Make room for a layer."""
    edges = Edges(
        np.empty(S, np.int64),
        np.empty(S, np.int64),
        np.empty(S, np.int64),
        np.empty(E + 1, np.int64),
        np.empty(S, np.int64),
        np.empty(G + 1, np.int64),
        np.empty(E, np.int64),
        np.empty(G, np.int64),
    )
    flow = Flow(
        np.empty(S, np.int64),
        np.empty(S, np.int64),
        np.empty(G, np.int64),
        np.empty(E, np.int64),
        np.empty(G, np.int64),
        np.empty(E, np.int64),
        np.empty(E, np.int64),
        np.empty(G, np.int64),
        np.empty((3, G + 1), np.int64),
    )
    return edges, flow


@kernel
def _put_on_grid(load: Float, weight: Int) -> None:
    """Write loads as integers that add up to `GRID` but for rounding; the same at every scale."""
    weight[:] = 0
    largest = load.max()
    if largest == 0.0:
        return
    total = 0.0
    for e in range(load.size):
        total += load[e] / largest
    for e in range(load.size):
        weight[e] = np.int64(np.rint(load[e] / largest / total * GRID))


@kernel
def _edge_to(edges: Edges, begin: int, end: int, gpu: int) -> int:
    """Find the edge to a GPU among those from `begin` to `end`; `end` if there is none."""
    j = begin
    while j < end and edges.gpu[j] != gpu:
        j += 1
    return j


@kernel
def _connect(edges: Edges, slots: Int, gpu_of_slot: Int) -> None:
    """Fill the edges by expert, and what is fixed, from each expert's slots [E, X]."""
    edges.fixed[:] = 0
    end = 0
    for e in range(edges.weight.size):
        begin = end
        edges.first[e] = begin
        for x in range(slots.shape[1] if edges.weight[e] > 0 else 0):
            if slots[e, x] < 0:
                break
            gpu = gpu_of_slot[slots[e, x]]
            j = _edge_to(edges, begin, end, gpu)
            if j == end:
                edges.expert[j], edges.gpu[j], edges.copies[j] = e, gpu, 0
                end += 1
            edges.copies[j] += 1
        if end == begin + 1:
            edges.fixed[edges.gpu[begin]] += edges.weight[e]
            end = begin
    edges.first[-1] = end


@kernel
def _group_by_gpu(edges: Edges) -> None:
    first, end = edges.first_by_gpu, edges.first[-1]
    first[:] = 0
    for j in range(end):
        first[edges.gpu[j] + 1] += 1
    for gpu in range(first.size - 1):
        first[gpu + 1] += first[gpu]
    for j in range(end - 1, -1, -1):  # filled from behind, so that `first` is right afterwards
        gpu = edges.gpu[j]
        first[gpu + 1] -= 1
        edges.by_gpu[first[gpu + 1]] = j
    for gpu in range(first.size - 1):
        first[gpu] = first[gpu + 1]
    first[-1] = end


@kernel
def _share_evenly(edges: Edges, even: Int) -> None:
    for e in range(edges.weight.size):
        begin, end = edges.first[e], edges.first[e + 1]
        if begin < end:
            count = edges.copies[begin:end].sum()
            each = edges.weight[e] // count
            for j in range(begin, end):
                even[j] = each * edges.copies[j]
            even[begin] += edges.weight[e] - each * count


@kernel
def _start(edges: Edges, flow: Flow, time: float, capacity: Float) -> None:
    """Send what the even split sends, cut down alike on each GPU that cannot take it in `time`."""
    flow.excess[:] = edges.weight
    for gpu in range(capacity.size):
        most = min(time * capacity[gpu] * (1.0 + SLACK) + 1.0, MOST_ROOM)
        room = np.int64(most) - edges.fixed[gpu]
        begin, end = edges.first_by_gpu[gpu], edges.first_by_gpu[gpu + 1]
        wanted = np.int64(0)
        for i in range(begin, end):
            wanted += flow.even[edges.by_gpu[i]]
        part = room / wanted if wanted > room else 1.0
        for i in range(begin, end):
            j = edges.by_gpu[i]
            share = flow.even[j] if part == 1.0 else np.int64(flow.even[j] * part)
            flow.sent[j] = min(share, room)
            room -= flow.sent[j]
            flow.excess[edges.expert[j]] -= flow.sent[j]
        flow.room[gpu] = room


@kernel
def _find_levels(edges: Edges, flow: Flow) -> None:
    """Search from the GPUs with room, breadth first, for those whose load could move there."""
    flow.gpu_level[:] = FAR
    flow.expert_level[:] = FAR
    queue, end = flow.next_giver, 0  # not needed until the levels are known
    for gpu in range(flow.room.size):
        if flow.room[gpu] > 0:
            flow.gpu_level[gpu] = 0
            queue[end] = gpu
            end += 1
    start = 0
    while start < end:
        gpu = queue[start]
        start += 1
        for i in range(edges.first_by_gpu[gpu], edges.first_by_gpu[gpu + 1]):
            e = edges.expert[edges.by_gpu[i]]
            if flow.expert_level[e] < FAR:
                continue
            flow.expert_level[e] = flow.gpu_level[gpu]
            for j in range(edges.first[e], edges.first[e + 1]):
                if flow.sent[j] > 0 and flow.gpu_level[edges.gpu[j]] == FAR:
                    flow.gpu_level[edges.gpu[j]] = flow.gpu_level[gpu] + 1
                    queue[end] = edges.gpu[j]
                    end += 1


@kernel
def _next_edge(edges: Edges, flow: Flow, e: int) -> int:
    """Return the next edge of an expert that is on a shortest way to room, -1 if there is none."""
    j, end = flow.next_edge[e], edges.first[e + 1]
    while j < end and flow.gpu_level[edges.gpu[j]] != flow.expert_level[e]:
        j += 1
    flow.next_edge[e] = j
    return j if j < end else -1


@kernel
def _next_giver(edges: Edges, flow: Flow, gpu: int) -> int:
    """Return the next edge into a GPU whose expert is nearer to room, -1 if there is none."""
    i, end = flow.next_giver[gpu], edges.first_by_gpu[gpu + 1]
    nearer = flow.gpu_level[gpu] - 1
    while i < end:
        j = edges.by_gpu[i]
        if flow.sent[j] > 0 and flow.expert_level[edges.expert[j]] == nearer:
            break
        i += 1
    flow.next_giver[gpu] = i
    return edges.by_gpu[i] if i < end else -1


@kernel
def _send_along_path(edges: Edges, flow: Flow, depth: int) -> None:
    experts, onward, back = flow.path[0], flow.path[1], flow.path[2]
    last = edges.gpu[onward[depth]]
    amount = min(flow.excess[experts[0]], flow.room[last])
    for i in range(depth):
        amount = min(amount, flow.sent[back[i]])
    for i in range(depth):
        flow.sent[back[i]] -= amount
    for i in range(depth + 1):
        flow.sent[onward[i]] += amount
    flow.excess[experts[0]] -= amount
    flow.room[last] -= amount


@kernel
def _send_excess(edges: Edges, flow: Flow, expert: int) -> None:
    """Send an expert's excess along shortest ways until it is gone or all of them are full."""
    experts, onward, back = flow.path[0], flow.path[1], flow.path[2]
    experts[0], depth = expert, 0
    while flow.excess[expert] > 0:
        e = experts[depth]
        j = _next_edge(edges, flow, e)
        if j < 0:
            if depth == 0:
                return
            depth -= 1
            flow.next_giver[edges.gpu[onward[depth]]] += 1
            continue
        onward[depth] = j
        gpu = edges.gpu[j]
        if flow.room[gpu] > 0:
            _send_along_path(edges, flow, depth)
            depth = 0
            continue
        giver = _next_giver(edges, flow, gpu)
        if giver < 0:
            flow.next_edge[e] += 1
            continue
        back[depth] = giver
        depth += 1
        experts[depth] = edges.expert[giver]


@kernel
def _send_all(edges: Edges, flow: Flow) -> bool:
    """Make the flow the largest there is; tell whether that is all load."""
    while True:
        _find_levels(edges, flow)
        left, stuck = False, True
        for e in range(flow.excess.size):
            if edges.first[e] < edges.first[e + 1] and flow.excess[e] > 0:
                left = True
                stuck = stuck and flow.expert_level[e] == FAR
        if not left or stuck:
            return not left
        flow.next_edge[:] = edges.first[:-1]
        flow.next_giver[:] = edges.first_by_gpu[:-1]
        for e in range(flow.excess.size):
            if edges.first[e] < edges.first[e + 1] and flow.expert_level[e] < FAR:
                _send_excess(edges, flow, e)


@kernel
def _least_time(edges: Edges, flow: Flow, capacity: Float) -> float:
    """Return the time that the GPUs far from any room need for what nobody else can take."""
    load, speed = np.int64(0), 0.0
    for gpu in range(capacity.size):
        if flow.gpu_level[gpu] == FAR:
            load += edges.fixed[gpu]
            speed += capacity[gpu]
    for e in range(edges.weight.size):
        if edges.first[e] < edges.first[e + 1] and flow.expert_level[e] == FAR:
            load += edges.weight[e]
    return load / speed


@kernel
def _first_time(edges: Edges, capacity: Float) -> float:
    """Return the time if all could be shared at will, or of the GPU with the most of its own."""
    time = edges.weight.sum() / capacity.sum()
    for gpu in range(capacity.size):
        if capacity[gpu] > 0.0:
            time = max(time, edges.fixed[gpu] / capacity[gpu])
    return time


@kernel
def _write(edges: Edges, flow: Flow, slots: Int, gpu_of_slot: Int, out: Float) -> None:
    """Divide what each edge carries among the replicas that it stands for."""
    out[:] = 0.0
    for e in range(slots.shape[0]):
        begin, end = edges.first[e], edges.first[e + 1]
        count = (slots[e] >= 0).sum()
        even = True
        for j in range(begin, end):
            even = even and flow.sent[j] == flow.even[j]
        for x in range(count):
            out[e, x] = 1.0 / count
            if not even:
                j = _edge_to(edges, begin, end, gpu_of_slot[slots[e, x]])
                out[e, x] = flow.sent[j] / edges.copies[j] / edges.weight[e]


@kernel
def split(
    load: Float, logical_to_physical: Int, gpu_of_slot: Int, capacity: Float, out: Float
) -> None:
    """Find the weights of each expert's replicas that let the last GPU be done soonest.

    Parameters
    ----------
    load : float64, [L, E]
        Tokens of each expert.
    logical_to_physical : int64, [L, E, X]
        Slots of each expert, padded with -1 at the end.
    gpu_of_slot : int64, [S]
        GPU that each slot is on.
    capacity : float64, [G]
        Speed of each GPU, 0 for one that is gone, which holds no expert.
    out : float64, [L, E, X], output
        Part of each expert's load that each of its replicas gets; even where nothing asks for else.
    """
    edges, flow = _empty(load.shape[1], gpu_of_slot.size, capacity.size)
    for layer in range(load.shape[0]):
        slots = logical_to_physical[layer]
        _put_on_grid(load[layer], edges.weight)
        _connect(edges, slots, gpu_of_slot)
        _group_by_gpu(edges)
        _share_evenly(edges, flow.even)
        time = _first_time(edges, capacity)
        _start(edges, flow, time, capacity)
        while not _send_all(edges, flow):
            time = _least_time(edges, flow, capacity)
            _start(edges, flow, time, capacity)
        _write(edges, flow, slots, gpu_of_slot, out[layer])


@kernel
def split_gpu_load(load: Float, weights: Float, slots: Int, first_slot: Int) -> Float:
    """Sum each GPU's slots in slot order, loads divided as told.

    Shapes: [L, E], [L, E, X], [L, E, X], [G + 1] -> [L, G].
    """
    L, E, X = slots.shape
    G = first_slot.size - 1
    share = np.zeros(first_slot[-1])
    result = np.empty((L, G))
    for layer in range(L):
        share[:] = 0.0
        for e in range(E):
            for x in range(X):
                if slots[layer, e, x] >= 0:
                    share[slots[layer, e, x]] = load[layer, e] * weights[layer, e, x]
        for gpu in range(G):
            total = 0.0
            for slot in range(first_slot[gpu], first_slot[gpu + 1]):
                total += share[slot]
            result[layer, gpu] = total
    return result
