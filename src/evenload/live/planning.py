"""Who proposes what: loads go to one rank over the store, and plans come back the same way."""

from __future__ import annotations

import base64
import math
import time
from typing import Any

import numpy as np

from evenload.arrays import Float, Int
from evenload.ballots import LONGEST_WAIT, first_word
from evenload.live.membership import Generation, Membership
from evenload.live.mover import Mover, Outcome
from evenload.live.policy import Policy
from evenload.live.proposal import Proposal, digest_of, pack, unpack
from evenload.live.transport import BrokenError
from evenload.metrics import Facts, record, record_bytes
from evenload.moves import in_old_slots
from evenload.placement import Placement

KEPT = 4  # windows whose loads are in the store
CANNOT = "cannot: "  # in place of a proposal: why there is none


class Planning:
    """The proposals of a generation, in their order; the thread that moves uses it.

    No collective operation is needed before a move begins: each rank looks for the next proposal in
    the store, so that none waits for another, and a plan outlives the rank that made it.
    """

    def __init__(
        self, members: Membership, mover: Mover, policy: Policy, engine: str, model: str
    ) -> None:
        self.members, self.mover, self.policy = members, mover, policy
        self.labels = engine, model
        self.store = members.keys("plans")
        self.target: Int | None = None  # what `Balancer.start` was given
        self.load: Float = np.ones((len(mover.map), mover.num_experts))  # of the last window
        self._since = np.zeros_like(self.load)  # tokens of this window, of this rank
        self._windows: list[tuple[int, Float]] = []  # that are over, and not handed in
        self._window = 0  # the last that was handed in
        self._tried: str = ""  # digest of a map with gaps for which a plan was made
        self._prepared = ""  # digest of the map for which repairs are in the store
        self._number = 0  # of the next proposal
        self._generation = 0

    def begin(self, generation: Generation) -> None:
        """Start with a generation."""
        self._generation, self._number, self._tried = generation.number, 0, ""

    @property
    def key(self) -> str:
        """Where the next proposal is, and below it what becomes of it."""
        return f"plan/{self._generation}/{self._number}"

    @property
    def is_planner(self) -> bool:
        """Whether this rank plans for all."""
        return self.members.planner == self.members.rank

    def count(self, load: Any, number: int) -> None:
        """Add what this rank routed in a step; the thread that runs forwards calls it."""
        if load is not None:
            self._since += np.asarray(load, np.float64).reshape(self._since.shape)
        if self.policy.every and number % self.policy.every == 0:
            self._windows.append((number // self.policy.every, self._since))
            self._since = np.zeros_like(self._since)

    def next(self) -> str:
        """Return the next proposal, one of this rank's if there is none yet; empty without any."""
        if self.store.check([self.key]):
            return str(self.store.get(self.key).decode())
        while self._windows:
            self._window, load = self._windows.pop(0)
            key = self._load_key(self._window, self.members.rank)
            self.store.set(key, f"{self._window} {_text(load)}")
        began = time.perf_counter()
        wanted, why = self._wanted()
        if wanted is None:
            return ""
        self.mover.states.hook("proposing")
        facts = {"why": why, "seconds": time.perf_counter() - began, **self._judged(wanted)}
        proposal = self._proposal(wanted, facts)
        if proposal is None:
            return ""
        return first_word(self.store, self.key, proposal.encode())

    def _proposal(self, wanted: Int, facts: dict[str, Any]) -> Proposal | None:
        mover = self.mover
        target = in_old_slots(wanted, mover.decided, mover.cluster)
        proposal = Proposal.make(mover.decided, target, mover.cluster, mover.room, facts)
        return proposal if proposal.layers else None

    def _judged(self, wanted: Int) -> dict[str, float]:
        """Return what the map that runs and a plan reach on the last window; nothing of gaps."""
        if self.mover.has_gaps:
            return {}
        plan = Placement(wanted, self.mover.cluster, self.mover.num_experts)
        both = {"before": self.mover.as_placement(), "after": plan}
        return {name: float(place.balancedness(self.load).mean()) for name, place in both.items()}

    def _wanted(self) -> tuple[Int | None, str]:
        """Return the map to go to next, if this rank knows one, and why."""
        target, self.target = self.target, None
        if target is not None:
            return target, "start"
        if not self.is_planner:
            return None, ""
        if self.mover.has_gaps and self._tried != digest_of(self.mover.decided):
            self._tried = digest_of(self.mover.decided)
            return self._plan(), "join"
        total = self._total()
        if total is not None:
            self.load = total
            self.store.set("load", f"0 {_text(total)}")
            return self._plan(), "window"
        if self.policy.every:
            self._prepare()
        return None, ""

    def _plan(self) -> Int:
        return self.policy.plan(self.load, self.mover.as_placement(), self.mover.cluster)

    def _total(self) -> Float | None:
        """Return the load of the last window once all ranks have handed theirs in."""
        keys = [self._load_key(self._window, rank) for rank in self.members.ranks]
        if self._window == 0 or not self.store.check(keys):
            return None
        read = [self._read_load(key) for key in keys]
        if any(window < self._window for window, _ in read):
            return None
        wanted, self._window = self._window, 0
        if any(window > wanted for window, _ in read):
            return None  # some are further on: the next will do
        return sum((load for _, load in read), np.zeros_like(self.load))

    def _load_key(self, window: int, rank: int) -> str:
        """Return where a window's load is; keys are used again, not deleted under a reader."""
        return f"load/{window % KEPT}/{rank}"

    def _read_load(self, key: str) -> tuple[int, Float]:
        window, _, text = self.store.get(key).decode().partition(" ")
        return int(window), np.frombuffer(base64.b64decode(text), "<f8").reshape(self.load.shape)

    # ---- repairs -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Put a repair for each GPU that may die into the store, whoever is to plan then."""
        mover = self.mover
        digest = digest_of(mover.decided)
        if mover.has_gaps or digest == self._prepared:
            return
        self._prepared = digest
        for gpu, rows in self.policy.ahead(self.load, mover.as_placement()).items():
            self.store.set(f"ahead/{digest}/{gpu}", pack(rows))

    def repair(self, lost: list[tuple[int, int]]) -> str:
        """Return the proposal that brings lost experts back, as the planning rank wrote it.

        Raises
        ------
        BrokenError
            If it wrote none: somebody called for the next generation meanwhile.
        """
        if self.is_planner and not self.store.check([self.key]):
            try:
                proposal = self._proposal(self._repaired(), {"why": "repair", "lost": len(lost)})
            except ValueError as error:  # too few slots are left, say
                return first_word(self.store, self.key, f"{CANNOT}{error}")
            assert proposal is not None, "experts are lost, and nothing has to move"
            return first_word(self.store, self.key, proposal.encode())
        deadline = time.monotonic() + self.members.grace
        while not self.store.check([self.key]):
            if self.members.called or time.monotonic() > deadline:
                raise BrokenError("nobody planned a repair")
            time.sleep(LONGEST_WAIT)
        return str(self.store.get(self.key).decode())

    def _repaired(self) -> Int:
        mover = self.mover
        dead = [g for g, alive in enumerate(mover.cluster.alive) if not alive]
        keys = [f"ahead/{digest_of(mover.map)}/{gpu}" for gpu in dead]
        if len(dead) == 1 and not mover.has_gaps and self.store.check(keys):
            return unpack(self.store.get(keys[0]).decode(), mover.map.shape[1])
        if self.store.check(["load"]):
            self.load = self._read_load("load")[1]
        return self.policy.repair(self.load, mover.as_placement(), mover.cluster)

    def done(self, proposal: Proposal, outcome: Outcome, seconds: float) -> None:
        """Go on to the next proposal, and let the planning rank write the metrics."""
        self._number += 1
        if not self.is_planner:
            return
        engine, model = self.labels
        kept = outcome.reason or outcome.broken
        taken = float(proposal.facts.get("seconds", 0.0)) + seconds
        told = proposal.facts.get("before", math.nan), proposal.facts.get("after", math.nan)
        record(engine, Facts(taken, outcome.moved, *told, kept="failure" if kept else ""), model)
        if outcome.num_bytes:
            record_bytes(engine, lambda: outcome.num_bytes, model)


def _text(load: Float) -> str:
    return base64.b64encode(load.astype("<f8").tobytes()).decode()
