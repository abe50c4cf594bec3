"""What is written down during a replay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.cluster import Cluster
from evenload.cost import Schedule
from evenload.placement import Placement
from evenload.replay.result import Replay

Float = NDArray[np.float64]


class Log:
    """The course of a replay so far.

    Parameters
    ----------
    num_windows : int
        Windows that will be served.
    most : int
        Rebalances that there can be.
    start : Placement
        What serves at first.
    keep_placements : bool
        Whether to keep every placement, or the last only.
    """

    def __init__(
        self, num_windows: int, most: int, start: Placement, keep_placements: bool
    ) -> None:
        L, S = start.num_layers, start.num_slots
        self._reached, self._kept, self._best, self._mean = np.empty((4, num_windows, L))
        self._window = np.empty(num_windows, np.int64)
        self._served = np.empty(num_windows, np.int64)
        self._done, self._keep_all = 0, keep_placements
        # Only what is written takes memory, so that the most there can be costs nothing.
        small = np.int16 if start.num_experts <= np.iinfo(np.int16).max else np.int32
        self._placements = np.empty((most + 1 if keep_placements else 1, L, S), small)
        self._placements[0] = start.physical_to_logical
        self._rebalances: list[tuple[int, NDArray[np.int64], float, float, float, float]] = []
        self._seconds = 0.0
        self.asked, self.put_off, self.asked_seconds = 0, 0, 0.0

    def ask(self, seconds: float) -> None:
        """Write down that the policy was asked, and how long it took."""
        self.asked += 1
        self.asked_seconds += seconds
        self._seconds = seconds

    def rebalance(
        self, window: int, placement: Placement, schedule: Schedule, move_seconds: float
    ) -> None:
        """Write down a decision to move."""
        place = len(self._rebalances) + 1 if self._keep_all else 0
        self._placements[place] = placement.physical_to_logical
        moves = np.diff(schedule.moves.first_of_layer)
        entry = (window, moves, schedule.num_bytes, schedule.seconds, move_seconds, self._seconds)
        self._rebalances.append(entry)

    def window(self, number: int, reached: Float, kept: Float, best: Float, mean: Float) -> None:
        """Write down a window that was served."""
        i = self._done
        self._reached[i], self._kept[i], self._best[i], self._mean[i] = reached, kept, best, mean
        self._window[i], self._served[i] = number, len(self._rebalances)
        self._done += 1

    def finish(
        self, policy: str, cluster: Cluster, settings: dict[str, Any], notes: tuple[str, ...]
    ) -> Replay:
        """Return the whole course."""
        columns = list(zip(*self._rebalances, strict=True)) or [()] * 6
        layers = self._mean.shape[1]
        return Replay(
            policy=policy,
            cluster=cluster,
            window=settings["window"],
            interval=settings["interval"],
            settings=settings,
            notes=notes,
            windows=self._window,
            balancedness=self._reached,
            kept_balancedness=self._kept,
            oracle=self._best,
            mean_seconds=self._mean,
            served=self._served if self._keep_all else np.zeros_like(self._served),
            placements=self._placements[: len(self._rebalances) + 1],
            rebalance_window=np.array(columns[0], np.int64),
            moves=np.array(columns[1], np.int64).reshape(-1, layers),
            bytes=np.array(columns[2], np.float64),
            transfer_seconds=np.array(columns[3], np.float64),
            move_seconds=np.array(columns[4], np.float64),
            saved_seconds=self._saved(),
            plan_seconds=np.array(columns[5], np.float64),
            asked=self.asked,
            put_off=self.put_off,
            asked_seconds=self.asked_seconds,
        )

    def _saved(self) -> Float:
        """Sum, for each rebalance, the straggler time saved until the next one."""
        saved = (self._mean / self._kept - self._mean / self._reached).sum(axis=1)
        totals = np.zeros(len(self._rebalances) + 1)
        np.add.at(totals, self._served, saved)
        return totals[1:]
