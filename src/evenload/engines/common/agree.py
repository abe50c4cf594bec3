"""Ranks compare their plans, and keep the old map together where two differ.

An engine that plans on every rank never compares: ranks with different maps would send tokens to
the wrong experts without a word. What decides here is the list of all ranks' digests, which all of
them hold alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evenload.engines.common.carried import Int

Gather = Callable[[bytes], Sequence[bytes]]
"""Hand in bytes, equally many on each rank, and get those of all ranks, in their order."""

PART = 16


@dataclass(frozen=True)
class Ballot:
    """What one rank says of its plan, 16 bytes each.

    Parameters
    ----------
    plan : bytes
        Digest of the map.
    request : bytes
        Digest of the load, the old map and the cluster.
    policy : bytes
        Digest of the policy, its release and options.
    """

    plan: bytes
    request: bytes
    policy: bytes

    def to_bytes(self) -> bytes:
        """Return it as 48 bytes."""
        return self.plan + self.request + self.policy

    @classmethod
    def from_bytes(cls, raw: bytes) -> Ballot:
        """Read it from 48 bytes."""
        return cls(raw[:PART], raw[PART : 2 * PART], raw[2 * PART :])


def digest(*parts: bytes) -> bytes:
    """Return 16 bytes that tell parts from others."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part)
    return sha.digest()[:PART]


def agreed(plan: Int, kept: Int, mine: Ballot, gather: Gather) -> tuple[Int, str]:
    """Return the plan if all ranks have the same, else what is kept.

    Parameters
    ----------
    plan, kept : int64 ndarray, [L, S]
    mine : Ballot
        Of this rank.
    gather : callable
        Collects all ranks' ballots.

    Returns
    -------
    map : int64 ndarray, [L, S]
    why : str
        What the ranks differ in; empty where all agree.
    """
    ballots = [Ballot.from_bytes(raw) for raw in gather(mine.to_bytes())]
    if all(ballot.plan == mine.plan for ballot in ballots):
        return plan, ""
    return kept, _difference(ballots)


def _difference(ballots: Sequence[Ballot]) -> str:
    """Tell who differs, and in what first: the request, the policy, or only the result."""
    for part, word in (("request", "loads or old maps"), ("policy", "policies or options")):
        if len({getattr(ballot, part) for ballot in ballots}) > 1:
            return f"ranks have different {word}: {_camps([getattr(b, part) for b in ballots])}"
    camps = _camps([ballot.plan for ballot in ballots])
    return f"ranks plan differently from the same load, policy and options: {camps}"


def _camps(digests: Sequence[bytes]) -> str:
    ranks: dict[bytes, list[int]] = {}
    for rank, said in enumerate(digests):
        ranks.setdefault(said, []).append(rank)
    return "; ".join(
        f"{said.hex()[:8]} on {len(members)} (rank {', '.join(map(str, members[:8]))}"
        f"{', ...' if len(members) > 8 else ''})"
        for said, members in ranks.items()
    )
