"""One rebalance on one rank: ask, plan, compare with the other ranks, tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.engines.common.agree import Ballot, agreed, digest
from evenload.engines.common.carried import EMPTY, Int
from evenload.engines.common.log import tell
from evenload.engines.common.plan_map import Planned
from evenload.engines.common.settle import Settled
from evenload.engines.sglang.plugin import engine
from evenload.engines.sglang.plugin.policy import Question, answer
from evenload.engines.sglang.plugin.ready import readiness
from evenload.engines.sglang.plugin.windows import windows_of

log = logging.getLogger("sglang.evenload")

FILLER = 0  # in slots of ranks that are gone, as SGLang's own algorithm has it


@dataclass(frozen=True)
class Call:
    """What SGLang calls with.

    Parameters
    ----------
    tokens : torch.Tensor, [steps, L, E]
    num_slots, slots_per_rank, num_nodes, num_groups : int
    own : callable
        SGLang's own algorithm on the same.
    """

    tokens: Any
    num_slots: int
    slots_per_rank: int
    num_nodes: int
    num_groups: int
    own: Callable[[], Any]

    def question(self, windows: NDArray[Any]) -> Question:
        """Return the question that it stands for, with what runs."""
        _, L, E = windows.shape
        return Question(
            windows, self.num_slots, self.slots_per_rank, self.num_nodes, self.num_groups,
            engine.running_map(L, E, self.slots_per_rank),
            engine.living_ranks(self.num_slots // self.slots_per_rank),
        )  # fmt: skip


def rebalance(call: Call) -> tuple[Any, Any, Any]:
    """Plan, and return the three maps that SGLang wants.

    Returns
    -------
    physical_to_logical : int64 tensor, [L, S]
    logical_to_physical : int64 tensor, [L, E, X]
        X is the largest replica count; padded with -1.
    count : int64 tensor, [L, E]
        All on the CPU, where SGLang's own algorithm has them too. Slots of ranks that are gone hold
        expert 0, and count as no replica.

    Raises
    ------
    ValueError
        If the slots do not divide over the ranks, or the living ones have fewer than experts.
    """
    start = time.perf_counter()
    settled = readiness()
    name = "SGLang's own" if settled.fallen_back else settled.options.solver
    planned = _compared(call, settled) if engine.compares() else _alone(call, settled)
    tell(name, planned, time.perf_counter() - start, log, engine.is_first())
    return as_tensors(planned.map, call.tokens.shape[2])


def _alone(call: Call, settled: Settled) -> Planned:
    return _planned(call, call.question(windows_of(call.tokens)), settled)


def _compared(call: Call, settled: Settled) -> Planned:
    """Return the plan that all ranks have, or the map that runs.

    Whatever fails on this rank, it comes to the comparison: the others wait there.
    """
    try:
        question = call.question(windows_of(call.tokens))
        mine = _planned(call, question, settled)
    except Exception:
        log.exception("evenload: no plan on this rank, which is for keeping the map that runs")
        question = call.question(np.zeros((1, *call.tokens.shape[1:])))
        mine = Planned(question.kept)
    ballot = Ballot(
        digest(mine.map.tobytes()),
        digest(question.windows.tobytes(), question.kept.tobytes()),
        digest(settled.failure.encode(), settled.options.fingerprint),
    )
    map_of_all, why = agreed(mine.map, question.kept, ballot, engine.gather)
    return Planned(map_of_all, kept=why) if why else mine


def _planned(call: Call, question: Question, settled: Settled) -> Planned:
    if settled.fallen_back:
        return Planned(call.own()[0].cpu().numpy().astype(np.int64))
    try:
        return answer(question, settled.options)
    except ValueError as error:  # of the question, which all ranks share
        return Planned(question.kept, kept=str(error))


def as_tensors(placed: Int, num_experts: int) -> tuple[Any, Any, Any]:
    """Return a map int64 [L, S], -1 on ranks that are gone, as the three that SGLang wants.

    Without a kernel: a rank whose kernels fail has to come to the same.
    """
    import torch

    count = np.stack([np.bincount(row[row != EMPTY], minlength=num_experts) for row in placed])
    slots = np.full((*count.shape, count.max()), EMPTY)
    order = np.argsort(placed, axis=1, kind="stable")
    for layer, row in enumerate(placed):
        held = order[layer][(row == EMPTY).sum() :]  # slots by expert, each expert's ascending
        first = np.cumsum(count[layer]) - count[layer]
        experts = row[held]
        slots[layer, experts, np.arange(len(held)) - first[experts]] = held
    filled = np.where(placed == EMPTY, FILLER, placed)
    return torch.tensor(filled), torch.tensor(slots), torch.tensor(count)
