"""Batches that a layer gets: of one kind, or of several phases that are planned for together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evenload.arrays import Float
from evenload.checks import whole_number
from evenload.cost.expert_time import ExpertTime
from evenload.cost.table import MOST_TOKENS
from evenload.dispatch import check_timed


@dataclass(frozen=True, eq=False)
class Phase:
    """One kind of batches, as those of prefill or of decode."""

    name: str  #: "" where there is only one
    load: Float  #: [L, E]
    weight: float = 1.0  #: its part of all that counts; those of all phases add up to 1
    tokens_per_batch: int | None = None  #: tokens that all GPUs put through a layer at once


def check_batches(
    expert_time: Any, tokens_per_batch: Any, top_k: Any, dispatch: str, num_experts: int
) -> tuple[ExpertTime | None, int | None, int]:
    """Return the three as plain values, or raise `ValueError` for what does not go together."""
    if expert_time is not None and not isinstance(expert_time, ExpertTime):
        raise ValueError(
            f"expert_time={expert_time!r} is no ExpertTime; use ExpertTime.preset, "
            "ExpertTime.read, or points of one's own"
        )
    if expert_time is not None and dispatch != "one":
        check_timed(dispatch)
    k = whole_number("top_k", top_k, 1, num_experts)
    if tokens_per_batch is None:
        if expert_time is not None or dispatch == "one":
            needs = "expert_time" if expert_time is not None else "dispatch='one'"
            raise ValueError(f"{needs} needs to know what a batch has; give tokens_per_batch")
        if k != 1:
            raise ValueError(
                f"top_k={k} is of the tokens of a batch; give tokens_per_batch, or leave it out"
            )
        return None, None, 1
    batch = whole_number("tokens_per_batch", tokens_per_batch, 1, MOST_TOKENS)
    if expert_time is None and dispatch != "one":
        raise ValueError(
            f"tokens_per_batch={batch} is for plans by time; give expert_time, use dispatch "
            "'one', or leave tokens_per_batch out"
        )
    return expert_time, batch, k
