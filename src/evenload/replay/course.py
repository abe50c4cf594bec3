"""The course of a replay: what serves, what is on its way, what was seen, and what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import keep_numpy
from evenload.clock import Stopwatch
from evenload.cluster import Cluster
from evenload.cost import CostModel
from evenload.placement import Placement, check_same
from evenload.replay.policies import Past, Policy
from evenload.replay.results import Replay

Float = NDArray[np.float64]


class _Rebalance(NamedTuple):
    """A decision to move; every name is a field of `Replay`."""

    rebalance_window: int
    moves: NDArray[np.int64]
    bytes: float
    transfer_seconds: float
    move_seconds: float
    plan_seconds: float


class Course:
    """A replay so far.

    Parameters
    ----------
    policy : Policy
    cluster : Cluster
    cost : CostModel
    start : Placement
        What serves at first, with NumPy arrays.
    settings : dict
        Those of the replay; ``interval``, ``num_groups``, ``sample`` and ``delay`` matter here.
    num_windows : int
        Windows that will be served.
    keep_placements : bool
        Whether to keep every placement, or only the last.
    """

    def __init__(
        self,
        policy: Policy,
        cluster: Cluster,
        cost: CostModel,
        start: Placement,
        settings: dict[str, Any],
        num_windows: int,
        keep_placements: bool,
    ) -> None:
        self.policy, self.cluster, self.cost, self.settings = policy, cluster, cost, settings
        self.current = start
        self.before: Placement | None = None
        self.migration: Migration | None = None
        self.seen: deque[Float] = deque(maxlen=policy.memory)
        self.asked, self.put_off, self.asked_seconds = 0, 0, 0.0
        self._rebalances: list[_Rebalance] = []
        self._done, self._keep_all = 0, keep_placements
        L, S = start.num_layers, start.num_slots
        self._reached, self._kept, self._best, self._mean = np.empty((4, num_windows, L))
        self._window, self._served = np.empty((2, num_windows), np.int64)
        # Only what is written takes memory, so that the most there can be costs nothing.
        small = np.int16 if start.num_experts <= np.iinfo(np.int16).max else np.int32
        most = -(-num_windows // settings["interval"]) if keep_placements else 0
        self._placements = np.empty((most + 1, L, S), small)
        self._placements[0] = start.physical_to_logical

    def decide(self, t: int) -> None:
        """Ask the policy before window t, unless experts are still moving."""
        if self.migration is not None:
            self.put_off += 1
            return
        load = np.stack(self.seen)
        load.setflags(write=False)
        settings = {name: self.settings[name] for name in ("num_groups", "interval", "sample")}
        past = Past(load, t, self.asked, self.current, self.cluster, cost=self.cost, **settings)
        with Stopwatch() as watch:
            wanted = self.policy.decide(past)
        self.asked += 1
        self.asked_seconds += watch.seconds
        if wanted is None:
            return
        check_same(wanted, self.current, f"what the policy {self.policy.name!r} returned")
        if wanted != self.current:
            self._move_to(wanted.rewrapped(keep_numpy), t, watch.seconds)

    def _move_to(self, placement: Placement, t: int, plan_seconds: float) -> None:
        schedule = self.cost.schedule(self.current, placement)
        moves, seconds = np.diff(schedule.moves.first_of_layer), schedule.seconds
        standing_still = self.cost.move_seconds(schedule)
        self._rebalances.append(
            _Rebalance(t, moves, schedule.num_bytes, seconds, standing_still, plan_seconds)
        )
        place = len(self._rebalances) if self._keep_all else 0
        self._placements[place] = placement.physical_to_logical
        self.before, self.current = self.current, placement
        due = self.cost.overlap * schedule.finished
        if self.settings["delay"] and due[-1] > 0.0:
            self.migration = Migration(due)

    def serve(self, t: int, load: Float, oracle: Callable[[Float], Placement] | None) -> None:
        """Serve window t, and write down how that went."""
        tokens = self.cost.tokens_per_second * self.settings["sample"]
        mean = load.sum(axis=1) / self.cluster.capacity.sum() / tokens
        reached = self.current.balancedness(load)
        kept = reached if self.before is None else self.before.balancedness(load)
        if self.migration is not None:
            reached = self.migration.serve(mean, kept, reached)
            if self.migration.done:
                self.migration = None
        best = np.full(len(load), np.nan)
        if oracle is not None:
            # Whatever serves is a plan too, and the search need not have found as good a one.
            known = oracle(load).rewrapped(keep_numpy).balancedness(load)
            best = np.maximum(np.maximum(known, kept), reached)
        i = self._done
        self._reached[i], self._kept[i], self._best[i], self._mean[i] = reached, kept, best, mean
        self._window[i], self._served[i] = t, len(self._rebalances)
        self._done += 1

    def finish(self, notes: tuple[str, ...]) -> Replay:
        """Return what came of it."""
        columns = list(zip(*self._rebalances, strict=True)) or [()] * len(_Rebalance._fields)
        rebalances = dict(zip(_Rebalance._fields, map(np.array, columns), strict=True))
        window, moves = rebalances.pop("rebalance_window"), rebalances.pop("moves")
        # Straggler time that each rebalance saved until the next one.
        saved = np.zeros(len(self._rebalances) + 1)
        per_window = (self._mean / self._kept - self._mean / self._reached).sum(axis=1)
        np.add.at(saved, self._served, per_window)
        return Replay(
            policy=self.policy.name,
            cluster=self.cluster,
            window=self.settings["window"],
            interval=self.settings["interval"],
            settings=self.settings,
            notes=notes,
            windows=self._window,
            balancedness=self._reached,
            kept_balancedness=self._kept,
            oracle=self._best,
            mean_seconds=self._mean,
            served=self._served if self._keep_all else np.zeros_like(self._served),
            placements=self._placements[: len(self._rebalances) + 1],
            rebalance_window=window.astype(np.int64),
            moves=moves.astype(np.int64).reshape(-1, self._mean.shape[1]),
            saved_seconds=saved[1:],
            asked=self.asked,
            put_off=self.put_off,
            asked_seconds=self.asked_seconds,
            **rebalances,
        )


@dataclass
class Migration:
    """Layers that change over one after the other, while windows go by.

    Parameters
    ----------
    due : float64 ndarray, [L]
        When each layer changes over, in seconds of serving from now.
    """

    due: Float

    def serve(self, mean: Float, old: Float, new: Float) -> Float:
        """Serve a window, and return the balancedness that each layer has over its time.

        Parameters
        ----------
        mean : float64 ndarray, [L]
            Seconds of each layer if it were perfectly balanced.
        old, new : float64 ndarray, [L]
            Balancedness from either place.
        """
        part = old_part(mean / old, mean / new, self.due)
        reached: Float = np.where(part <= 0.0, new, 1.0 / (part / old + (1.0 - part) / new))
        self.due = self.due - float((mean / reached).sum())
        return reached

    @property
    def done(self) -> bool:
        """Whether every layer has changed over."""
        return bool(self.due[-1] <= 0.0)


def old_part(old_seconds: Float, new_seconds: Float, due: Float) -> Float:
    """Return the part of a window that each layer serves from its old place.

    A window takes the sum over its layers. Each layer that changes over alters how fast the rest of
    the window goes by, which is taken into account.

    Parameters
    ----------
    old_seconds, new_seconds : float64 ndarray, [L]
        What a layer takes for the whole window from either place.
    due : float64 ndarray, [L]
        When each layer changes over, in seconds of serving from the window's start, ascending; 0 or
        less for those that have.

    Returns
    -------
    float64 ndarray, [L]
        In [0, 1].
    """
    # Seconds that the whole window would take while the first l layers have changed over.
    pace = old_seconds.sum() + np.concatenate(([0.0], np.cumsum(new_seconds - old_seconds)[:-1]))
    stay = np.diff(np.maximum(due, 0.0), prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        served = np.where(stay > 0.0, stay / pace, 0.0)
    part: Float = np.minimum(np.cumsum(served), 1.0)
    return part
