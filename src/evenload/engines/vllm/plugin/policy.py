"""One rebalance inside vLLM: plan, compare with the other ranks, tell the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from evenload.engines.common.agree import Ballot, agreed, digest
from evenload.engines.common.carried import Int
from evenload.engines.common.log import tell
from evenload.engines.common.options import Options
from evenload.engines.common.plan_map import Planned, Request, plan_map
from evenload.engines.common.ranks import Ranks
from evenload.engines.vllm.plugin.ranks import ranks

logger = logging.getLogger("vllm.evenload")

Planner: TypeAlias = Callable[[Request], Planned]


class BrokenContractError(AssertionError, ValueError):
    """Numbers that no policy can plan with; vLLM's own policy asserts them."""


def by_evenload(options: Options) -> Planner:
    """Plan with evenload."""
    return lambda request: plan_map(request, options)


def by_the_engine(own: Any) -> Planner:
    """Plan with the engine's own policy: what a rank falls back on."""

    def plan(request: Request) -> Planned:
        import torch

        old = None if request.old is None else torch.from_numpy(request.old.copy())
        placed = own.rebalance_experts(
            torch.from_numpy(np.array(request.weight)), request.num_slots, request.num_groups,
            request.num_nodes, request.num_ranks, old,
        )  # fmt: skip
        return Planned(_array(placed).astype(np.int64))

    return plan


@dataclass(frozen=True, eq=False)
class Policy:
    """What plans on this rank.

    Parameters
    ----------
    planner : callable
        From a request to a map.
    options : Options
    name : str
        For the log and the ballot.
    """

    planner: Planner
    options: Options
    name: str

    def rebalance_experts(
        self,
        weight: Any,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_ranks: int,
        old_global_expert_indices: Any = None,
    ) -> Any:
        """Return the expert of each slot, as vLLM's ``AbstractEplbPolicy`` has it.

        Parameters
        ----------
        weight : torch.Tensor, [L, E]
            Tokens of each logical expert, summed over all ranks.
        num_replicas : int
            Slots S of a layer.
        num_groups, num_nodes, num_ranks : int
        old_global_expert_indices : torch.Tensor, [L, S'], optional
            What runs; -1 in slots of ranks that came, wider where ranks go.

        Returns
        -------
        torch.Tensor, int64 [L, S], on the CPU
            The old map where nothing can be planned, and where ranks do not agree.

        Raises
        ------
        BrokenContractError
            If the numbers do not divide.
        RuntimeError
            If other ranks do not compare their plans within `agree_timeout`.
        """
        import torch

        start = time.perf_counter()
        old = None if old_global_expert_indices is None else _array(old_global_expert_indices)
        try:
            request = Request(_array(weight), old, num_replicas, num_groups, num_nodes, num_ranks)
        except ValueError as error:
            raise BrokenContractError(str(error)) from None
        group = ranks(self.options)
        planned = self._plan(request, group is not None)
        planned = self._compared(request, planned, group)
        self._tell(planned, group, time.perf_counter() - start)
        return torch.from_numpy(planned.map)

    def _plan(self, request: Request, compared: bool) -> Planned:
        """Plan; what cannot be planned keeps the old map.

        A `ValueError` comes of what all ranks share. Anything else may have happened here alone:
        where ranks compare, that shows, and all keep the old map; else it must not pass unseen.
        """
        try:
            return self.planner(request)
        except Exception as error:
            if not compared and not isinstance(error, ValueError):
                raise
            return Planned(request.carried, kept=f"{type(error).__name__}: {error}")

    def _compared(self, request: Request, planned: Planned, group: Ranks | None) -> Planned:
        if group is None:
            return planned
        kept = request.carried
        settings = self.options.fingerprint if self.name == self.options.what_plans else b""
        ballot = Ballot(_digest(planned.map), _asked(request), digest(self.name.encode(), settings))
        placed, why = agreed(planned.map, kept, ballot, group.gather)
        return replace(planned, map=placed, kept=why, moves=0) if why else planned

    def _tell(self, planned: Planned, group: Ranks | None, seconds: float) -> None:
        first = group is None or group.rank == 0
        tell(self.name, planned, seconds, logger, first)


def _array(tensor: Any) -> Any:
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if tensor.dtype.is_floating_point else tensor
    return np.asarray(tensor)


def _digest(placed: Int) -> bytes:
    return digest(repr(placed.shape).encode(), np.ascontiguousarray(placed, "<i8").tobytes())


def _asked(request: Request) -> bytes:
    weight = np.ascontiguousarray(request.weight)
    old = b"" if request.old is None else np.ascontiguousarray(request.old, "<i8").tobytes()
    numbers = (request.num_slots, request.num_groups, request.num_nodes, request.num_ranks)
    return digest(repr((weight.shape, str(weight.dtype), numbers)).encode(), weight.tobytes(), old)
