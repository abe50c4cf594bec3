"""The largest flow from experts to the GPUs with room, by Dinic's algorithm (1970).

On integers, so that it is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.split_edges import Edges

Int = NDArray[np.int64]

FAR = 2**62


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
def empty_flow(E: int, S: int, G: int) -> Flow:
    """Make room for the flow of a layer."""
    return Flow(
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
def send_all(edges: Edges, flow: Flow) -> bool:
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
