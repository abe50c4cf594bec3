"""How ranks hand each other what they compare: all of them see the same list, or none does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from itertools import count
from typing import Any

from evenload.ballots import first_word, hand_in
from evenload.plugins.settings import Settings

KEPT = 64  # rebalances whose rounds are in the store, for a rank that is late
STEPS = 3  # rounds of a rebalance at most
GIVEN_UP = "given up"
NEXT = "evenload/next"  # key of the rebalance that comes next, for a rank that joins


class LateError(RuntimeError):
    """Not every rank came to a comparison in time; none of them has its list."""


class ApartError(RuntimeError):
    """Ranks do not see the same ranks alive, or the others go on without this one."""


@dataclass
class Peers:
    """The ranks that plan together, and the store that their process group was made by.

    Not over the group: a collective that times out leaves a group of gloo useless, and some ranks
    may have come through. Here the first rank that holds all ballots, or has waited too long,
    writes what became of the round by compare-and-set, and every rank obeys that, a late one too.

    `store` is a ``torch.distributed.Store``, `timeout` in seconds, 0 for as long as it takes. All
    ranks come to the same rounds in the same order. Where ranks may go, `alive` are those that this
    one sees: it waits for no others. That is its own view, so it is part of the ballot, and a round
    counts only if all whose ballots were taken see just each other. A rank that `joins` later
    begins with the rebalance that comes next, or that the others wait in, until it meets them.
    """

    store: Any
    rank: int
    size: int
    timeout: float
    alive: tuple[int, ...] | None = None
    joins: bool = False
    _rebalance: int = field(default=0, init=False)

    def rounds(self) -> Callable[[bytes], list[bytes]]:
        """Begin a rebalance, and return the `exchange` of its rounds, `STEPS` at most.

        Each has its place, so that a rank which breaks one off meets the others at the next again.
        """
        with suppress(Exception):  # without a store nobody can join, nor be met
            if not self.joins:
                self.store.set(NEXT, str(self._rebalance + 2))
            elif self.store.check([NEXT]):
                # The others may have begun what is next to this rank, and wait for it there.
                begun = int(self.store.get(NEXT)) - 1
                is_open = begun > 0 and not self.store.check(self._keys(begun, 0, []))
                self._rebalance = begun - is_open
        self._rebalance += 1
        return partial(self.exchange, self._rebalance, count())

    def exchange(self, rebalance: int, steps: Iterator[int], mine: bytes) -> list[bytes]:
        """Hand in bytes in the next round; return those of all ranks, or of those alive, by rank.

        Raises
        ------
        LateError
            On every rank, where one of them did not come in time.
        ApartError
            On every rank, where views differ; or on this one, which the others do not see.
        RuntimeError
            Where the store itself cannot be reached.
        """
        here = range(self.size) if self.alive is None else sorted({*self.alive, self.rank})
        view = "" if self.alive is None else " ".join(map(str, here))
        step = next(steps)
        *ballots, end = self._keys(rebalance, step, here)
        said = f"{view}/{mine.hex()}."
        mine_at = list(here).index(self.rank)
        missing = hand_in(self.store, ballots, mine_at, said, self.timeout, end)
        told = "" if missing else "".join(self.store.get(key).decode() for key in ballots)
        told = first_word(self.store, end, told or GIVEN_UP)
        if step == 0:
            self._clean(rebalance - KEPT, here)
        if told == GIVEN_UP:
            missing = [rank for rank, key in zip(here, ballots, strict=True)
                       if not self.store.check([key])]  # fmt: skip
            which = f"rank {', '.join(map(str, missing[:8]))}" if missing else "one"
            raise LateError(
                f"not every rank came to compare its plan within {self.timeout:g} s ({which} did "
                "not); install evenload on every node, with the same EVENLOAD_* settings"
            )
        self.joins = False  # this rank has met the others
        views, texts = zip(*(ballot.split("/") for ballot in told.split(".")[:-1]), strict=True)
        self._check_views(views)
        return [bytes.fromhex(text) for text in texts]

    def _keys(self, rebalance: int, step: int, ranks: Sequence[int]) -> list[str]:
        """Return the keys of ranks' ballots, and that of what became of the round."""
        return [f"evenload/{rebalance}/{step}/{of}" for of in (*ranks, "end")]

    def _clean(self, rebalance: int, here: Sequence[int]) -> None:
        """Drop what no rank can still ask for."""
        for step in range(STEPS if rebalance > 0 else 0):
            *_, mine, end = self._keys(rebalance, step, [self.rank])
            self.store.delete_key(mine)
            if self.rank == here[0]:
                self.store.delete_key(end)

    def _check_views(self, views: tuple[str, ...]) -> None:
        """Raise `ApartError` unless all that were told of see just each other, this rank too."""
        if views[0] == "" and len(set(views)) == 1:
            return
        seen = views[0].split()
        if len(set(views)) > 1 or len(seen) != len(views):
            known = "; or ".join(f"rank {', '.join(view.split())}" for view in sorted(set(views)))
            raise ApartError(f"ranks do not see the same ranks alive: {known}")
        if str(self.rank) not in seen:
            raise ApartError(
                f"the others do not see rank {self.rank} alive, and go on without it: rank "
                f"{', '.join(seen)}"
            )


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
def of_world(timeout: float, joins: bool = False) -> Peers:
    """Return all ranks of the default process group."""
    from torch.distributed import distributed_c10d, group

    store = distributed_c10d._get_default_store()
    return Peers(store, group.WORLD.rank(), group.WORLD.size(), timeout, joins=joins)
