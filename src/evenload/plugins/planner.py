"""What happens at a rebalance, from the engine's load to the map that it gets back.

The same steps for all engines: remember the load, compare what was remembered, plan, compare the
plans, and hand back ours, the engine's own, or the map that runs. Ranks that come to different ends
would send tokens to the wrong experts, so what decides is the same on all of them: the request, the
settings, and what all ranks have handed in.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import and_
from pathlib import Path

import numpy as np

from evenload.ballots import PART, of_array
from evenload.metrics import Facts, record
from evenload.plugins.agreement import ballot, differences
from evenload.plugins.peers import ApartError, LateError
from evenload.plugins.plan import (
    NO_LOAD,
    Int,
    Outcome,
    PlacementMismatchError,
    Request,
    plan_map,
)
from evenload.plugins.settings import Settings

Exchange = Callable[[bytes], Sequence[bytes]]
"""Hand in bytes, and get those of all ranks, in their order; `LateError` on all if one is late."""

STRIKES = 2  # rebalances in a row after which the map before would have been better
KILLED, PAUSED = 1, 2  # flags of a first ballot
HELD = b"held"  # what a rank hands in that has the ballots of all
STOPS = ("killed", "paused")  # codes of outcomes that come until somebody ends them: told once
CODES: dict[type, str] = {LateError: "timeout", ApartError: "disagreement"}  # for the metrics
MARGIN = 0.01  # of balancedness: by less, the next window differs from the last anyhow


class Memory:
    """The windows of a model that this rank has seen, and how the last new map has turned out."""

    def __init__(self, most: int) -> None:
        self._windows: deque[tuple[bytes, Int]] = deque(maxlen=max(most, 1))
        self._before: Int | None = None
        self._after: Int | None = None  # what that became
        self.strikes = 0

    def add(self, request: Request) -> None:
        """Remember a window with a load."""
        if len(request.windows) == 1 and request.sound.any():
            window = request.windows[0]
            self._windows.append((of_array(window), window.copy()))

    def digests(self) -> bytes:
        """Return the digests of the windows, the oldest first."""
        return b"".join(digest for digest, _ in self._windows)

    def common(self, others: Sequence[bytes], request: Request) -> Request:
        """Return the request over the windows that every rank has; one may have come later."""
        held = (Counter(told[n : n + PART] for n in range(0, len(told), PART)) for told in others)
        common = reduce(and_, held)  # the same load may have come twice, and on one rank once
        shared: list[Int] = []
        for digest, window in reversed(self._windows):
            if common[digest]:
                common[digest] -= 1
                shared.insert(0, window)
        if len(request.windows) > 1 or not request.sound.any() or not shared:
            return request
        return replace(request, windows=np.stack(shared))

    def judge(self, request: Request, settings: Settings) -> float:
        """Count whether the map before the last new one would have been better for this load.

        Returns what the map that runs reaches; not a number where nothing runs.
        """
        before, after, self._before = self._before, self._after, None
        if request.current is None:
            return math.nan
        reached = request.balancedness(request.old)
        runs = after is not None and np.array_equal(request.current, after)
        if runs and before is not None and request.sound.any():
            worse = request.balancedness(before) > reached + MARGIN
            if settings.expert_time:
                now, then = (request.seconds(of, settings) for of in (request.old, before))
                worse = now > then * (1.0 + MARGIN)
            self.strikes = self.strikes + 1 if worse else 0
        return reached

    def moved(self, request: Request, placed: Int) -> None:
        """Note a new map, where the ranks and slots stay the same."""
        old = request.current
        if old is not None and old.shape == placed.shape and not np.array_equal(old, placed):
            self._before, self._after = old.copy(), placed.copy()


@dataclass
class Planner:
    """What plans on this rank, as it was found out at registration."""

    engine: str  # for the log
    settings: Settings  # the user's; the defaults where those could not be read
    policy: bytes = b""  # digest of fingerprint and self-test; empty where evenload does not plan
    failure: str = ""  # why the engine's own policy stays; empty where evenload plans
    serving: bool = field(default=False, init=False)  # all ranks have met once
    pause: str = field(default="", init=False)  # why nothing is planned any more

    def __post_init__(self) -> None:
        self._memories: dict[tuple[int, ...], Memory] = {}
        self._stopped = ""  # the log has told that this of `STOPS` is so

    @property
    def name(self) -> str:
        """The solver, the file of a placement planned ahead, or the engine's own: for the log."""
        if self.failure:
            return f"{self.engine}'s own"
        return self.settings.placement or self.settings.solver

    def rebalance(
        self,
        request: Request,
        own: Callable[[], Int],
        compare: Exchange | None,
        logger: logging.Logger,
        first: bool = True,
        model: str = "",
    ) -> Int:
        """Plan, compare with the other ranks, and tell the log; return the map, int64 [L, S].

        It is the old one where nothing can be planned, and where ranks do not agree. `own` returns
        the map of the engine's own policy, which a rank falls back on. `compare` is None where
        nobody compares. The `first` rank speaks for all; the others are heard only where debugging
        is on. `model` is the model's name for the metrics, empty where nobody knows it.

        Raises
        ------
        LateError, ApartError, PlacementMismatchError
            If other ranks do not compare in time, or do not see the same ranks alive, or a
            placement planned ahead is of another shape, before all ranks have met: before serving.
            Afterwards the old map stays.
        Exception
            Where nobody compares: whatever a plan fails with, unless it is a `ValueError`.
        """
        start = time.perf_counter()
        realised = self._judge(request, logger)
        try:
            outcome = self._decide(request, own, compare, logger, first)
            self.serving = self.serving or compare is not None
        except Exception as error:
            if not self.serving:
                raise
            code = CODES.get(type(error), "failure")
            if code == "failure":  # the store that ranks compare over is gone, say
                logger.exception("evenload: no comparison on this rank")
            outcome = Outcome(request.as_it_runs, kept=str(error), code=code)
        if not (self.failure or self.settings.shadow):  # only our own maps are judged
            self._memory_of(request).moved(request, outcome.map)
        seconds = time.perf_counter() - start
        self._tell(outcome, seconds, logger, first)
        if first:
            self._record(outcome, seconds, realised, model)
        return outcome.map

    def stop(self, why: str) -> None:
        """Plan nothing any more: all ranks keep the map that runs, from the next rebalance on."""
        self.pause = self.pause or why

    def _judge(self, request: Request, logger: logging.Logger) -> float:
        """Do what `Memory.judge` does; a rank whose kernels fail has to come to the comparison."""
        try:
            if self.failure:
                return math.nan
            return self._memory_of(request).judge(request, self.settings)
        except Exception:
            logger.exception("evenload: the map that runs cannot be judged on this rank")
            return math.nan

    def _decide(
        self, request: Request, own: Callable[[], Int], compare: Exchange | None,
        logger: logging.Logger, first: bool,
    ) -> Outcome:  # fmt: skip
        memory = self._memory_of(request)
        if memory.strikes >= STRIKES:
            self.stop(f"after {STRIKES} rebalances in a row the map before would have been better")
        memory.add(request)
        switches = KILLED * self._is_killed() + PAUSED * bool(self.pause)
        mine = bytes([switches]) + memory.digests()
        told = [mine] if compare is None else compare(mine)
        if any(theirs[0] & KILLED for theirs in told):
            return Outcome(request.kept, kept="the kill switch is on", code="killed")
        if any(theirs[0] & PAUSED for theirs in told):
            self.stop("another rank paused")
            return Outcome(request.kept, kept=f"paused: {self.pause}", code="paused")
        request = memory.common([theirs[1:] for theirs in told], request)
        outcome = self._plan(request, own, compare is not None, logger)
        if compare is not None:
            ranks = compare(ballot(outcome.map, request, self.policy))
            why = differences(ranks, request.alive)
            if len({theirs[:PART] for theirs in ranks}) > 1:
                return Outcome(request.kept, kept=why, code="disagreement")
            compare(HELD)  # a rank that cannot say so has not learnt what was decided
            if why and first:
                logger.warning("evenload: %s; this time their plans are the same", why)
        return replace(outcome, windows=len(request.windows))

    def _memory_of(self, request: Request) -> Memory:
        """Return what is remembered of a model: vLLM also plans for a draft model, in turn."""
        shape = request.windows.shape[1:]
        return self._memories.setdefault(shape, Memory(self.settings.history))

    def _is_killed(self) -> bool:
        path = self.settings.kill_switch
        try:
            return bool(path) and Path(path).exists()
        except OSError:  # a share that is gone, say
            return True

    def _plan(
        self, request: Request, own: Callable[[], Int], compared: bool, logger: logging.Logger
    ) -> Outcome:
        """Plan; what cannot be planned keeps the old map.

        A `ValueError` comes of what all ranks share. Anything else may have happened here alone:
        where ranks compare, that shows, and all keep the old map; else it must not pass unseen.
        """
        try:
            if self.failure:
                return Outcome(own())
            outcome = plan_map(request, self.settings)
            if outcome.kept or not (self.settings.shadow or self.settings.canary):
                return outcome
            return self._beside(outcome, own(), request)
        except Exception as error:
            if isinstance(error, PlacementMismatchError) and not self.serving:
                raise
            if not isinstance(error, ValueError):
                if not compared:
                    raise
                logger.exception("evenload: no plan on this rank, which is for keeping the old map")
            return Outcome(request.kept, kept=f"{type(error).__name__}: {error}", code="failure")

    def _beside(self, outcome: Outcome, theirs: Int, request: Request) -> Outcome:
        """Put the engine's own map in place of ours: all of it, or but for the canary's layers."""
        layers = np.zeros(len(theirs), bool)
        if not self.settings.shadow:
            layers[self.settings.canary_layers(len(theirs))] = True
        return replace(
            outcome,
            map=np.where(layers[:, None], outcome.map, theirs),
            own=request.balancedness(theirs),
            own_moves=request.moves(theirs),
        )

    def _tell(self, outcome: Outcome, seconds: float, logger: logging.Logger, first: bool) -> None:
        stops = outcome.code if outcome.code in STOPS else ""
        if outcome.code in ("timeout", "failure"):  # which may have come before anybody looked
            changed = False
        else:
            changed, self._stopped = stops != self._stopped, stops
        level = logging.WARNING if changed else logging.INFO
        text = "balancedness {0.before:.4f} -> {0.after:.4f}, {0.moves} moves"
        if outcome.kept:
            text = "the old map stays: {0.kept}"
            if not stops and outcome.kept != NO_LOAD:
                level = logging.ERROR
        elif self.settings.shadow:
            text = "shadow: ours would be " + text + "; the engine's own has {0.own:.4f}"
            if outcome.own_moves is not None:
                text += ", {0.own_moves} moves"
        elif self.settings.canary:
            text = "canary: {0.own:.4f} by the engine's own, ours alone " + text
        if outcome.seconds is not None and not outcome.kept:
            text += ", {2:.1f} -> {3:.1f} µs per layer and batch"
        if outcome.windows > 1:
            text += ", {0.windows} windows"
        text += " ({1:.1f} ms)" if outcome.kept else ", {1:.1f} ms"
        if changed and not stops:
            text = "no longer stopped: " + text
        micros = [1e6 * each for each in outcome.seconds or ()]
        level = level if first else logging.DEBUG
        told = text.format(outcome, 1e3 * seconds, *micros)
        logger.log(level, "evenload (%s): %s", self.name, told)

    def _record(self, outcome: Outcome, seconds: float, realised: float, model: str) -> None:
        facts = Facts(
            seconds=seconds,
            moves=outcome.moves,
            before=outcome.before,
            after=outcome.after,
            realised=realised,
            kept=outcome.code or "shadow" * self.settings.shadow,
            windows=outcome.windows,
            agreed=outcome.code != "disagreement",
            paused=bool(self.pause),
        )
        record(self.engine, facts, model)
