"""What the joint search is told of a cluster's GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evenload.cluster import Cluster
from evenload.solvers.rows import Float, Int, Rows
from evenload.threads import spread

UNIT_BITS = 14  # of the time that the fastest GPU takes for a unit of load, where speeds differ
FEW_SLOTS = (
    64  # up to here it matters with two slots a GPU that an expert may not sit beside itself
)
PAIR_TRIALS = 36  # changes of two counts that cost about as much as one trial of the joint search


@dataclass(frozen=True, eq=False)
class GpuArrays:
    """The living GPUs of a cluster, one after the other, for kernels.

    Parameters
    ----------
    slots, unit_time, node : int64 ndarray, [G]
        Slots, time for a unit of load (1 where all are alike), and node of each.
    """

    slots: Int
    unit_time: Int
    node: Int

    @classmethod
    def of(cls, cluster: Cluster) -> GpuArrays:
        """Describe the living GPUs of a cluster."""
        living = np.array(cluster.living_gpus)
        capacity = cluster.capacity[living]
        alike = (capacity == capacity[0]).all()
        unit = np.ones(len(living)) if alike else np.rint(2.0**UNIT_BITS / capacity)
        return cls(
            np.array(cluster.slots)[living],
            unit.astype(np.int64),
            living // cluster.gpus_per_node,
        )

    @property
    def alike(self) -> bool:
        """Whether all have one speed and one number of slots."""
        return len(set(self.slots.tolist())) == len(set(self.unit_time.tolist())) == 1

    @property
    def num_slots(self) -> int:
        """Slots of all of them."""
        return int(self.slots.sum())

    @property
    def load_bits(self) -> int:
        """Bits for one expert's load, so that a time and a GPU's number fit one key."""
        from evenload.kernels.grid import LOAD_BITS, load_bits

        unit_bits = int(self.unit_time.max()).bit_length() - 1
        return min(LOAD_BITS, load_bits(self.num_slots, len(self.slots)) - unit_bits)


def no_homes(load: Float) -> Int:
    """Say for each expert of each layer that it has no home node: int64 [L, E]."""
    return np.full(load.shape, -1)


def start(load: Float, gpus: GpuArrays, home: Int) -> Rows:
    """Place rows on GPUs that may differ, see `kernels.fleet_start`."""
    from evenload.kernels.fleet_start import start_fleet

    expert = np.empty((len(load), gpus.num_slots), np.int64)

    def run(first: int, end: int) -> None:
        rows = slice(first, end)
        start_fleet(
            load[rows], gpus.load_bits, gpus.slots, gpus.unit_time, gpus.node, home[rows],
            expert[rows],
        )  # fmt: skip

    spread(len(load), expert.size, run)
    return Rows(expert)


def _by_load(load: Float, rows: Rows) -> tuple[Int, Float, Int]:
    """Rank the experts of each row by descending load, equal ones by their first slot.

    A search that draws experts by number then finds the same, whatever the experts are called.

    Returns
    -------
    order : int64 ndarray, [X, E]
        The expert of each rank.
    sorted_load : float64 ndarray, [X, E]
    placed : int64 ndarray, [X, S]
        Rank of the expert in each slot.
    """
    row = np.arange(len(load))[:, None]
    order, rank = ranked(load, rows.expert)
    return order, load[row, order], rank[row, rows.expert]


def ranked(load: Float, placed: Int) -> tuple[Int, Int]:
    """Rank the experts of each row by descending load, equal ones by their first slot.

    Returns
    -------
    order, rank : int64 ndarray, [X, E]
        The expert of each rank, and the rank of each expert.
    """
    X, S = placed.shape
    row = np.arange(X)[:, None]
    first = np.empty(load.shape, np.int64)
    first[row, placed[:, ::-1]] = np.arange(S)[::-1]  # the lowest slot is written last
    order = np.lexsort((first, -load))
    rank = np.empty_like(order)
    rank[row, order] = np.arange(load.shape[1])
    return order, rank


def improve_pairs(load: Float, rows: Rows, goal: Float, trials: int) -> tuple[Rows, Int]:
    """Search the counts of rows with two slots on each of equal GPUs, see `kernels.pairs`.

    Returns
    -------
    Rows
    int64 ndarray
        Numbers of the rows where another placement of the counts that they started with might
        still be better.
    """
    from evenload.kernels.pairs import search_pairs

    expert = np.empty_like(rows.expert)
    best = np.zeros(len(load), np.uint8)

    def run(first: int, end: int) -> None:
        part = slice(first, end)
        order, sorted_load, placed = _by_load(load[part], Rows(rows.expert[part]))
        search_pairs(sorted_load, goal[part], PAIR_TRIALS * trials, placed, best[part])
        expert[part] = np.take_along_axis(order, placed, axis=1)

    spread(len(load), expert.size * max(trials, 1), run)
    return Rows(expert), np.flatnonzero(best == 0)


def improve(
    load: Float, gpus: GpuArrays, home: Int, price: float, rows: Rows, goal: Float, trials: int
) -> Rows:
    """Search replicas and placement of rows together, see `kernels.joint`."""
    from evenload.kernels.joint import joint

    expert = np.empty_like(rows.expert)

    def run(first: int, end: int) -> None:
        part = slice(first, end)
        order, sorted_load, placed = _by_load(load[part], Rows(rows.expert[part]))
        sorted_home = np.take_along_axis(home[part], order, axis=1)
        joint(
            sorted_load, gpus.load_bits, gpus.slots, gpus.unit_time, gpus.node,
            sorted_home, price, goal[part], trials, placed,
        )  # fmt: skip
        expert[part] = np.take_along_axis(order, placed, axis=1)

    spread(len(load), expert.size * max(trials, 1), run)
    return Rows(expert)


def improve_alike(
    load: Float, gpus: GpuArrays, rows: Rows, goal: Float, trials: int
) -> tuple[Rows, Int]:
    """Search rows on equal GPUs, by their counts alone where there are two slots on each.

    Returns
    -------
    Rows
    int64 ndarray
        Numbers of the rows where another placement of the counts that they started with might
        still be better.
    """
    doubtful = np.arange(len(load))
    if gpus.slots[0] == 2:
        rows, doubtful = improve_pairs(load, rows, goal, trials)
        if gpus.num_slots > FEW_SLOTS:
            return rows, doubtful
    return improve(load, gpus, no_homes(load), 0.0, rows, goal, trials), doubtful
