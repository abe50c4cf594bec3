"""DeepSeek EPLB as published: replicas by largest share, then longest-first packing.

Source: deepseek-ai/EPLB (2025). Kept faithful, faults included: float32 arithmetic, and replicas of
one expert may meet on a GPU.

The published code sorts with ``torch.sort``, which does not promise an order of equal weights (it
differs between CPUs and torch versions), and replicas of one expert always weigh the same. Loads
that come as tensors are therefore sorted by torch, so that the plan is the published one to the
last replica number; arrays are sorted stably, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import keep_numpy, to_float32
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.living import on_living_gpus
from evenload.solvers.rows import Float, Int, Rows, plan, to_placement

Sorter: TypeAlias = Callable[[NDArray[np.float32]], Int]


def _stably(weight: NDArray[np.float32]) -> Int:
    return np.argsort(-weight, axis=1, kind="stable")


def _as_torch(weight: NDArray[np.float32]) -> Int:
    import torch

    order: Int = torch.from_numpy(weight).sort(-1, descending=True).indices.numpy()
    return order


def pack_greedily(
    weight: NDArray[np.float32], num_packs: int, descending: Sorter = _stably
) -> tuple[Int, Int]:
    """Pack each row longest first into packs of equally many items.

    Parameters
    ----------
    weight : float32 ndarray, [X, n]
    num_packs : int
        Divides n.
    descending : callable
        Orders the items of each row by descending weight.

    Returns
    -------
    pack_index, rank_in_pack : int64 ndarray, [X, n]
        With one item a pack, item i goes to pack i.
    """
    from evenload.kernels.greedy import pack_greedily as compiled

    X, n = weight.shape
    if n == num_packs:
        return np.tile(np.arange(n), (X, 1)), np.zeros((X, n), np.int64)
    index = np.empty((X, n), np.int64)
    rank = np.empty((X, n), np.int64)
    compiled(weight, descending(weight), num_packs, index, rank)
    return index, rank


def replicate(weight: NDArray[np.float32], num_slots: int) -> tuple[Int, Int, Int]:
    """Give every spare slot to the expert with the largest share.

    Parameters
    ----------
    weight : float32 ndarray, [X, E]
    num_slots : int
        Slots S, at least E.

    Returns
    -------
    physical_to_logical, rank : int64 ndarray, [X, S]
        Expert of each physical expert, and which of its replicas it is.
    count : int64 ndarray, [X, E]
        Replicas of each expert.
    """
    from evenload.kernels.greedy import replicate_experts

    X, E = weight.shape
    expert = np.empty((X, num_slots), np.int64)
    rank = np.empty((X, num_slots), np.int64)
    count = np.empty((X, E), np.int64)
    replicate_experts(weight, expert, rank, count)
    return expert, rank, count


def greedy_rows(load: Float, num_slots: int, num_gpus: int, descending: Sorter = _stably) -> Rows:
    """Plan rows on their own; a `rows.RowPlanner`."""
    weight = to_float32(load)
    expert, rank, count = replicate(weight, num_slots)
    share = np.take_along_axis(np.divide(weight, count, dtype=np.float32), expert, axis=1)
    pack, place = pack_greedily(share, num_gpus, descending)
    slot = pack * (num_slots // num_gpus) + place
    placed, placed_rank = np.empty_like(expert), np.empty_like(rank)
    np.put_along_axis(placed, slot, expert, axis=1)
    np.put_along_axis(placed_rank, slot, rank, axis=1)
    return Rows(placed, placed_rank)


@on_living_gpus
def greedy(problem: Problem) -> Placement:
    """Plan as DeepSeek's EPLB does, to the slot.

    Parameters
    ----------
    problem : Problem
        Its load is rounded to float32, as there (scaled first where that would overflow).

    Returns
    -------
    Placement
        May hold an expert twice on one GPU. Replicas are numbered in the order they were given out.
    """
    descending = _stably if problem.rewrap is keep_numpy else _as_torch
    return to_placement(problem, plan(problem, partial(greedy_rows, descending=descending)))
