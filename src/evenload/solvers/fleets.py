"""What the joint search is told of a cluster's GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evenload.cluster import Cluster
from evenload.solvers.rows import Float, Int, Rows
from evenload.threads import spread

UNIT_BITS = 14  # of the time that the fastest GPU takes for a unit of load, where speeds differ
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

    order, sorted_load, placed = _by_load(load, rows)
    best = np.zeros(len(load), np.uint8)

    def run(first: int, end: int) -> None:
        part = slice(first, end)
        search_pairs(sorted_load[part], goal[part], PAIR_TRIALS * trials, placed[part], best[part])

    spread(len(load), placed.size * max(trials, 1), run)
    return Rows(np.take_along_axis(order, placed, axis=1)), np.flatnonzero(best == 0)


def improve(
    load: Float, gpus: GpuArrays, home: Int, price: float, rows: Rows, goal: Float, trials: int
) -> Rows:
    """Search replicas and placement of rows together, see `kernels.joint`."""
    from evenload.kernels.joint import joint

    order, sorted_load, placed = _by_load(load, rows)
    sorted_home = np.take_along_axis(home, order, axis=1)

    def run(first: int, end: int) -> None:
        part = slice(first, end)
        joint(
            sorted_load[part], gpus.load_bits, gpus.slots, gpus.unit_time, gpus.node,
            sorted_home[part], price, goal[part], trials, placed[part],
        )  # fmt: skip

    spread(len(load), placed.size * max(trials, 1), run)
    return Rows(np.take_along_axis(order, placed, axis=1))
