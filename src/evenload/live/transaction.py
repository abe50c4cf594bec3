"""One layer's change from a map to the next: all ranks take it, or none does.

Experts arrive in spare rows, and nothing that serves is touched. Once all have what they need each
rank promises its step number; the word, and the step at which all change over, is then written into
the store, where the first to write decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from evenload.ballots import first_word
from evenload.checksum import of_row
from evenload.live.proposal import Link
from evenload.live.rows import Rows
from evenload.live.transport import BrokenError, Message, Transport

AHEAD = 2  # steps from the latest that a rank was in when it voted, to the change
COMMIT, ABORT = "commit", "abort"
SUM_TAG = 1 << 20  # tags of checksums lie above those of weights
SUM_BYTES = 8


class Vote(IntEnum):
    """What a rank says of a link; the gravest counts, which is the largest."""

    YES = 0
    STOPPED = 1  # somebody called `Balancer.abort`
    CHECKSUM = 2  # what arrived is not what was sent
    RESTORE = 3  # an expert could not be restored
    INVALID = 4  # the plan is not one for the map of this rank


class UndecidedError(RuntimeError):
    """Neither the store nor a peer can tell what became of a vote; this rank cannot go on."""


@dataclass(frozen=True)
class Decision:
    """What became of a link, the same on all ranks."""

    commit: bool
    step: int = 0  #: at which all change over
    reason: str = ""  #: why not
    broken: str = ""  #: why the group cannot be used any more; the decision holds all the same

    @property
    def word(self) -> str:
        """What the store holds."""
        return f"{COMMIT} {self.step}" if self.commit else f"{ABORT} {self.reason}"

    @classmethod
    def read(cls, word: str, broken: str = "") -> Decision:
        """Read what the store holds."""
        kind, _, rest = word.partition(" ")
        if kind == COMMIT:
            return cls(True, int(rest), broken=broken)
        return cls(False, reason=rest, broken=broken)


@dataclass
class Transaction:
    """A link that is under way on this rank.

    Errors of the group never leave it: what is decided holds, and `Decision.broken` tells.
    """

    key: str  #: of its word in the store
    link: Link
    rank: int
    rows: Rows
    transport: Transport
    store: Any
    says: Callable[[], Vote]  #: what else this rank has to say, once it has staged
    promise: Callable[[], int]  #: give the step that this rank is in; from then on it waits
    hook: Callable[[str], None] = lambda point: None
    restore: Callable[[int, int, list[Any]], None] | None = None
    with_sums: bool = True
    staged: dict[int, int] = field(default_factory=dict)  #: row of each expert that arrived

    def run(self) -> Decision:
        """Stage, vote and decide.

        Raises
        ------
        UndecidedError
            If this rank has voted, and neither the store nor the others tell what was decided.
        """
        voted, broken = False, ""
        try:
            vote = self._stage()
            ready = Vote(self.transport.most([max(vote, self.says())])[0])
            self.hook("staged")
            decision = Decision(False, reason=ready.name.lower())
            if ready is Vote.YES:
                voted = True
                latest = self._vote(self.promise())
                decision = Decision(True, latest + AHEAD)
        except BrokenError as error:
            broken = str(error)
            decision = Decision(False, reason="lost")
        self.hook("deciding")
        known, lost = self._decide(decision)
        self.hook("decided")
        if not broken:
            try:
                known = self._settle(known, decision)
            except BrokenError as error:
                broken = str(error)
        if known is None:
            if voted:
                raise UndecidedError(f"the store cannot be reached: {lost}; and {broken}")
            known = Decision(False, reason="lost")  # nobody commits without this rank's vote
        self.hook("settled")
        return Decision(known.commit, known.step, known.reason, broken)

    def _stage(self) -> Vote:
        """Let experts arrive in spare rows, and say what this rank thinks of them."""
        layer, free = self.link.layer, self.rows.free(self.link.layer)
        arriving = self.link.arriving(self.rank)
        if len(arriving) > len(free):
            return Vote.INVALID
        self.staged = dict(zip(arriving, free, strict=False))
        sent, received, sums, told, vote = [], [], [], [], Vote.YES
        for number, (expert, source, target) in enumerate(self.link.moves.tolist()):
            if source == self.rank:
                views = self.rows.views(layer, self.rows.row_of[layer][expert])
                sent += self._messages(target, number, views)
                if self.with_sums:
                    sums.append(Message(target, SUM_TAG + number, of_row(views)))
            elif target == self.rank and source >= 0:
                views = self.rows.views(layer, self.staged[expert])
                received += self._messages(source, number, views)
                if self.with_sums:
                    room = views[0].new_zeros(SUM_BYTES)
                    told.append((Message(source, SUM_TAG + number, room), views))
            elif target == self.rank:
                vote = max(vote, self._restore(layer, expert))
        self.hook("staging")
        self.rows.wait_until_free()
        self.transport.exchange([*sent, *sums], [*received, *(message for message, _ in told)])
        self.hook("received")
        right = all(self._same(message.tensor, views) for message, views in told)
        return max(vote, Vote.YES if right else Vote.CHECKSUM)

    def _messages(self, rank: int, number: int, views: list[Any]) -> list[Message]:
        return [Message(rank, number * len(views) + at, view) for at, view in enumerate(views)]

    def _same(self, told: Any, views: list[Any]) -> bool:
        return bool((told == of_row(views)).all())

    def _restore(self, layer: int, expert: int) -> Vote:
        self.hook("restoring")
        if self.restore is None:
            return Vote.RESTORE
        try:
            out = [tensor[self.staged[expert]] for tensor in self.rows.tensors[layer]]
            self.restore(layer, expert, out)
        except Exception:  # whatever the engine's own code fails with, on this rank alone
            return Vote.RESTORE
        return Vote.YES

    def _vote(self, step: int) -> int:
        """Say yes with this rank's step, and return the latest step of all who did: all ranks."""
        self.hook("voting")
        latest = self.transport.most([step])[0]
        self.hook("voted")
        return latest

    def _decide(self, mine: Decision) -> tuple[Decision | None, str]:
        """Return what the store says, or None and why it cannot be reached."""
        try:
            return Decision.read(first_word(self.store, self.key, mine.word)), ""
        except RuntimeError as error:
            return None, f"{type(error).__name__}: {error}"

    def _settle(self, known: Decision | None, mine: Decision) -> Decision:
        """Tell the others what the store said, and hear it from them where it did not answer.

        If it answered nobody, nothing is decided, and all ranks know that.
        """
        commit = known is not None and known.commit
        abort = known is not None and not known.commit
        committed, aborted, step = self.transport.most(
            [int(commit), int(abort), known.step if known is not None else 0]
        )
        assert not (committed and aborted), "the store gave two words"
        if known is not None:
            return known
        if committed:
            return Decision(True, step)
        return Decision(False, reason=mine.reason or "store")
