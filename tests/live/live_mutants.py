"""Protocols with one thing left out, each of which the trials must find out."""

from __future__ import annotations

from dataclasses import replace

from evenload.live import mover, proposal, transaction
from evenload.live.proposal import everybody
from evenload.live.transaction import AHEAD, Decision, Transaction, Vote


class NoVote(Transaction):
    """Each rank commits once it has staged, whatever the others say."""

    def run(self):
        try:
            vote = max(self._stage(), self.says())
        except transaction.BrokenError as error:
            return Decision(False, reason="lost", broken=str(error))
        return Decision(vote is Vote.YES, self.promise() + AHEAD, vote.name.lower())


class NoStore(Transaction):
    """What this rank saw of the vote holds, and nobody is asked."""

    def _decide(self, mine):
        return mine, ""

    def _settle(self, known, mine):
        del mine
        return known


class AnyStep(Transaction):
    """Each rank changes over as soon as it knows."""

    def run(self):
        decision = super().run()
        return replace(decision, step=0) if decision.commit else decision


class NoSums(Transaction):
    """What arrives is taken for what was sent."""

    def _same(self, told, views):
        del told, views
        return True


def _dead_sources(before, old, after, new):
    return _transfers(before, old, after, everybody(new))


_transfers = proposal.transfers
MUTANTS = {"no vote": NoVote, "no store": NoStore, "any step": AnyStep, "no sums": NoSums}
NAMES = (*MUTANTS, "dead source")


def install(name: str) -> None:
    """Leave out what the name says, in this process."""
    if name in MUTANTS:
        mover.Mover.transaction = MUTANTS[name]
    elif name == "dead source":
        proposal.transfers = _dead_sources
    elif name:
        raise ValueError(name)
