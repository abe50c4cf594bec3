"""The layers of a problem planned from what runs and from scratch, whichever is worth more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evenload.maps import EMPTY
from evenload.problem import Problem
from evenload.solvers.budget import within_total
from evenload.solvers.current import Current, Flag, count_moves, fitted
from evenload.solvers.fleets import GpuArrays
from evenload.solvers.homes import kept_homes
from evenload.solvers.joint import joint
from evenload.solvers.matching import match_gpus
from evenload.solvers.rows import Int
from evenload.solvers.sampled import NO_LIMIT, Found, Searcher

FRESH_EFFORT = 20  # trials of the joint search for a plan that is only a start
FRESH_SHARE = 4  # the start from scratch gets this part of the steps, where moves are not free


def nothing_old(problem: Problem) -> Flag:
    """Say of every expert and living GPU that it is not there: uint8 [L, E, G]."""
    return np.zeros((*problem.load.shape, len(problem.cluster.living_gpus)), np.uint8)


@dataclass(frozen=True)
class Scratch:
    """Plans made from scratch.

    Parameters
    ----------
    problem : Problem
    steps : int
        Of the search of one layer.
    goal : float
        Time of the last GPU, over the mean, that is good enough.
    """

    problem: Problem
    steps: int
    goal: float

    @cached_property
    def gpus(self) -> GpuArrays:
        """The living GPUs."""
        return GpuArrays.of(self.problem.cluster)

    def fresh(self, effort: str | int) -> Int:
        """Plan for the load alone: int64 [L, S], the living slots."""
        placement = joint(self.problem.alone, effort=effort)
        placed: Int = placement.physical_to_logical[:, self.problem.cluster.living_slot]
        return np.ascontiguousarray(placed)

    def searched(
        self, searcher: Searcher, start: Int, price: float, most: Int, share: int = 1
    ) -> Found:
        """Search from a start; where it does not keep groups that have to be, it counts for naught.

        The search gets one part in `share` of the steps.
        """
        home, kept = kept_homes(self.problem, start)
        found = searcher.search(start, home, price, most, self.goal, self.steps // share)
        return Found(found.placed, np.where(kept, found.peak, np.inf), found.moves)

    def planned(self) -> Found:
        """Plan for the load, and improve that under the samples."""
        fresh = self.fresh("standard")
        searcher = Searcher.of(self.problem, self.gpus, nothing_old(self.problem), fresh)
        unlimited = np.full(self.problem.num_layers, NO_LIMIT)
        return self.searched(searcher, fresh, 0.0, unlimited)


@dataclass(frozen=True)
class Replanning:
    """Plans made from what runs now.

    Parameters
    ----------
    scratch : Scratch
    current : Current
    """

    scratch: Scratch
    current: Current

    @cached_property
    def start(self) -> Int:
        """What runs, its gaps filled: int64 [L, S]."""
        return fitted(self.current, self.scratch.problem, self.scratch.gpus)

    @cached_property
    def forced(self) -> Int:
        """Moves of each layer that filling the gaps takes."""
        return count_moves(self.current.old, self.start, self.scratch.gpus)

    @cached_property
    def searcher(self) -> Searcher:
        """The search that knows what is old."""
        scratch = self.scratch
        return Searcher.of(scratch.problem, scratch.gpus, self.current.old, self.start)

    def plan(self, price: float, most: int | None, total: int | None) -> Found:
        """Plan every layer.

        Parameters
        ----------
        price : float
            What a move has to gain.
        most, total : int or None
            Moves of one layer and of all that there may be.
        """
        forced = int(self.forced.sum())
        if forced == 0 and 0 in (most, total):
            return self._checked(self._stay(), most, total)
        L = self.scratch.problem.num_layers
        limit = np.full(L, NO_LIMIT) if most is None else np.maximum(self.forced, most)
        if total is None:
            return self._checked(self._both(price, limit), most, total)
        budget = max(total, forced)
        found = within_total(self._stay(), lambda p: self._both(p, limit), price, budget)
        return self._checked(found, most, total)

    def _stay(self) -> Found:
        home, kept = kept_homes(self.scratch.problem, self.start)
        found = self.searcher.search(self.start, home, 0.0, self.forced, 1.0, 0)
        return Found(self.start, np.where(kept, found.peak, np.inf), self.forced)

    def _both(self, price: float, limit: Int) -> Found:
        """Search from what runs and from scratch, and take what costs less."""
        kept = self.scratch.searched(self.searcher, self.start, price, limit)
        if limit.max() == 0:
            return kept
        return kept.or_better(self._matched(price, limit), price)

    def _matched(self, price: float, limit: Int) -> Found:
        problem, gpus, old = self.scratch.problem, self.scratch.gpus, self.current.old
        if price > 0.0 or (limit < NO_LIMIT).any():
            start = match_gpus(problem, gpus, self.fresh, old)
            return self.scratch.searched(self.searcher, start, price, limit, FRESH_SHARE)
        found = self.scratch.planned()
        placed = match_gpus(problem, gpus, found.placed, old)
        return Found(placed, found.peak, count_moves(old, placed, gpus))

    @cached_property
    def fresh(self) -> Int:
        """A start from scratch."""
        return self.scratch.fresh(FRESH_EFFORT)

    def _checked(self, found: Found, most: int | None, total: int | None) -> Found:
        """Raise `ValueError` where the moves do not suffice to keep groups on nodes."""
        lacking = np.flatnonzero(np.isinf(found.peak))
        if lacking.size == 0:
            return found
        limit = f"max_moves={most}" if most is not None else f"max_total_moves={total}"
        raise ValueError(
            f"current does not keep every group on one node in layer {lacking[0]}, and {limit} do "
            "not suffice to come to a plan that does; use more, or topology 'ignore'"
        )

    def in_old_slots(self, found: Found) -> Int:
        """Order each GPU's slots so that what stays keeps its slot."""
        from evenload.kernels.keep_slots import keep_slots

        placed = found.placed.copy()
        keep_slots(placed, self.current.slot, self.scratch.gpus.slots)
        return placed

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not to be avoided."""
        gaps = int((self.current.slot == EMPTY).sum())
        if self.current.is_whole:
            return ()
        return (
            f"{int(self.forced.sum())} moves could not be avoided: {gaps} slots of the living GPUs "
            "hold nothing yet, and every expert needs one",
        )
