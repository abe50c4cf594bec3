"""Who belongs to the group: heartbeats, generations of ranks, and fencing."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from evenload.ballots import LONGEST_WAIT, first_word, hand_in
from evenload.checks import positive_real
from evenload.live.transport import BrokenError, TorchTransport

ON, OFF = "on", "off"  # whether ranks that meet are to connect: all do, or none
LEAST_BEATS = 10  # missed in a row before a rank counts as silent


class FencedError(RuntimeError):
    """The others go on without this rank; it must neither send nor serve any more."""


class StoreLostError(RuntimeError):
    """The store cannot be reached: nobody can agree on anything new."""


@dataclass(frozen=True)
class Generation:
    """Ranks that go on together, as all of them read it from the store."""

    number: int
    members: dict[int, str]  #: rank: what tells this process from others of that rank
    said: dict[str, Any]  #: what the rank that wrote it says of the map

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks, ascending."""
        return tuple(sorted(self.members))


class Membership:
    """A rank's view of the others.

    Parameters
    ----------
    store : torch.distributed.Store
        Best a process of its own, which outlives every rank. Two clients of it are made
        (`Store.clone`): one for heartbeats, which must not wait for their turn, and one for all
        else. Generations to come use the same two: torch asks DNS for the name of each address
        that connects, twice, and a store that waits for DNS answers nobody (seen: 5 s).
    rank : int
    ranks : sequence of int
        All ranks that start together; for a rank that `joins`, any of those that serve.
    beat : float, default 0.1
        Seconds between two heartbeats.
    limit : float, default 3.0
        Seconds without one after which a rank counts as silent; at least ten beats. It is counted
        in this rank's own beats, so that one that was stopped itself accuses nobody.
    grace : float, default 60.0
        Seconds that a rank may take to start, or to come to an agreement while its heart beats.
    timeout : float, default 10.0
        Seconds that an operation among ranks may take.
    joins : bool, default False
        Whether the others serve already, and this rank waits until one of them admits it.
    prefix : str
        Of all keys in the store.
    backend : {"gloo", "nccl"}
        Of the groups.

    Raises
    ------
    ValueError
        If `limit` is less than ten beats, or a time is not above 0.
    """

    def __init__(
        self, store: Any, rank: int, ranks: Sequence[int], *, beat: float = 0.1, limit: float = 3.0,
        grace: float = 60.0, timeout: float = 10.0, joins: bool = False, prefix: str = "evenload",
        backend: str = "gloo",
    ) -> None:  # fmt: skip
        for name, value in {"beat": beat, "grace": grace, "timeout": timeout}.items():
            positive_real(name, value)
        if limit < LEAST_BEATS * beat:
            raise ValueError(
                f"limit={limit} is less than {LEAST_BEATS} beats of {beat} s, and a busy machine "
                f"misses some; use {LEAST_BEATS * beat:g} or more"
            )
        self._prefix = prefix
        self.rank, self.nonce = rank, secrets.token_hex(4)
        self.beat, self.limit, self.grace, self.timeout = beat, limit, grace, timeout
        self.joins, self.backend = joins, backend
        self._client, heart = self._clone(store), self._clone(store)
        self.store = self.keys("ranks")
        self.now = Generation(0, dict.fromkeys(ranks, ""), {})
        self._called = threading.Event()  # by anyone, for the next generation
        self._lock = threading.Lock()  # of the generation and whether it was called off
        self.store_lost = ""  # why
        self._stop = threading.Event()
        self._silent: frozenset[int] = frozenset()
        self._watched: dict[int, str] = {}  # nonces of members, and of those that join them
        self._thread = threading.Thread(
            target=self._beats, args=(heart,), name="evenload-beats", daemon=True
        )
        self._thread.start()

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks of this generation, ascending."""
        return self.now.ranks

    @property
    def planner(self) -> int:
        """The rank that plans: the lowest that has a map."""
        told = self.now.said.get("mapped", self.ranks)
        return min(map(int, told))

    @property
    def called(self) -> bool:
        """Whether somebody called for the next generation."""
        return self._called.is_set()

    def close(self) -> None:
        """Stop beating: the others take this rank for dead."""
        self._stop.set()
        self._thread.join(self.timeout)

    def _clone(self, store: Any) -> Any:
        client = store.clone()
        client.set_timeout(timedelta(seconds=self.grace))
        return client

    def keys(self, name: str, client: Any = None) -> Any:
        """Return the store with keys of its own."""
        from torch.distributed import PrefixStore

        return PrefixStore(f"{self._prefix}/{name}", client or self._client)

    def transport(self, name: str) -> TorchTransport:
        """Connect a group of this generation's ranks.

        All meet in the store first: a rank that comes late, or not at all, would make the others
        wait in gloo, where no call for the next generation is heard.

        Raises
        ------
        BrokenError
            If somebody calls for the next generation, or it cannot be connected.
        StoreLostError
            If the store cannot be reached.
        """
        *keys, end = (f"connect/{self.now.number}/{name}/{of}" for of in (*self.ranks, "end"))
        place = self.ranks.index(self.rank)
        waits = self.store, keys, place, "1", self.grace, end, lambda missing: self.called
        missing = self._guarded(hand_in, *waits)
        if self._guarded(first_word, self.store, end, OFF if missing else ON) == OFF:
            raise BrokenError(f"not all of ranks {self.ranks} came to connect")
        store = self.keys(f"{self.now.number}/{name}")
        return TorchTransport(store, self.rank, self.ranks, self.timeout, self.backend)

    # ---- heartbeats --------------------------------------------------------------------------

    def _beats(self, client: Any) -> None:
        """Beat, and look who else does and whether somebody called."""
        try:
            store, number = self.keys("ranks", client), 0
            seen: dict[str, tuple[bytes, int]] = {}  # of each key: the last beat, and when
            while not self._stop.wait(self.beat):
                number += 1
                store.set(f"beat/{self.rank}/{self.nonce}", str(number))
                self._look(store, seen, number)
        except RuntimeError as error:
            self.store_lost = f"{type(error).__name__}: {error}"

    def _look(self, store: Any, seen: dict[str, tuple[bytes, int]], number: int) -> None:
        now = self.now
        if store.check([f"call/{now.number}"]):
            self._hear(now)
        keys = {f"beat/{rank}/{nonce}": rank for rank, nonce in self._watched.items()
                if nonce and rank != self.rank}  # fmt: skip
        begun = [key for key in keys if seen.get(key, (b"", 0))[0] or store.check([key])]
        beats = dict(zip(begun, store.multi_get(begun) if begun else (), strict=True))
        silent = set()
        for key, rank in keys.items():
            beat = beats.get(key, b"")
            if seen.setdefault(key, (beat, number))[0] != beat:
                seen[key] = beat, number
            elif (number - seen[key][1]) * self.beat > self.limit:
                silent.add(rank)
        self._silent = frozenset(silent)
        gone = silent.intersection(now.members)
        if gone:
            self._call(store, now, f"ranks {sorted(gone)} are silent", {})

    def _hear(self, of: Generation) -> None:
        """Note a call, unless this rank has gone on meanwhile."""
        with self._lock:
            if of is self.now:
                self._called.set()

    # ---- generations -------------------------------------------------------------------------

    def call(self, why: str, admit: dict[int, str] | None = None) -> None:
        """Call all ranks to form the next generation, with others that are to be admitted.

        Raises
        ------
        StoreLostError
            If the store cannot be reached.
        """
        self._guarded(self._call, self.store, self.now, why, admit or {})

    def _call(self, store: Any, of: Generation, why: str, admit: dict[int, str]) -> None:
        first_word(store, f"call/{of.number}", json.dumps({"why": why, "admit": admit}))
        self._hear(of)

    def waiting(self, rank: int) -> str:
        """Return what tells apart a process that waits to join as a rank; empty if none does."""
        return str(self._guarded(self._read, f"join/{rank}"))

    def _read(self, key: str) -> str:
        text: bytes = self.store.get(key) if self.store.check([key]) else b""
        return text.decode()

    def _guarded(self, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except RuntimeError as error:
            if isinstance(error, FencedError):
                raise
            self.store_lost = self.store_lost or f"{type(error).__name__}: {error}"
        raise StoreLostError(f"the store cannot be reached: {self.store_lost}")

    def agree(self, says: dict[str, Any]) -> Generation:
        """Form the next generation with all that come, and return it.

        A rank waits for the others of its generation, and for those admitted, but for silent ones.
        What the first to have waited enough writes down holds for all.

        Parameters
        ----------
        says : dict
            What this rank says of its map and its step; ``says["map"]`` is None where it has none,
            and it does not write the generation then.

        Raises
        ------
        FencedError
            If the generation is without this rank, or nobody writes one within the grace.
        StoreLostError
            If the store cannot be reached.
        """
        if self.joins:
            self._guarded(self._wait_to_join)
        generation: Generation = self._guarded(self._agree, says)
        with self._lock:
            self.now, self.joins = generation, False
            self._watched, self._silent = dict(generation.members), frozenset()
            self._called.clear()
        return generation

    def _wait_to_join(self) -> None:
        self.store.set(f"join/{self.rank}", self.nonce)
        deadline = time.monotonic() + self.grace
        while not (told := self._read(f"admit/{self.rank}/{self.nonce}")):
            if time.monotonic() > deadline:
                raise FencedError(f"nobody admitted rank {self.rank} within {self.grace:g} s")
            time.sleep(LONGEST_WAIT)
        self.now = Generation(int(told), self.now.members, {})

    def _agree(self, says: dict[str, Any]) -> Generation:
        number, told = self.now.number, self._read(f"call/{self.now.number}")
        admit = json.loads(told)["admit"] if told else {}
        expected = sorted({*self.now.members, *map(int, admit)})
        self._watched = {**self.now.members, **{int(rank): nonce for rank, nonce in admit.items()}}
        for rank, nonce in admit.items():
            self.store.set(f"admit/{rank}/{nonce}", str(number))
        word, keys = f"generation/{number + 1}", [f"here/{number + 1}/{r}" for r in expected]
        mine = json.dumps({"nonce": self.nonce, **says})

        def enough(missing: list[int]) -> bool:
            return all(expected[place] in self._silent for place in missing)

        writes = says["map"] is not None
        place = expected.index(self.rank)
        wait = self.grace if writes else 2 * self.grace
        missing = hand_in(self.store, keys, place, mine, wait, word, enough if writes else None)
        if writes and not self.store.check([word]):
            came = [key for at, key in enumerate(keys) if at not in missing]
            first_word(self.store, word, self._record([json.loads(self.store.get(k)) for k in came],
                       [r for at, r in enumerate(expected) if at not in missing]))  # fmt: skip
        elif not writes:  # those that have a map write it
            deadline = time.monotonic() + self.grace
            while not self.store.check([word]) and time.monotonic() < deadline:
                time.sleep(LONGEST_WAIT)
        text = self._read(word)
        if not text:
            raise FencedError(f"generation {number + 1} was not formed within {self.grace:g} s")
        record = json.loads(text)
        members = {int(rank): nonce for rank, nonce in record["members"].items()}
        if members.get(self.rank) != self.nonce:
            raise FencedError(
                f"rank {self.rank} is not in generation {number + 1} of ranks {sorted(members)}; "
                "start it anew, and have it join"
            )
        return Generation(number + 1, members, record["said"])

    def _record(self, said: list[dict[str, Any]], ranks: list[int]) -> str:
        """Write down who came, and the map and the step of those that have a map."""
        members = {r: theirs["nonce"] for r, theirs in zip(ranks, said, strict=True)}
        mapped = [r for r, theirs in zip(ranks, said, strict=True) if theirs["map"] is not None]
        own = said[ranks.index(self.rank)]
        step = max(theirs["step"] for theirs in said)
        return json.dumps(
            {"members": members, "said": {"map": own["map"], "step": step, "mapped": mapped}}
        )
