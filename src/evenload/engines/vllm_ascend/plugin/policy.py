"""One rebalance inside vllm-ascend's own runner."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.engines.common.carried import Int
from evenload.engines.common.log import tell
from evenload.engines.common.options import Options
from evenload.engines.common.plan_map import Planned, Request, plan_map

logger = logging.getLogger("vllm.evenload")


class EvenloadPolicy:
    """What vllm-ascend asks for a placement, in a process of its own beside each rank.

    It can be pickled, since that process may be spawned. The ranks' processes have no group there,
    so plans are not compared.

    Parameters
    ----------
    options : Options
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.new_ep_size: int | None = None

    def set_new_ep_size(self, new_ep_size: int) -> None:
        """Plan the next time for another number of ranks, those of before first."""
        self.new_ep_size = int(new_ep_size)

    def rebalance_experts(
        self, current_expert_table: Any, expert_workload: Any
    ) -> tuple[int, Int, Any]:
        """Place the experts for the load of each slot.

        Parameters
        ----------
        current_expert_table : torch.Tensor or ndarray, [L, R, K]
            Expert in each slot of each rank; -1 in one that holds nothing.
        expert_workload : torch.Tensor or ndarray, [L, R, K] or [T, L, R, K]
            Tokens of each slot, the windows of a trace are summed.

        Returns
        -------
        changed : int
            1 if any slot changes, else 0.
        priority : int64 ndarray, [L]
            Layers, those first in which most slots change.
        placement : torch.Tensor or ndarray, int64 [L, R, K]
            Of the kind that the table is. A layer is the old one where anything is odd: slots that
            hold nothing, an expert twice on a rank, a load that says nothing. Else no expert is
            missing, none is twice on a rank, and one that stays on its rank stays in its slot.
        """
        start = time.perf_counter()
        table, load = _array(current_expert_table), _array(expert_workload)
        ranks, self.new_ep_size = self.new_ep_size or table.shape[1], None
        planned = self._plan(table, load.sum(axis=0) if load.ndim == 4 else load, ranks)
        tell(self.options.solver, planned, time.perf_counter() - start, logger, True)
        placed = planned.map.reshape(len(table), ranks, -1)
        differs = np.ones(len(table), np.int64)
        if placed.shape == table.shape:
            differs = (placed != table).sum(axis=(1, 2))
        order = np.argsort(-differs, kind="stable")
        return int(differs.any()), order, _like(placed, current_expert_table)

    def _plan(self, table: Int, load: NDArray[Any], ranks: int) -> Planned:
        L, R, K = table.shape
        old = table.reshape(L, R * K)
        try:
            request = Request(_by_expert(old, load), old, ranks * K, 1, 1, ranks)
            planned = plan_map(request, self.options)
        except ValueError as error:
            if ranks != R:
                raise
            return Planned(old.copy(), kept=f"{type(error).__name__}: {error}")
        if ranks == R:
            _put_back_refused(planned.map.reshape(table.shape), table)
        return planned


def _by_expert(old: Int, load: NDArray[Any]) -> NDArray[Any]:
    """Sum the load of all slots of each expert, [L, E]; a layer with a bad slot is all bad."""
    L, slots = old.shape
    flat = load[:, : slots // load.shape[2]].reshape(L, -1)
    experts = int(old.max()) + 1
    weight = np.zeros((L, experts), flat.dtype)
    filled = old >= 0
    layer = np.broadcast_to(np.arange(L)[:, None], old.shape)
    np.add.at(weight, (layer[filled], old[filled]), flat[filled])
    weight[(flat < 0).any(axis=1)] = -1
    return weight


def _put_back_refused(placed: NDArray[Any], table: NDArray[Any]) -> None:
    """Undo, in place, the layers that vllm-ascend would refuse, or that had empty slots."""
    for layer, (new, old) in enumerate(zip(placed, table, strict=True)):
        twice = (np.diff(np.sort(new, axis=1), axis=1) == 0).any()
        stays = (new[:, :, None] == old[:, None, :]).any(axis=2)
        missing = np.setdiff1d(old, new).size > 0
        if twice or missing or (new != old)[stays].any() or (old < 0).any():
            placed[layer] = table[layer]


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _like(placed: Int, table: Any) -> Any:
    if not hasattr(table, "detach"):
        return placed
    import torch

    return torch.from_numpy(placed).to(table.device)
