"""What a step of a `Balancer` tells the engine."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """What happened since the last report, and what the next forward runs with."""

    step: int  #: number of the forward to come, the same on all ranks
    generation: int  #: of ranks; another one than before: take the new `Balancer.group`
    ranks: tuple[int, ...]  #: that take part, ascending
    recovered: bool = False  #: whether the ranks have agreed anew
    flipped: tuple[int, ...] = ()  #: layers whose map is another one from this step on
    #: Experts that changed over, or will at a step that is decided, and their bytes: of all ranks.
    moved: int = 0
    num_bytes: int = 0
    restored: tuple[tuple[int, int], ...] = ()  #: layer and expert that came from `restore`
    #: Mean balancedness on the last window, by the map that ran and by the plan that was taken.
    balancedness: tuple[float, float] | None = None
    moving: bool = False  #: whether a plan is under way
    reason: str = ""  #: why a plan was not taken, or not to its end
    off: str = ""  #: why nothing moves any more; serving goes on
    #: Seconds of the last recovery: ``detected`` until all had agreed who is left (with what a rank
    #: waits for silent ones), ``connected``, ``repaired``.
    seconds: dict[str, float] = field(default_factory=dict)
