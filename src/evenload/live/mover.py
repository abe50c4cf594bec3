"""The map that serves on one rank, and the way of a proposal through it, link by link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from evenload.arrays import Int
from evenload.cluster import Cluster
from evenload.live.proposal import Link, Proposal, everybody
from evenload.live.rows import Rows
from evenload.live.states import Layer, States
from evenload.live.transaction import AHEAD, Decision, Transaction, Vote
from evenload.live.transport import BrokenError, Transport
from evenload.maps import EMPTY
from evenload.placement import Placement

ATTEMPTS = 2  # of a link whose checksums differ
PAUSE = 0.05  # seconds between two looks at whether a wait is still wanted


class Due(NamedTuple):
    """A link that is decided, until this rank comes to its step."""

    step: int
    link: Link
    staged: dict[int, int]


@dataclass
class Outcome:
    """What became of a proposal, the same on all ranks but for `broken`."""

    moved: int = 0  #: experts that changed over, or will at a step that is decided
    num_bytes: int = 0  #: of them
    restored: list[tuple[int, int]] = field(default_factory=list)  #: layer and expert
    reason: str = ""  #: why not all of it was taken
    broken: str = ""  #: why the group is gone


class Mover:
    """What this rank holds and serves.

    Two threads use it: one runs proposals, one runs forwards and calls `pass_step` between them.
    """

    transaction: type[Transaction] = Transaction

    def __init__(
        self, rank: int, start: Placement, weights: Rows, store: Any, states: States, *,
        budget: int, restore: Callable[[int, int, list[Any]], None] | None, with_sums: bool,
    ) -> None:  # fmt: skip
        self.rank, self.weights, self.store, self.states = rank, weights, store, states
        self.cluster, self.num_experts = start.cluster, start.num_experts
        self.map = start.rows.copy()  #: what serves, int64 [L, S]
        self.decided = self.map.copy()  #: what will, once all that is decided has changed over
        self.budget, self.restore, self.with_sums = budget, restore, with_sums
        self.changed = threading.Condition()
        self.number = 0  # of the step that this rank is in
        self.promised: int | None = None  # the step that it gave in a vote which is not decided
        self.due: list[Due] = []
        self.flipped: list[int] = []  # layers that changed over, until they were reported
        self.wanted: Callable[[], bool] = lambda: True  # whether a wait is to go on
        self.stop = threading.Event()  # somebody wants no more of this proposal
        self.touched: set[int] = set()  # layers that a broken group may still write to

    @property
    def own(self) -> slice:
        """Slots of this rank."""
        first = self.cluster.first_slot
        return slice(int(first[self.rank]), int(first[self.rank + 1]))

    @property
    def room(self) -> list[int]:
        """Experts that each GPU can receive in one link: spare rows, within the budget."""
        spare = self.weights.num_rows - max(self.cluster.slots)
        least = min(spare, self.budget // max(self.weights.expert_bytes))
        return [least] * self.cluster.num_gpus

    # ---- the thread that moves ---------------------------------------------------------------

    def run(self, proposal: Proposal, transport: Transport, key: str, at_once: bool) -> Outcome:
        """Take a proposal's links in turn, as far as all ranks can.

        `at_once`: no forward runs, and each layer changes over when it is decided.
        """
        outcome = Outcome()
        fault = proposal.fault(self.decided, self.cluster, self.num_experts)
        try:
            if transport.most([bool(fault)])[0]:
                outcome.reason = fault or "another rank refuses the plan"
                return outcome
            self.states.hook("planned")
            links = proposal.links(self.decided, self.cluster)
            for number, link in enumerate(links):
                if not self._take(link, transport, f"{key}/{number}", at_once, outcome):
                    break
        except BrokenError as error:
            outcome.broken = str(error)
        finally:
            self.states.back(range(len(self.map)))
        return outcome

    def _take(
        self, link: Link, transport: Transport, key: str, at_once: bool, outcome: Outcome
    ) -> bool:
        """Take one link, and say whether the next may be."""
        self._wait_for_room(link)
        self.states.go(Layer.PLANNED, link.layer)
        self.states.go(Layer.STAGING, link.layer)
        decision = Decision(False)
        for attempt in range(ATTEMPTS):
            decision = self._attempt(link, transport, f"{key}/{attempt}")
            if decision.commit:
                outcome.moved += len(link.moves)
                outcome.num_bytes += len(link.moves) * self.weights.expert_bytes[link.layer]
                outcome.restored += link.restored
                if at_once:
                    self.finish()
            if decision.broken:
                raise BrokenError(decision.broken)
            if decision.commit or decision.reason != Vote.CHECKSUM.name.lower():
                break
        outcome.reason = decision.reason
        return decision.commit

    def _attempt(self, link: Link, transport: Transport, key: str) -> Decision:
        transaction = self.transaction(
            key, link, self.rank, self.weights, transport, self.store,
            says=lambda: Vote.STOPPED if self.stop.is_set() else Vote.YES,
            promise=lambda: self._promise(link.layer),
            hook=self.states.hook, restore=self.restore, with_sums=self.with_sums,
        )  # fmt: skip
        decision = None
        try:
            decision = transaction.run()
        finally:
            with self.changed:
                self._note(link, transaction.staged, decision)
                self.changed.notify_all()
        return decision

    def _note(self, link: Link, staged: dict[int, int], decision: Decision | None) -> None:
        """Remember what was decided; without a decision a promise stays, and forwards wait."""
        layer = link.layer
        if decision is None or decision.broken:
            self.touched.add(layer)
        if decision is None:
            return
        self.promised = None
        if decision.commit:
            self.due.append(Due(decision.step, link, staged))
            self.decided[layer] = link.after
            self.states.go(Layer.DECIDED, layer)
        elif self.states.layer[layer] == Layer.VOTED:
            self.states.go(Layer.STAGING, layer)  # for another attempt

    def _promise(self, layer: int) -> int:
        with self.changed:
            self.promised = self.number
            self.states.go(Layer.VOTED, layer)
            return self.number

    def _wait_for_room(self, link: Link) -> None:
        """Wait until what is under way in the layer has changed over, and the budget has room."""
        need = len(link.arriving(self.rank)) * self.weights.expert_bytes[link.layer]
        with self.changed:
            while True:
                waiting = [due for due in self.due if due.link.layer == link.layer]
                taken = sum(
                    len(due.staged) * self.weights.expert_bytes[due.link.layer] for due in self.due
                )
                if not waiting and taken + need <= self.budget:
                    return
                if not self.wanted():
                    raise BrokenError("moves are broken off")
                self.changed.wait(PAUSE)

    # ---- the thread that runs forwards ---------------------------------------------------------

    def pass_step(self, number: int, timeout: float) -> None:
        """Come to a step: change over what is due there, and nothing that is not.

        Waits where this rank has voted and may have to change over here, which is decided soon.

        Raises
        ------
        BrokenError
            If it is not decided within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self.changed:
            self.number = number
            while self.promised is not None and number >= self.promised + AHEAD:
                if time.monotonic() > deadline:
                    raise BrokenError(f"a vote was not decided within {timeout:g} s")
                self.changed.wait(PAUSE)
            self._flip([due for due in self.due if due.step <= number])

    def finish(self) -> None:
        """Change over all that is decided: no forward runs."""
        with self.changed:
            self._flip(list(self.due))

    def _flip(self, due: list[Due]) -> None:
        for one in due:
            layer = one.link.layer
            self.states.hook("flipping")
            self.weights.flip(layer, one.link.after[self.own], one.staged)
            self.map[layer] = one.link.after
            self.due.remove(one)
            self.flipped.append(layer)
            self.states.go(Layer.FLIPPED, layer)
        if due:
            self.changed.notify_all()

    # ---- a new generation --------------------------------------------------------------------

    def enter(self, rows: Int, cluster: Cluster, empty: list[int]) -> None:
        """Go on among other ranks: those in `empty` hold nothing; dead ones, what they held."""
        self.map = rows.copy()
        for gpu in empty:
            self.map[:, cluster.gpu_of_slot == gpu] = EMPTY
        self.decided, self.cluster, self.promised = self.map.copy(), cluster, None
        for layer in self.touched:
            self.weights.renew(layer)
        self.touched.clear()
        self.stop.clear()

    def lost(self) -> list[tuple[int, int]]:
        """Return layer and expert of all that no living rank holds."""
        found = []
        for layer, row in enumerate(self.map[:, self.cluster.living_slot].tolist()):
            found += [(layer, e) for e in sorted(set(range(self.num_experts)).difference(row))]
        return found

    def forget_dead(self) -> None:
        """Let the slots of dead GPUs hold nothing."""
        self.map[:, ~self.cluster.living_slot] = EMPTY
        self.decided = self.map.copy()

    @property
    def has_gaps(self) -> bool:
        """Whether a living slot holds nothing, as those of a rank that has just joined."""
        return bool((self.decided[:, self.cluster.living_slot] == EMPTY).any())

    def as_placement(self) -> Placement:
        """Return what runs as a placement to plan from; a gap is filled with whatever there is.

        What dead GPUs held is there too. Only the price of moves depends on it: what moves is told
        from the map itself.
        """
        rows, every = self.decided.copy(), everybody(self.cluster)
        here = [bool((rows[:, every.gpu_of_slot == g] != EMPTY).any())
                for g in range(every.num_gpus)]  # fmt: skip
        cluster = Cluster(**(every.arguments | {"alive": here}))
        filler = np.broadcast_to(np.arange(rows.shape[1]) % self.num_experts, rows.shape)
        gaps = (rows == EMPTY) & cluster.living_slot
        rows[gaps] = filler[gaps]
        return Placement(rows, cluster, self.num_experts)
