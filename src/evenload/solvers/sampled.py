"""The search over samples of a load, for problems as solvers see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evenload.problem import Problem
from evenload.solvers.current import Flag
from evenload.solvers.fleets import GpuArrays, ranked
from evenload.solvers.rows import Float, Int
from evenload.threads import spread

WEIGHT = 4096  # of all samples together, on the integer grid
MOST_BITS = 36  # of a sample's load
KEY_BITS = 60  # of a peak, all samples and moves together
NO_LIMIT = 2**40  # moves; as in `kernels.incremental`
HEAT_FREE, HEAT_PRICED = 0.02, 0.0025  # of the mean: what a step may make worse at first


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found for each layer.

    Parameters
    ----------
    placed : int64 ndarray, [L, S]
        Expert in each living slot.
    peak : float64 ndarray, [L]
        Mean over the samples of the last GPU's time, over that of a load divided at will; infinite
        where there are too many moves.
    moves : int64 ndarray, [L]
        Experts that are new to their GPU.
    """

    placed: Int
    peak: Float
    moves: Int

    def cost(self, price: float) -> Float:
        """Return the peak and the price of the moves together, [L]."""
        cost: Float = self.peak + price * self.moves
        return cost

    def or_better(self, other: Found, price: float) -> Found:
        """Take each layer from the other where it costs less."""
        better = other.cost(price) < self.cost(price)
        return Found(
            np.where(better[:, None], other.placed, self.placed),
            np.where(better, other.peak, self.peak),
            np.where(better, other.moves, self.moves),
        )


@dataclass(frozen=True, eq=False)
class Searcher:
    """The search with all that is the same for every start.

    It calls experts by their rank, so that it draws the same whatever they are called.

    Parameters
    ----------
    load : float64 ndarray, [L, E, M]
        By rank.
    weight : int64 ndarray, [L, M]
    gpus : GpuArrays
    old : uint8 ndarray, [L, E, G]
        Whether a GPU holds an expert already, by rank.
    order, rank : int64 ndarray, [L, E]
        The expert of each rank, and the rank of each expert.
    """

    load: Float
    weight: Int
    gpus: GpuArrays
    old: Flag
    order: Int
    rank: Int

    @classmethod
    def of(cls, problem: Problem, gpus: GpuArrays, old: Flag, placed: Int) -> Searcher:
        """Take the samples of a problem, or its load as the only one.

        `placed` [L, S], any placement of it, settles the rank of experts of equal load.
        """
        samples, weight = problem.samples, problem.sample_weight
        if samples is None or weight is None:
            samples, weight = problem.load[None], np.ones(1)
        parts = np.maximum(np.rint(weight / weight.sum() * WEIGHT), 1.0).astype(np.int64)
        order, rank = ranked(problem.load, placed)
        layer = np.arange(len(order))[:, None]
        load = np.ascontiguousarray(samples.transpose(1, 2, 0)[layer, order])
        return cls(load, np.tile(parts, (len(load), 1)), gpus, old[layer, order], order, rank)

    @property
    def bits(self) -> int:
        """Bits for the load of a sample, so that a peak and the price of all moves fit an int64."""
        unit_bits = int(self.gpus.unit_time.max()).bit_length()
        spent = unit_bits + WEIGHT.bit_length() + self.gpus.num_slots.bit_length()
        return min(MOST_BITS, KEY_BITS - spent)

    def search(
        self, start: Int, home: Int, price: float, most: Int, goal: float, steps: int
    ) -> Found:
        """Search from a start, see `kernels.incremental`."""
        from evenload.kernels.incremental import incremental

        L = len(start)
        free = price == 0.0 and bool((most == NO_LIMIT).all())
        heat = HEAT_FREE if free else HEAT_PRICED
        by_rank = np.take_along_axis(self.rank, start, axis=1)
        home = np.take_along_axis(home, self.order, axis=1)
        peak, moves = np.empty(L), np.empty(L, np.int64)
        gpus, bits = self.gpus, self.bits

        def run(first: int, end: int) -> None:
            part = slice(first, end)
            incremental(
                self.load[part], self.weight[part], bits, gpus.slots, gpus.unit_time, gpus.node,
                home[part], self.old[part], price, most[part], goal, steps, heat,
                by_rank[part], peak[part], moves[part],
            )  # fmt: skip

        spread(L, start.size * max(steps, 1), run)
        return Found(np.take_along_axis(self.order, by_rank, axis=1), peak, moves)
