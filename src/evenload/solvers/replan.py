"""The search of `core.replan`, with what it knows of a problem's layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evenload.batches import drawn_work
from evenload.core.flow import PART_BITS, Flow
from evenload.core.replan import part_copies, replan_layers, replan_live
from evenload.core.start import SLOTS, UNIT_TIME
from evenload.core.state import State
from evenload.core.steps import NO_LIMIT
from evenload.dispatch import BY_PLACE
from evenload.phases import heaviest
from evenload.problem import Problem
from evenload.solvers.groups import kept_homes
from evenload.solvers.prices import Prices
from evenload.solvers.running import Running
from evenload.solvers.search import gpu_rows
from evenload.threads import spread

Int = NDArray[np.int64]
Float = NDArray[np.float64]
Flag = NDArray[np.uint8]

FLOWS = ("live", "one", *BY_PLACE)  # what a replica gets depends on where the others are
NOISE = 0.07  # of a GPU's mean: slack for copying up to which a plan leaves none
HEAT_FREE, HEAT_PRICED = 0.02, 0.0025  # of the mean: what a step may make worse at first
# Where tokens are split live. Chosen on gpt-oss and V2-Lite, in turn and mixed, on 8, 16, 32 GPUs.
# All are flat there: 8 to 29 samples, heats of .001 to .012, and all or a tenth of the steps from
# scratch end within .001 of each other.
LIVE_SAMPLES = 12  # the heaviest
# For one replica of each active expert, on Qwen3, V2-Lite and gpt-oss in batches of 16 and 64,
# judged by others: 32 drawn batches lose up to .03 active experts to 64 and take 2/3 of the time,
# 128 gain as much and take twice. A heat of .02 fits the draws closer and others worse, by .06.
DRAWN = 64
HEAT_DRAWN = 0.001

WEIGHT = 4096  # of all samples together, on the integer grid
MOST_BITS = 36  # of a sample's load
FLOW_BITS = 26  # of it where its parts are sent, which takes products
KEY_BITS = 60  # of a peak, all samples and moves together


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found for each layer.

    Parameters
    ----------
    placed : int64 ndarray, [L, S]
        Expert in each living slot.
    peak : float64 ndarray, [L]
        Mean over the samples of the slowest GPU's time, over that of a load divided at will;
        infinite where there are too many moves, or groups are not kept on nodes.
    moves : int64 ndarray, [L]
        Experts that are new to their GPU.
    """

    placed: Int
    peak: Float
    moves: Int

    def or_better(self, other: Found, price: float) -> Found:
        """Take each layer from the other where peak and price of the moves are less."""
        better = other.peak + price * other.moves < self.peak + price * self.moves
        return Found(
            np.where(better[:, None], other.placed, self.placed),
            np.where(better, other.peak, self.peak),
            np.where(better, other.moves, self.moves),
        )


@dataclass(frozen=True, eq=False)
class Search:
    """The search of a problem's layers from any start.

    Experts are called by their rank, so that it draws the same whatever they are called.

    Parameters
    ----------
    runs : Running
        The problem, and what runs now.
    whole : int64 ndarray, [L, S]
        The placement by whose slots experts of equal load are ranked.
    steps : int
        Of one layer.
    goal : float
        Time of the slowest GPU, over the mean, that is good enough.
    """

    runs: Running
    whole: Int
    steps: int
    goal: float

    @property
    def problem(self) -> Problem:
        """What is to be solved."""
        return self.runs.problem

    @cached_property
    def gpu(self) -> Int:
        """The living GPUs, see `core.start`."""
        return gpu_rows(self.problem.cluster)

    @property
    def enough(self) -> float:
        """GPU time over the mean that copying leaves alone; -1 where nothing is copied."""
        problem = self.problem
        return -1.0 if problem.dispatch != "copy" else 1.0 + max(problem.copy_slack - NOISE, 0.0)

    @cached_property
    def ranked(self) -> tuple[Int, Int]:
        """Rank the experts of each layer by descending load, equal ones by their first slot.

        Returns
        -------
        order, rank : int64 ndarray, [L, E]
            The expert of each rank, and the rank of each expert.
        """
        load, placed = self.problem.load, self.whole
        layer = np.arange(len(placed))[:, None]
        first = np.empty(load.shape, np.int64)
        # The lowest is written last.
        first[layer, placed[:, ::-1]] = np.arange(placed.shape[1])[::-1]
        order = np.lexsort((first, -load))
        rank = np.empty_like(order)
        rank[layer, order] = np.arange(load.shape[1])
        return order, rank

    @cached_property
    def _tokens_from(self) -> Int:
        """Tokens that start on each living GPU, in parts of one; none unless that matters."""
        if self.problem.dispatch not in BY_PLACE:
            return np.empty(0, np.int64)
        given = self.problem.tokens_from
        tokens = np.ones(self.problem.cluster.num_gpus) if given is None else given
        tokens = tokens[np.array(self.problem.cluster.living_gpus)]
        tokens = tokens / tokens.max()
        parts: Int = np.rint(tokens / tokens.sum() * (1 << PART_BITS)).astype(np.int64)
        return parts

    @cached_property
    def _bits(self) -> int:
        """Bits of the integer grid for what all experts of a layer cost in a sample."""
        spent = int(self.gpu[UNIT_TIME].max()).bit_length() + WEIGHT.bit_length()
        bits = min(MOST_BITS, KEY_BITS - spent - int(self.gpu[SLOTS].sum()).bit_length())
        return min(bits, FLOW_BITS) if self.problem.dispatch in FLOWS else bits

    @cached_property
    def prices(self) -> Prices | None:
        """What replicas cost, by rank; None where tokens count."""
        if not self.problem.by_time:
            return None
        load, weight, _ = self._samples
        phase = self.problem.sample_phase
        phase = np.zeros(len(weight), np.int64) if phase is None else phase
        return Prices.of(self.problem, load, weight, phase, self._bits)

    @cached_property
    def _samples(self) -> tuple[Float, Int, Flag]:
        """What the search knows of the experts by rank.

        Returns
        -------
        load : float64 ndarray, [L, E, M]
            Samples, or the load alone where there are none.
        weight : int64 ndarray, [M]
            What each sample counts.
        old : uint8 ndarray, [L, E, G]
        """
        samples, weight = self.problem.likely
        if self.problem.dispatch == "one":
            samples, weight = drawn_work(self.problem, DRAWN)
        elif self.problem.dispatch in FLOWS:
            chosen, weight = heaviest(weight, self.problem.sample_phase, LIVE_SAMPLES)
            samples = samples[chosen]
            if len(weight) == 1:  # a state of one sample sorts the slots
                samples, weight = np.repeat(samples, 2, axis=0), np.repeat(weight, 2)
        parts = np.maximum(np.rint(weight / weight.sum() * WEIGHT), 1.0).astype(np.int64)
        order = self.ranked[0]
        layer = np.arange(len(order))[:, None]
        load = np.ascontiguousarray(samples.transpose(1, 2, 0)[layer, order])
        return load, parts, self.runs.old[layer, order]

    def __call__(
        self, start: Int, price: float, most: Int, share: int = 1, steps: int | None = None
    ) -> Found:
        """Search from a start; where it does not keep groups that have to be, it counts for naught.

        It gets one part in `share` of the steps, or `steps`.
        """
        home, kept = kept_homes(self.problem, start)
        order, rank = self.ranked
        load, weight, old = self._samples
        home = np.take_along_axis(home, order, axis=1)
        placed = np.take_along_axis(rank, start, axis=1)
        free = price == 0.0 and bool((most == NO_LIMIT).all())
        heat = HEAT_FREE if free else HEAT_PRICED
        heat = HEAT_DRAWN if self.problem.dispatch == "one" else heat
        bits, prices = self._bits, self.prices
        peak, moves = np.empty(len(start)), np.empty(len(start), np.int64)
        steps = self.steps // share if steps is None else steps

        def run(first: int, end: int) -> None:
            step = end - first if prices is None else 1  # a state has the prices of one layer
            for layer in range(first, end, step):
                some(slice(layer, layer + step))

        def some(part: slice) -> None:
            _, E, M = load.shape
            close = 1.0 + (self.goal - 1.0) / 2
            share, flows = self.problem.live_share, M if self.problem.dispatch in FLOWS else 0
            flow = Flow.empty(self.gpu, E, flows, close, share, self._tokens_from)
            known = 0 if prices is None else prices.ticks.shape[1]
            state = State.empty(self.gpu, E, M, True, *self.problem.apart, known)
            if prices is not None:
                prices.write(part.start, state.price)
            if state.copies > 1:
                part_copies(load[part], weight, bits, home[part], old[part], state, placed[part])
            replan = replan_live if flows else replan_layers
            replan(
                load[part], weight, bits, home[part], old[part], price, most[part], self.enough,
                self.goal, steps, heat, state, flow, placed[part], peak[part], moves[part],
            )  # fmt: skip

        spread(len(start), start.size * max(steps, 1), run)
        placed = np.take_along_axis(order, placed, axis=1)
        return Found(placed, np.where(kept, peak, np.inf), moves)
