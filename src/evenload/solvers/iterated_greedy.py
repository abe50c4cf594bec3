"""Iterated greedy: replicas by largest share, then vectorised iterated greedy packing."""

from __future__ import annotations

from functools import partial

import numpy as np

from evenload.checks import packing_options
from evenload.core.grid import KEY_BITS, LOAD_BITS
from evenload.packing import pack_rows
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.by_node import Float, Rows, every_expert_everywhere, plan_at_least
from evenload.solvers.greedy import greedy_rows, in_slots, replicate


def iterated_rows(
    load: Float, num_slots: int, num_gpus: int, attempts: int, boost: float, swaps: int, goal: float
) -> Rows:
    """Replicate and pack rows on their own, and part duplicates; a `by_node.RowPlanner`."""
    from evenload.core.packing import part_duplicates

    if num_slots // num_gpus >= load.shape[1]:
        return every_expert_everywhere(load, num_slots, num_gpus)
    grid = _on_grid(load, min(LOAD_BITS, KEY_BITS - num_slots.bit_length() - num_gpus.bit_length()))
    expert, _, count = replicate(grid.astype(np.float32), num_slots, num_gpus)
    share = np.take_along_axis(grid // count, expert, axis=1)
    index_bits = num_slots.bit_length()  # whole numbers that are all different sort fastest
    key = (-share.astype(np.int64) << index_bits) | np.arange(num_slots)
    order = np.sort(key, axis=1) & ((1 << index_bits) - 1)
    pack, place = pack_rows(share, order, num_gpus, attempts, boost, swaps, goal)
    item = in_slots(np.broadcast_to(np.arange(num_slots), pack.shape), pack, place)
    part_duplicates(share, expert, swaps * num_gpus, item.reshape(-1, num_slots // num_gpus))
    return np.take_along_axis(expert, item, axis=1), None


def _on_grid(load: Float, bits: int) -> Float:
    """Round a load to whole numbers that are the same at every scale; all equal without any."""
    largest = load.max(axis=1, keepdims=True)
    grid: Float = np.rint(load / np.where(largest > 0.0, largest, 1.0) * 2.0**bits)
    grid[largest[:, 0] == 0.0] = 1.0
    return grid


def iterated_greedy(
    problem: Problem,
    *,
    num_attempts: int = 5,
    boost: float = 1.05,
    max_swaps: int = 20,
    target: float | None = None,
) -> Placement:
    """Replicate as DeepSeek's EPLB does, then pack by vectorised iterated greedy.

    An expert gets at most one replica a GPU, and replicas that the packing put on one GPU are
    parted, so no duplicate is left that can be avoided. The result is at least as balanced as
    ``"greedy"`` in every layer, see `by_node.plan_at_least`.

    Parameters
    ----------
    problem : Problem
    num_attempts, boost, max_swaps, target
        As `evenload.eplb.balanced_packing`.

    Raises
    ------
    ValueError
        For an option out of range.
    """
    attempts, swaps, goal = packing_options(num_attempts, boost, max_swaps, target)
    planner = partial(iterated_rows, attempts=attempts, boost=float(boost), swaps=swaps, goal=goal)
    return plan_at_least(problem, planner, greedy_rows)
