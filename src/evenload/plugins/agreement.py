"""Ranks compare their plans, and keep the old map together where two differ.

Engines that plan on every rank do not compare: ranks with different maps would send tokens to the
wrong experts without a word. What decides is the list of all digests, which all ranks hold alike.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.plugins.plan import (
    NO_LOAD,
    Int,
    Outcome,
    PlacementMismatchError,
    Request,
    placement_ahead,
    plan_map,
)
from evenload.plugins.settings import Settings

Gather = Callable[[bytes], Sequence[bytes]]
"""Hand in bytes, equally many on each rank, and get those of all ranks, in their order."""

PART = 16  # bytes of a digest; a rank hands in those of its plan, its request and its policy
WHAT_DIFFERS = (
    (slice(PART, 2 * PART), "ranks have different loads or old maps"),
    (slice(2 * PART, 3 * PART), "ranks have different policies or options, or their self-tests do"),
    (slice(PART), "ranks plan differently from the same load, policy and options"),
)


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes that tell parts from others."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part)
    return sha.digest()[:PART]


def _of(array: NDArray[Any]) -> bytes:
    """Return the digest of an array: the same for the same numbers on every machine."""
    kind = array.dtype.newbyteorder("<")
    return digest(repr((array.shape, kind.str)).encode(), array.astype(kind).tobytes())


def fingerprint(settings: Settings) -> bytes:
    """Return the digest of the release and of all settings that shape a plan, 16 bytes."""
    from evenload import __version__

    if settings.placement:
        ahead = placement_ahead(settings.placement)
        shape = (__version__, ahead.num_experts, ahead.cluster.num_gpus)
        return digest(repr(shape).encode(), _of(ahead.physical_to_logical))
    shaping = (settings.solver, settings.topology, settings.for_solver(True))
    return digest(repr((__version__, shaping)).encode())


def gather(mine: bytes, group: Any, device: Any = "cpu", timeout: float = 0.0) -> list[bytes]:
    """Collect what every rank of a ``ProcessGroup`` hands in: a `Gather` once it is bound to one.

    `device` is one that the group works on. After `timeout` seconds without all others, 0 for as
    long as the group waits, it raises `RuntimeError`; nothing has moved by then.
    """
    import torch

    sent = torch.tensor(list(mine), dtype=torch.uint8, device=device)
    received = [torch.empty_like(sent) for _ in range(group.size())]
    try:
        work = torch.distributed.all_gather(received, sent, group=group, async_op=True)
        work.wait(*[timedelta(seconds=timeout)] if timeout else [])
    except RuntimeError as error:
        if not timeout:
            raise
        raise RuntimeError(
            f"not every rank compared its plan within {timeout:g} s; install evenload on every "
            "node, with the same EVENLOAD_* settings"
        ) from error
    return [bytes(part.tolist()) for part in received]


def eplb_gather(settings: Settings, module: str, name: str) -> tuple[Gather | None, bool]:
    """Return what reaches the group that an engine balances over, and whether this rank is first.

    The group is that on the CPU of the coordinator that the function `name` of `module` returns.
    Nothing reaches the others if nobody is to compare, or in a release without such a group.
    """
    if not settings.agree:
        return None, True
    try:
        group = getattr(import_module(module), name)().cpu_group
    except (ImportError, AssertionError, AttributeError):
        return None, True
    return partial(gather, group=group, timeout=settings.agree_timeout), group.rank() == 0


@dataclass(frozen=True)
class Planner:
    """What plans on this rank, as it was found out at registration."""

    engine: str  # for the log
    settings: Settings  # the user's; the defaults where those could not be read
    policy: bytes = b""  # digest of fingerprint and self-test; empty where evenload does not plan
    failure: str = ""  # why the engine's own policy stays; empty where evenload plans

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
        compare: Gather | None,
        logger: logging.Logger,
        first: bool = True,
    ) -> Int:
        """Plan, compare with the other ranks, and tell the log; return the map, int64 [L, S].

        It is the old one where nothing can be planned, and where ranks do not agree. `own` returns
        the map of the engine's own policy, which a rank falls back on. `compare` is None where
        nobody compares. The `first` rank speaks for all; the others are heard only where debugging
        is on.

        Raises
        ------
        RuntimeError
            If other ranks do not compare in time.
        Exception
            Where nobody compares: whatever a plan fails with, unless it is a `ValueError`.
        """
        start = time.perf_counter()
        outcome = self._plan(request, own, compare is not None, logger)
        if compare is not None:
            mine = digest(_of(outcome.map)) + _asked(request) + digest(self.policy)
            ranks = compare(mine)
            why = differences(ranks)
            if any(theirs[:PART] != mine[:PART] for theirs in ranks):
                outcome = Outcome(request.kept, kept=why)
            elif why and first:
                logger.warning("evenload: %s; this time their plans are the same", why)
        self._tell(outcome, time.perf_counter() - start, logger, first)
        return outcome.map

    def _plan(
        self, request: Request, own: Callable[[], Int], compared: bool, logger: logging.Logger
    ) -> Outcome:
        """Plan; what cannot be planned keeps the old map.

        A `ValueError` comes of what all ranks share. Anything else may have happened here alone:
        where ranks compare, that shows, and all keep the old map; else it must not pass unseen.
        """
        try:
            return Outcome(own()) if self.failure else plan_map(request, self.settings)
        except PlacementMismatchError:
            raise
        except Exception as error:
            if not isinstance(error, ValueError):
                if not compared:
                    raise
                logger.exception("evenload: no plan on this rank, which is for keeping the old map")
            return Outcome(request.kept, kept=f"{type(error).__name__}: {error}")

    def _tell(self, outcome: Outcome, seconds: float, logger: logging.Logger, first: bool) -> None:
        level = logging.INFO if first else logging.DEBUG
        text = "balancedness {0.before:.4f} -> {0.after:.4f}, {0.moves} moves, {1:.1f} ms"
        if outcome.kept:
            text = "the old map stays: {0.kept} ({1:.1f} ms)"
            level = logging.ERROR if first and outcome.kept != NO_LOAD else level
        logger.log(level, "evenload (%s): %s", self.name, text.format(outcome, 1e3 * seconds))


def _asked(request: Request) -> bytes:
    old = np.zeros((0, 0), np.int64) if request.current is None else request.current
    numbers = (
        request.num_slots, request.num_ranks, request.num_nodes, request.num_groups, request.alive
    )  # fmt: skip
    return digest(repr(numbers).encode(), _of(request.windows), _of(np.asarray(old, np.int64)))


def differences(ranks: Sequence[bytes]) -> str:
    """Tell which ranks differ, and in what first: request, policy or result; empty: in nothing."""
    for part, word in WHAT_DIFFERS:
        camps: dict[bytes, list[int]] = {}
        for rank, said in enumerate(ranks):
            camps.setdefault(said[part], []).append(rank)
        if len(camps) > 1:
            return f"{word}: " + "; ".join(
                f"{said.hex()[:8]} on {len(members)} (rank {', '.join(map(str, members[:8]))}"
                f"{', ...' if len(members) > 8 else ''})"
                for said, members in camps.items()
            )
    return ""
