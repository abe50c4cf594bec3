"""Who may take whose load: the edges between the experts of a layer and the GPUs that hold them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Float = NDArray[np.float64]

GRID = 2.0**60  # what a layer's loads add up to; a flow is a whole number


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


@kernel
def empty_edges(E: int, S: int, G: int) -> Edges:
    """Make room for the edges of a layer."""
    return Edges(
        np.empty(S, np.int64),
        np.empty(S, np.int64),
        np.empty(S, np.int64),
        np.empty(E + 1, np.int64),
        np.empty(S, np.int64),
        np.empty(G + 1, np.int64),
        np.empty(E, np.int64),
        np.empty(G, np.int64),
    )


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
def edge_to(edges: Edges, begin: int, end: int, gpu: int) -> int:
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
            j = edge_to(edges, begin, end, gpu)
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
def fill_edges(edges: Edges, load: Float, slots: Int, gpu_of_slot: Int) -> None:
    """Write down the edges of a layer.

    Parameters
    ----------
    edges : Edges, output
    load : float64, [E]
        Tokens of each expert.
    slots : int64, [E, X]
        Slots of each expert, padded with -1 at the end.
    gpu_of_slot : int64, [S]
    """
    _put_on_grid(load, edges.weight)
    _connect(edges, slots, gpu_of_slot)
    _group_by_gpu(edges)
