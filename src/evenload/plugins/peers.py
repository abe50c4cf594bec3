"""How ranks hand each other what they compare: all of them see the same list, or none does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from evenload.plugins.settings import Settings

FIRST_WAIT, LONGEST_WAIT = 0.0005, 0.02  # seconds between two looks
KEPT_ROUNDS = 64  # in the store, for a rank that is late
OPEN, GIVEN_UP = "", "given up"


def hand_in(
    store: Any, keys: Sequence[str], rank: int, mine: str | bytes, timeout: float, ended: str = ""
) -> list[int]:
    """Put what this rank says into a store, wait for the others, and return who is missing.

    Parameters
    ----------
    store : torch.distributed.Store
    keys : sequence of str
        What each rank says is under its key, by rank.
    rank : int
    mine : str or bytes
        What this rank says.
    timeout : float
        Seconds to wait; 0 for as long as it takes.
    ended : str, optional
        Somebody else may end the wait by a value under this key.

    Returns
    -------
    list of int
        Ranks that have said nothing yet; empty where all have.
    """
    store.set(keys[rank], mine)
    deadline, wait = time.monotonic() + timeout, FIRST_WAIT
    while not store.check(list(keys)):
        if (ended and store.check([ended])) or (timeout and time.monotonic() > deadline):
            return [other for other, key in enumerate(keys) if not store.check([key])]
        time.sleep(wait)  # not in the store, which would be locked for all who ask it
        wait = min(2 * wait, LONGEST_WAIT)
    return []


class LateError(RuntimeError):
    """Not every rank came to a comparison in time; none of them has its list."""


@dataclass
class Peers:
    """The ranks that plan together, and the store that their process group was made by.

    Not over the group: a collective that times out leaves a group of gloo useless, and some ranks
    may have come through. Here the first rank that holds all ballots, or has waited too long,
    writes what became of the round by compare-and-set, and every rank obeys that, a late one too.

    `store` is a ``torch.distributed.Store``, `timeout` in seconds, 0 for as long as it takes. All
    ranks come to the same rounds in the same order.
    """

    store: Any
    rank: int
    size: int
    timeout: float
    _round: int = field(default=0, init=False)
    _lost: bool = field(default=False, init=False)  # the store, in the round before

    def exchange(self, mine: bytes) -> list[bytes]:
        """Hand in bytes; return those of all ranks, by rank.

        Raises
        ------
        LateError
            On every rank, where one of them did not come in time.
        RuntimeError
            Where the store itself cannot be reached.
        """
        while self._lost and self.store.check([f"evenload/{self._round}/end"]):
            self._round += 1  # the others came to that, and gave it up without this rank
        ballots = [f"evenload/{self._round}/{rank}" for rank in range(self.size)]
        end = f"evenload/{self._round}/end"
        self._round += 1
        self._lost = True
        said = mine.hex() + "."
        missing = hand_in(self.store, ballots, self.rank, said, self.timeout, end)
        if not self.store.check([end]):
            told = "".join(self.store.get(key).decode() for key in ballots if not missing)
            self.store.compare_set(end, OPEN, GIVEN_UP if missing else told)
        told = self.store.get(end).decode()
        self._lost = False
        self._clean()
        if told == GIVEN_UP:
            missing = [rank for rank, key in enumerate(ballots) if not self.store.check([key])]
            which = f"rank {', '.join(map(str, missing[:8]))}" if missing else "one"
            raise LateError(
                f"not every rank came to compare its plan within {self.timeout:g} s ({which} did "
                "not); install evenload on every node, with the same EVENLOAD_* settings"
            )
        return [bytes.fromhex(ballot) for ballot in told.split(".")[:-1]]

    def _clean(self) -> None:
        """Drop what no rank can still ask for."""
        old = self._round - KEPT_ROUNDS
        if old >= 0:
            self.store.delete_key(f"evenload/{old}/{self.rank}")
            if self.rank == 0:
                self.store.delete_key(f"evenload/{old}/end")


def of_coordinator(module: str, name: str, settings: Settings) -> Peers | None:
    """Return the peers in the group of a vLLM coordinator that the function `name` returns.

    None if nobody is to compare, in a release without such a group, or where it is not made.
    """
    if not settings.agree:
        return None
    from torch.distributed import distributed_c10d

    try:
        coordinator: Any = getattr(import_module(module), name)()
        stateless = getattr(coordinator, "tcp_store_group", None)
        group = coordinator.cpu_group
    except (ImportError, AssertionError, AttributeError):
        return None
    known: Peers | None = getattr(coordinator, "_evenload_peers", None)
    if known is None:
        if stateless is None:
            store = distributed_c10d._get_process_group_store(group)
        else:
            store = stateless.store
        known = Peers(store, group.rank(), group.size(), settings.agree_timeout)
        coordinator._evenload_peers = known
    return known


@cache
def of_world(timeout: float) -> Peers:
    """Return all ranks of the default process group."""
    from torch.distributed import distributed_c10d, group

    store = distributed_c10d._get_default_store()
    return Peers(store, group.WORLD.rank(), group.WORLD.size(), timeout)
