"""How many of an expert's tokens each of its replicas gets, so that the last GPU is done soonest.

For a time T the question is a maximum flow: from every expert its load, to each GPU at most T times
its capacity, and edges where a GPU holds the expert. If not all load gets through, the GPUs from
which no room can be reached have to bear the whole load of some experts, so T must be at least that
load over their capacity (Newton's method on the minimum cut; Dinkelbach 1967). T starts from a
lower bound and stays one, so the first flow that lets all through is best; no set of GPUs is found
twice, so it comes. The edges are in `split_edges`, the flow in `split_flow`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.split_edges import Edges, edge_to, empty_edges, fill_edges
from evenload.kernels.split_flow import FAR, Flow, empty_flow, send_all

Int = NDArray[np.int64]
Float = NDArray[np.float64]

SLACK = 2.0**-44  # of a GPU's room: far more than rounding, far less than anyone can measure
MOST_ROOM = 2.0**61  # more than all load; a slow GPU's time at a fast GPU's speed could overflow


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
                j = edge_to(edges, begin, end, gpu_of_slot[slots[e, x]])
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
    E, S, G = load.shape[1], gpu_of_slot.size, capacity.size
    edges, flow = empty_edges(E, S, G), empty_flow(E, S, G)
    for layer in range(load.shape[0]):
        slots = logical_to_physical[layer]
        fill_edges(edges, load[layer], slots, gpu_of_slot)
        _share_evenly(edges, flow.even)
        time = _first_time(edges, capacity)
        _start(edges, flow, time, capacity)
        while not send_all(edges, flow):
            time = _least_time(edges, flow, capacity)
            _start(edges, flow, time, capacity)
        _write(edges, flow, slots, gpu_of_slot, out[layer])
