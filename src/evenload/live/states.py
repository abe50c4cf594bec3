"""The states of a layer and of a rank, and which follows which.

A layer: idle, planned, staging, voted, decided, flipped, idle again. An abort brings it back to
idle from any state before `decided`; what is decided is flipped, whoever dies. A rank: serving
until it is lost, that is until it knows of a failure, and serving again once it is agreed who is
left, their groups are connected, and each expert has a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum


class Layer(StrEnum):
    """What a layer is at."""

    IDLE = "idle"
    PLANNED = "planned"
    STAGING = "staging"  # experts arrive in spare rows
    VOTED = "voted"  # this rank has promised its step number
    DECIDED = "decided"  # the store has the word, and the layer changes over at a step to come
    FLIPPED = "flipped"  # the last move is over: the same as idle, but for the reports


class Rank(StrEnum):
    """What a rank is at."""

    SERVING = "serving"
    LOST = "lost"
    AGREEING = "agreeing"
    RECONNECTED = "reconnected"
    REPAIRING = "repairing"


NEXT: dict[str, set[str]] = {
    Layer.IDLE: {Layer.PLANNED},
    Layer.PLANNED: {Layer.STAGING, Layer.IDLE},
    Layer.STAGING: {Layer.VOTED, Layer.IDLE},
    Layer.VOTED: {Layer.DECIDED, Layer.STAGING, Layer.IDLE},  # staging: another attempt
    Layer.DECIDED: {Layer.FLIPPED},
    Layer.FLIPPED: {Layer.PLANNED},
    Rank.SERVING: {Rank.LOST},
    Rank.LOST: {Rank.AGREEING},
    Rank.AGREEING: {Rank.RECONNECTED, Rank.LOST},
    Rank.RECONNECTED: {Rank.REPAIRING, Rank.LOST},
    Rank.REPAIRING: {Rank.SERVING, Rank.LOST},
}

#: All points of the protocol at which a `Balancer` calls its hook, in the order of a rebalance with
#: a death: the states, and what lies between them.
POINTS = (
    "proposing", "planned", "staging", "received", "staged", "voting", "voted", "deciding",
    "decided", "settled", "flipping", "flipped", "lost", "agreeing", "agreed", "reconnected",
    "repairing", "restoring", "serving",
)  # fmt: skip


class States:
    """The states of all layers of a rank and of the rank itself; `hook` hears of the latter."""

    def __init__(self, num_layers: int, hook: Callable[[str], None]) -> None:
        self.layer: list[str] = [Layer.IDLE] * num_layers
        self.rank: str = Rank.LOST  # until it has met the others
        self.hook = hook

    def go(self, state: Layer, layer: int) -> None:
        """Bring a layer to its next state."""
        assert state in NEXT[self.layer[layer]], f"layer {layer}: {self.layer[layer]} -> {state}"
        self.layer[layer] = state

    def back(self, layers: Iterable[int]) -> None:
        """Return layers to idle that were not decided."""
        for layer in layers:
            if self.layer[layer] not in (Layer.IDLE, Layer.DECIDED, Layer.FLIPPED):
                self.go(Layer.IDLE, layer)

    def turn(self, state: Rank) -> None:
        """Bring the rank to its next state."""
        assert state in NEXT[self.rank] or state == self.rank, f"{self.rank} -> {state}"
        self.rank = state
        self.hook(state)
