"""What ranks compare: digests of their plans, of what was asked, and of their policies.

Engines that plan on every rank do not compare: ranks with different maps would send tokens to the
wrong experts without a word. What decides is the list of all digests, which all ranks hold alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evenload.ballots import PART, digest, of_array
from evenload.cost.table import TimeTable
from evenload.plugins.plan import Int, Request, placement_ahead, times_of
from evenload.plugins.settings import Settings

ROWS = 8  # replicas of whose times ranks compare the table
WHAT_DIFFERS = (  # a rank hands in the digests of its plan, its request and its policy
    (slice(PART, 2 * PART), "ranks have different loads or old maps"),
    (slice(2 * PART, 3 * PART), "ranks have different policies or options, or their self-tests do"),
    (slice(PART), "ranks plan differently from the same load, policy and options"),
)


def fingerprint(settings: Settings) -> bytes:
    """Return the digest of the release and of all settings that shape a plan, 16 bytes."""
    from evenload import __version__

    if settings.placement:
        ahead = placement_ahead(settings.placement)
        shape = (__version__, ahead.num_experts, ahead.cluster.num_gpus)
        return digest(repr(shape).encode(), of_array(ahead.physical_to_logical))
    s = settings
    shaping: tuple[Any, ...] = (s.solver, s.topology, s.for_solver(True), s.start_share, s.history)
    if times := times_of(settings):
        table = TimeTable.build([times["expert_time"]], times["tokens_per_batch"], ROWS)
        shaping += (table.digest, table.seconds_per_tick, times["top_k"])
    return digest(repr((__version__, shaping, s.shadow, s.canary)).encode())


def ballot(placed: Int, request: Request, policy: bytes) -> bytes:
    """Return what a rank hands in: the digests of its map, of the request, and of its policy."""
    return digest(of_array(placed)) + _asked(request) + digest(policy)


def _asked(request: Request) -> bytes:
    old = np.zeros((0, 0), np.int64) if request.current is None else request.current
    numbers = (
        request.num_slots, request.num_ranks, request.num_nodes, request.num_groups, request.alive
    )  # fmt: skip
    return digest(
        repr(numbers).encode(), of_array(request.windows), of_array(np.asarray(old, np.int64))
    )


def differences(ranks: Sequence[bytes], alive: Sequence[bool] | None = None) -> str:
    """Tell which ranks differ, and in what first: request, policy or result; empty: in nothing.

    The ballots are those of all ranks in order, or of those `alive`.
    """
    names = range(len(ranks)) if alive is None else np.flatnonzero(alive).tolist()
    for part, word in WHAT_DIFFERS:
        camps: dict[bytes, list[int]] = {}
        for rank, said in zip(names, ranks, strict=False):
            camps.setdefault(said[part], []).append(rank)
        if len(camps) > 1:
            return f"{word}: " + "; ".join(
                f"{said.hex()[:8]} on {len(members)} (rank {', '.join(map(str, members[:8]))}"
                f"{', ...' if len(members) > 8 else ''})"
                for said, members in camps.items()
            )
    return ""
