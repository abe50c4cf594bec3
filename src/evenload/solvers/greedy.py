"""DeepSeek EPLB as published: replicas by largest share, then longest-first packing.

Source: deepseek-ai/EPLB (2025). Kept faithful, faults included: float32 arithmetic, and replicas of
one expert may meet on a GPU.

The published code sorts with ``torch.sort``, which does not promise an order of equal weights (it
differs between CPUs and torch versions), and replicas of one expert always weigh the same. Loads
that come as tensors are therefore sorted by torch, so that the plan is the published one to the
last replica number; arrays are sorted stably, the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import keep_numpy, to_float32
from evenload.packing import pack_rows
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.by_node import Float, Int, Rows, plan_by_node

Sorter: TypeAlias = Callable[[NDArray[np.float32]], Int]


def _stably(weight: NDArray[np.float32]) -> Int:
    return np.argsort(-weight, axis=1, kind="stable")


def _as_torch(weight: NDArray[np.float32]) -> Int:
    import torch

    order: Int = torch.from_numpy(weight).sort(-1, descending=True).indices.numpy()
    return order


def replicate(weight: NDArray[np.float32], num_slots: int) -> tuple[Int, Int, Int]:
    """Give every spare slot to the expert with the largest share: float32 [X, E], E slots or more.

    Returns
    -------
    physical_to_logical, rank : int64 ndarray, [X, S]
        Expert of each physical expert, and which of its replicas it is.
    count : int64 ndarray, [X, E]
        Replicas of each expert.
    """
    from evenload.core.greedy import replicate as compiled

    X, E = weight.shape
    expert, rank = np.empty((2, X, num_slots), np.int64)
    count = np.empty((X, E), np.int64)
    compiled(weight, num_slots, expert, rank, count)
    return expert, rank, count


def greedy_rows(
    load: Float, num_slots: int, num_gpus: int, descending: Sorter = _stably, ranked: bool = False
) -> Rows:
    """Plan rows on their own, with ranks if they are wanted; a `by_node.RowPlanner`."""
    weight = to_float32(load)
    expert, rank, count = replicate(weight, num_slots)
    share = np.take_along_axis(np.divide(weight, count, dtype=np.float32), expert, axis=1)
    order = descending(share) if num_slots > num_gpus else expert
    # One attempt without swaps is longest-first packing.
    place = pack_rows(share, order, num_gpus, 1, 1.0, 0, math.inf)
    place += num_slots * np.arange(len(load))[:, None]
    placed = np.empty((2, expert.size), np.int64)
    placed[0, place] = expert
    if ranked:
        placed[1, place] = rank
    rows = placed.reshape(2, *expert.shape)
    return rows[0], rows[1] if ranked else None


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
    return plan_by_node(problem, partial(greedy_rows, descending=descending, ranked=True))
