"""The GPUs of one layer while replicas and placement are searched together, on the integer grid.

Against `packs.Packs`, the GPUs may differ in slots and speed, and the replica counts may change.
What counts is a GPU's time, load times the time one unit takes it; all of it in integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel
from evenload.kernels.grid import bit_length
from evenload.kernels.ranking import rerank
from evenload.kernels.sort import sort_few

Int = NDArray[np.int64]

NO_HOME = -1


class Fleet(NamedTuple):
    """State of one layer; a tuple, since that is what kernels can take.

    Parameters
    ----------
    share, expert : int64 ndarray, [G, K]
        Load and expert of each slot, each GPU's slots by descending share; K is the most slots of
        one GPU.
    slots : int64 ndarray, [G]
        Slots in use of each GPU.
    unit_time : int64 ndarray, [G]
        Time that one unit of load takes each GPU, at least 1.
    load : int64 ndarray, [G]
        Sum of each GPU.
    ranking : int64 ndarray, [G]
        The keys ``time << bits | gpu`` ascending: the GPU that is done last comes last.
    bits : int
        Bits that hold a GPU's number.
    weight, count : int64 ndarray, [E]
        Load and number of replicas of each expert; one replica weighs weight // count.
    held : int16 ndarray, [E, G]
        Replicas of each expert on each GPU.
    spare : int64 ndarray, [S - E]
        Expert of every replica beyond the first of each.
    node : int64 ndarray, [G]
        Node of each GPU.
    home : int64 ndarray, [E]
        Node that has to hold one replica of the expert, `NO_HOME` for none.
    at_home : int64 ndarray, [E]
        Replicas of each expert on its home node.
    away : int64 ndarray, [1]
        Load that is computed away from its expert's home node.
    """

    share: Int
    expert: Int
    slots: Int
    unit_time: Int
    load: Int
    ranking: Int
    bits: int
    weight: Int
    count: Int
    held: NDArray[np.int16]
    spare: Int
    node: Int
    home: Int
    at_home: Int
    away: Int


@kernel
def new_fleet(num_experts: int, slots: Int, unit_time: Int, node: Int) -> Fleet:
    """Make room for the state of a layer."""
    G = slots.size
    K = slots.max()
    return Fleet(
        np.zeros((G, K), np.int64),
        np.zeros((G, K), np.int64),
        slots,
        unit_time,
        np.empty(G, np.int64),
        np.empty(G, np.int64),
        bit_length(G),
        np.empty(num_experts, np.int64),
        np.empty(num_experts, np.int64),
        np.empty((num_experts, G), np.int16),
        np.empty(slots.sum() - num_experts, np.int64),
        node,
        np.full(num_experts, NO_HOME, np.int64),
        np.empty(num_experts, np.int64),
        np.zeros(1, np.int64),
    )


@inlined
def share_of(fleet: Fleet, expert: int) -> int:
    """Return the load of one replica of an expert."""
    return fleet.weight[expert] // fleet.count[expert]


@inlined
def is_away(fleet: Fleet, expert: int, gpu: int) -> bool:
    """Whether a GPU is on another node than the expert's home."""
    return fleet.home[expert] != NO_HOME and fleet.home[expert] != fleet.node[gpu]


@kernel
def fill(fleet: Fleet, physical_to_logical: Int) -> None:
    """Set the state from a placement, the slots of the GPUs one after the other: int64 [S].

    The experts' loads and homes must be set already.
    """
    G = fleet.slots.size
    fleet.count[:] = 0
    for slot in range(physical_to_logical.size):
        fleet.count[physical_to_logical[slot]] += 1
    _list_spares(fleet)
    fleet.held[:] = 0
    slot = 0
    for g in range(G):
        for i in range(fleet.slots[g]):
            e = physical_to_logical[slot]
            fleet.held[e, g] += 1
            weight = share_of(fleet, e)
            j = i
            while j > 0 and fleet.share[g, j - 1] < weight:
                fleet.share[g, j] = fleet.share[g, j - 1]
                fleet.expert[g, j] = fleet.expert[g, j - 1]
                j -= 1
            fleet.share[g, j] = weight
            fleet.expert[g, j] = e
            slot += 1
    _add_up(fleet)


@kernel
def _list_spares(fleet: Fleet) -> None:
    n = 0
    for e in range(fleet.count.size):
        for _ in range(fleet.count[e] - 1):
            fleet.spare[n] = e
            n += 1


@kernel
def _add_up(fleet: Fleet) -> None:
    fleet.at_home[:] = 0
    fleet.away[0] = 0
    for g in range(fleet.slots.size):
        fleet.load[g] = 0
        for i in range(fleet.slots[g]):
            e = fleet.expert[g, i]
            fleet.load[g] += fleet.share[g, i]
            if is_away(fleet, e, g):
                fleet.away[0] += fleet.share[g, i]
            else:
                fleet.at_home[e] += 1
        fleet.ranking[g] = ((fleet.load[g] * fleet.unit_time[g]) << fleet.bits) | g
    sort_few(fleet.ranking, fleet.ranking.size)


@kernel
def copy_out(fleet: Fleet, physical_to_logical: Int) -> None:
    """Write the expert in every slot, the slots of the GPUs one after the other: int64 [S]."""
    slot = 0
    for g in range(fleet.slots.size):
        for i in range(fleet.slots[g]):
            physical_to_logical[slot] = fleet.expert[g, i]
            slot += 1


@inlined
def gpu_at(fleet: Fleet, place: int) -> int:
    """Return the GPU at a place of the ranking, 0 for the first one done, -1 for the last."""
    return fleet.ranking[place] & ((1 << fleet.bits) - 1)


@inlined
def time_at(fleet: Fleet, place: int) -> int:
    """Return the time at a place of the ranking."""
    return fleet.ranking[place] >> fleet.bits


@inlined
def set_load(fleet: Fleet, gpu: int, load: int) -> None:
    """Change a GPU's load, and its place in the ranking."""
    old = ((fleet.load[gpu] * fleet.unit_time[gpu]) << fleet.bits) | gpu
    fleet.load[gpu] = load
    rerank(fleet.ranking, old, ((load * fleet.unit_time[gpu]) << fleet.bits) | gpu)


@inlined
def set_slot(fleet: Fleet, gpu: int, slot: int, weight: int, e: int) -> None:
    """Put a replica in place of the one in a slot, and keep the GPU's slots sorted."""
    share, expert = fleet.share, fleet.expert
    last = fleet.slots[gpu] - 1
    i = slot
    while i > 0 and share[gpu, i - 1] < weight:
        share[gpu, i] = share[gpu, i - 1]
        expert[gpu, i] = expert[gpu, i - 1]
        i -= 1
    while i < last and share[gpu, i + 1] > weight:
        share[gpu, i] = share[gpu, i + 1]
        expert[gpu, i] = expert[gpu, i + 1]
        i += 1
    share[gpu, i] = weight
    expert[gpu, i] = e


@inlined
def slot_with(fleet: Fleet, gpu: int, expert: int) -> int:
    """Return a slot of a GPU that holds an expert, or -1."""
    for i in range(fleet.slots[gpu]):
        if fleet.expert[gpu, i] == expert:
            return i
    return -1
