"""What an engine holds: counts steps, moves experts beneath them, and goes on without the dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evenload.ballots import FIRST_WAIT, LONGEST_WAIT
from evenload.checks import whole_number
from evenload.cluster import Cluster
from evenload.live.membership import Generation, Membership
from evenload.live.mover import Mover, Outcome
from evenload.live.planning import CANNOT, Planning
from evenload.live.policy import Policy
from evenload.live.proposal import Proposal, digest_of, everybody, pack, unpack
from evenload.live.report import Report
from evenload.live.rows import Rows
from evenload.live.states import Rank, States
from evenload.live.transaction import UndecidedError
from evenload.live.transport import BrokenError, TorchTransport
from evenload.placement import Placement, check_placement

MOST_GENERATIONS = 32  # that one recovery may go through


class MapsDifferError(RuntimeError):
    """A rank has another map than the others, and must not go on. It is a fault of ours."""


class LostError(RuntimeError):
    """Experts are gone for good: no living rank has them, and they cannot be restored."""


class Balancer:
    """Moves experts between ranks while they serve, one on every rank.

    Parameters
    ----------
    store : torch.distributed.Store
        Where plans and decisions are written; the same as of `members`.
    members : Membership
        A new one. The constructor waits for the other ranks, or until it is admitted.
    placement : Placement
        What all ranks start with, GPU g is rank g. For a rank that joins: of the same cluster and
        model; it gets the map from the others, and its own slots are empty.
    tensors : sequence of sequences of torch.Tensor
        For each layer the tensors [slots + spare, ...] that an expert has a row in, see `Rows`.
        Take them from `weights` at each forward: a recovery replaces some.
    policy : Policy, optional
        What is planned, and when. Default: nothing but what `start` is given, and repairs.
    restore : callable, optional
        ``restore(layer, expert, out)`` writes an expert whose last copy is gone into tensors
        [...] `out`, from a checkpoint.
    budget : int, optional
        Bytes that a rank receives before they serve, at most. Default: what the spare rows hold.
    checksums : bool, default True
        Whether each expert is compared with what was sent.
    hook : callable, optional
        Called with the name of each point of the protocol (`states.POINTS`), from either thread.
    engine, model : str
        Labels of the metrics (extra ``metrics``), which the planning rank writes.

    Raises
    ------
    ValueError
        If something does not fit, or `budget` is less than one expert.
    FencedError, StoreLostError, BrokenError
        If the ranks do not come together.
    """

    mover = Mover

    def __init__(
        self, store: Any, members: Membership, placement: Placement,
        tensors: Sequence[Sequence[Any]], policy: Policy | None = None,
        restore: Callable[[int, int, list[Any]], None] | None = None, budget: int | None = None, *,
        checksums: bool = True, hook: Callable[[str], None] = lambda point: None,
        engine: str = "live", model: str = "",
    ) -> None:  # fmt: skip
        start = check_placement(placement)
        first = start.cluster.first_slot
        rows = start.rows[:, first[members.rank] : first[members.rank + 1]]
        self.weights = Rows(tensors, np.full_like(rows, -1) if members.joins else rows)
        spare = (self.weights.num_rows - max(start.cluster.slots)) * sum(self.weights.expert_bytes)
        most = max(self.weights.expert_bytes)
        budget = spare if budget is None else whole_number("budget", budget, most)
        self.members = members
        self.states = States(start.num_layers, hook)
        self._client = members.keys("moves")
        self._mover = self.mover(
            members.rank, start, self.weights, self._client, self.states,
            budget=budget, restore=restore, with_sums=checksums,
        )  # fmt: skip
        self._mover.wanted = lambda: not (self._parked or members.called)
        self._planning = Planning(members, self._mover, policy or Policy(), engine, model)
        self._has_map = not members.joins
        self._moves: TorchTransport | None = None
        self._forward: TorchTransport | None = None
        self._turn = threading.Lock()  # of the thread that moves, while it does
        self._parked, self._closed = False, False
        self._events, self._events_lock = Report(0, 0, ()), threading.Lock()
        self._fatal = ""
        self._meet("", first=True)
        self._thread = threading.Thread(target=self._work, name="evenload-moves", daemon=True)
        self._thread.start()

    # ---- what an engine asks -----------------------------------------------------------------

    @property
    def map(self) -> Any:
        """What serves in this step: expert in each slot, -1 for none, int64 [L, S]. Read only."""
        return self._mover.map

    @property
    def tables(self) -> list[Any]:
        """Row that each slot of this rank reads, by layer: int64 tensors [K], changed in place."""
        return self.weights.tables

    @property
    def group(self) -> Any:
        """The forward's own group: a backend of torch.distributed over `Report.ranks`, in order.

        Ask for it at each forward, and keep no reference, nor an exception out of it: either keeps
        the connections of a generation that is over, and others wait for it.
        """
        return None if self._forward is None else self._forward.group

    def step(self, load: Any = None) -> Report:
        """Come to the next forward: call it on every rank between two.

        Counts the step, and changes over the layers that are due at it. If ranks have gone or are
        to be admitted, it first agrees on who goes on, see `recover`.

        Parameters
        ----------
        load : array_like, [L, E], optional
            Tokens that this rank has routed to each expert since the last call.

        Raises
        ------
        FencedError
            If the others go on without this rank.
        LostError
            If an expert has no copy left and cannot be restored.
        UndecidedError, StoreLostError
            If this rank cannot learn what was decided, or ranks are gone and the store too.
        """
        recovered = False
        while True:
            self._raise_what_ended_it()
            if self.members.called and not self.members.store_lost:
                self._meet("called")
                recovered = True
            try:
                self._mover.pass_step(self._mover.number + 1, 4 * self.members.timeout)
            except BrokenError as error:
                why = str(error)
            else:
                self._planning.count(load, self._mover.number)
                return self._report(recovered)
            self._raise_what_ended_it()
            self._meet(why)
            recovered = True

    def poll(self) -> Report:
        """Come to the next forward, as `step`, where loads are not counted."""
        return self.step()

    def start(self, target: Placement) -> None:
        """Move to a placement in the background; on one rank, or the same on several.

        Takes effect unless another plan is under way on the way there; look at `Report.reason`.
        """
        same = check_placement(target, "target")
        like = self._mover
        if same.rows.shape != like.map.shape or same.num_experts != like.num_experts:
            raise ValueError(
                f"target has {same.rows.shape} slots and {same.num_experts} experts; use "
                f"{like.map.shape} and {like.num_experts}, as those that run"
            )
        self._planning.target = same.rows

    def abort(self) -> None:
        """Give up the plan that is under way, on all ranks; decided layers still change."""
        self._planning.target = None
        if self._turn.locked():
            self._mover.stop.set()

    def admit(self, rank: int) -> bool:
        """Let a process that waits to join in, on one rank; False if none waits as that rank.

        All ranks agree anew at their next step.

        Raises
        ------
        ValueError
            If the rank serves already, or the cluster has no such GPU.
        """
        whole_number("rank", rank, 0, self._mover.cluster.num_gpus - 1)
        if rank in self.members.ranks:
            raise ValueError(f"rank={rank} serves; use one of those that do not")
        nonce = self.members.waiting(rank)
        if nonce:
            self.members.call(f"rank {rank} joins", {rank: nonce})
        return bool(nonce)

    def close(self) -> None:
        """Leave the group for good. The others go on without this rank."""
        self._closed = True
        self._drop_groups()
        self.members.close()
        self._thread.join(2 * self.members.timeout)

    # ---- agreeing anew ---------------------------------------------------------------------------

    def recover(self, why: str = "a forward failed") -> Report:
        """Agree with the others who goes on, and bring back what was lost.

        Call it when a forward has failed, after its exception was dropped, and then `step` as
        before each forward; the forward is to be done again, in the new `group`. A `step` to which
        others called this rank does the same by itself.

        Raises
        ------
        FencedError, LostError, UndecidedError, StoreLostError
            As `step`.
        """
        self._meet(why)
        return self._report(recovered=True)

    def _meet(self, why: str, first: bool = False) -> None:
        """Go from generation to generation until one stands, with every expert on a living rank."""
        began = time.perf_counter()
        self._parked = True
        self._drop_groups()
        try:
            with self._turn:  # what it waits for fails, at the latest by its timeout
                self._raise_what_ended_it()
                for _ in range(MOST_GENERATIONS):
                    self._drop_groups()
                    self.states.turn(Rank.LOST)
                    if not first:
                        self.members.call(why)
                    try:
                        self._form(began)
                    except BrokenError as error:
                        why, first = str(error), False
                    else:
                        return
                raise LostError(f"{MOST_GENERATIONS} generations failed, the last because {why}")
        finally:
            self._parked = False

    def _form(self, began: float) -> None:
        """Form one generation: agree, connect, repair."""
        members, mover = self.members, self._mover
        mover.finish()
        self.states.turn(Rank.AGREEING)
        told = pack(mover.map) if self._has_map else None
        generation = members.agree({"map": told, "step": mover.number})
        self.states.hook("agreed")
        agreed = time.perf_counter()
        self._enter(generation)
        self._moves = members.transport("moves")
        self._forward = members.transport("forward")
        connected = time.perf_counter()
        self.states.turn(Rank.RECONNECTED)
        self._planning.begin(generation)
        self.states.turn(Rank.REPAIRING)
        self._repair()
        seconds = {"detected": agreed - began, "connected": connected - agreed}
        seconds["repaired"] = time.perf_counter() - connected
        self._note(seconds=seconds)
        self.states.turn(Rank.SERVING)

    def _enter(self, generation: Generation) -> None:
        mover, ranks = self._mover, generation.ranks
        rows = unpack(generation.said["map"], mover.map.shape[1])
        if self._has_map and digest_of(rows) != digest_of(mover.map):
            raise MapsDifferError(f"rank {self.members.rank} has another map than the others")
        every = everybody(mover.cluster)
        alive = [g in ranks for g in range(every.num_gpus)]
        cluster = Cluster(**(every.arguments | {"alive": alive}))
        empty = [rank for rank in ranks if rank not in generation.said["mapped"]]
        mover.enter(rows, cluster, empty)
        mover.number = generation.said["step"]
        self._has_map = True

    def _repair(self) -> None:
        """Bring experts back that no living rank holds, while nothing is served."""
        lost = self._mover.lost()
        if lost:
            text = self._planning.repair(lost)
            if text.startswith(CANNOT):
                raise LostError(f"experts {lost[:8]} are gone: {text.removeprefix(CANNOT)}")
            outcome = self._run(text, at_once=True)
            if outcome.broken:
                raise BrokenError(outcome.broken)
            if outcome.reason:
                raise LostError(f"experts {lost[:8]} cannot be brought back: {outcome.reason}")
        self._mover.forget_dead()

    def _drop_groups(self) -> None:
        for transport in (self._moves, self._forward):
            if transport is not None:
                transport.close()

    # ---- the thread that moves -------------------------------------------------------------------

    def _work(self) -> None:
        wait = FIRST_WAIT
        while not self._closed:
            did = False
            if not self._parked and not self._events.off and not self.members.called:
                with self._turn:
                    did = self._one_turn()
            wait = FIRST_WAIT if did else min(2 * wait, LONGEST_WAIT)
            time.sleep(wait)

    def _one_turn(self) -> bool:
        """Take what is proposed next, or propose something; False if there was nothing to do."""
        try:
            text = "" if self._parked else self._planning.next()
            if not text:
                return False
            outcome = self._run(text, at_once=False)
            if outcome.broken:
                self.members.call(outcome.broken)
        except UndecidedError as error:
            self._fatal = str(error)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            if self._store_is_gone():
                self._note(off=f"the store cannot be reached: {why}")
            elif self._mover.promised is None:
                self._note(reason=why)  # of the policy, say: what runs stays
            else:
                self._fatal = why
        return True

    def _store_is_gone(self) -> bool:
        try:
            self._client.check(["anything"])
        except RuntimeError:
            return True
        return False

    def _run(self, text: str, at_once: bool) -> Outcome:
        assert self._moves is not None
        proposal = Proposal.decode(text, self._mover.map.shape[1])
        began = time.perf_counter()
        key = self._planning.key
        outcome = self._mover.run(proposal, self._moves, key, at_once)
        self._mover.stop.clear()
        self._planning.done(proposal, outcome, time.perf_counter() - began)
        off = "experts arrived changed, twice in a row" if outcome.reason == "checksum" else ""
        facts, judged = proposal.facts, None
        if "before" in facts:
            judged = float(facts["before"]), float(facts["after"])
        self._note(outcome, reason=outcome.reason, off=off, balancedness=judged)
        return outcome

    def _note(self, outcome: Outcome | None = None, **texts: Any) -> None:
        """Add to what the next report tells."""
        with self._events_lock:
            told, new = self._events, outcome or Outcome()
            self._events = replace(
                told,
                moved=told.moved + new.moved,
                num_bytes=told.num_bytes + new.num_bytes,
                restored=(*told.restored, *new.restored),
                **{name: value for name, value in texts.items() if value},
            )

    def _raise_what_ended_it(self) -> None:
        if self._fatal:
            raise UndecidedError(self._fatal)

    def _report(self, recovered: bool = False) -> Report:
        """Tell what happened since the last report, and start the next one."""
        mover = self._mover
        if self.members.store_lost:
            self._note(off=f"the store cannot be reached: {self.members.store_lost}")
        with self._events_lock:
            events, self._events = self._events, Report(0, 0, (), off=self._events.off)
        flipped, mover.flipped = tuple(sorted(set(mover.flipped))), []
        return replace(
            events, step=mover.number, generation=self.members.now.number,
            ranks=self.members.ranks, recovered=recovered, flipped=flipped,
            moving=self._turn.locked() or bool(mover.due),
        )  # fmt: skip
