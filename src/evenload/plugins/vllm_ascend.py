"""evenload inside vllm-ascend's own runner.

Written from its sources (2026) and tried on a stand-in only: it has never run on an NPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import to_numpy
from evenload.ballots import digest
from evenload.plugins import peers
from evenload.plugins.plan import Int, Request
from evenload.plugins.planner import Planner
from evenload.plugins.selftest import planner_for
from evenload.plugins.signature import what_differs

EPLB_GROUP = ("vllm_ascend.distributed.parallel_state", "get_dynamic_eplb_group")
logger = logging.getLogger("vllm.evenload")


def install() -> None:
    """Make vllm-ascend's ``PolicyFactory.generate_policy`` hand out evenload, for every type.

    Nothing happens where vllm-ascend is not installed or has no such function, which the log then
    says, and on a second call.
    """
    try:
        from vllm_ascend.eplb.core.policy.policy_factory import PolicyFactory
    except ImportError as error:
        logger.warning("evenload: vllm-ascend cannot be imported, so it is left alone: %s", error)
        return
    own = getattr(PolicyFactory, "generate_policy", None)
    differs = what_differs("PolicyFactory.generate_policy", own, generate_policy, 2)
    if differs or own is None:
        logger.warning("evenload: not installed, because %s; vllm-ascend's own policies stay; use "
                       "a release of evenload for this vllm-ascend", differs)  # fmt: skip
        return
    if getattr(own, "func", None) is not generate_policy:
        ours = partial(generate_policy, own, planner_for("vllm-ascend", logger))
        PolicyFactory.generate_policy = staticmethod(ours)


def generate_policy(own: Callable[..., Any], planner: Planner, *args: Any, **kwargs: Any) -> Any:
    """Return evenload if it plans alike on every rank, else the engine's own policy on all.

    The policy itself runs in a process beside each rank that no group reaches, so plans cannot be
    compared there. What can be is the ranks' settings and self-tests, in the ranks' own processes
    when each makes its policy; a rank that does not compare in time is a `RuntimeError`.
    """
    mine = digest(planner.policy)
    group = peers.of_coordinator(*EPLB_GROUP, planner.settings)
    ranks = [mine] if group is None else group.rounds()(mine)
    alike = all(theirs == mine for theirs in ranks)
    if not (alike or planner.failure):
        logger.error("evenload: ranks differ in options or self-test; the engine's own policy "
                     "stays on all of them")  # fmt: skip
    return EvenloadPolicy(planner) if alike and not planner.failure else own(*args, **kwargs)


class EvenloadPolicy:
    """What vllm-ascend asks for a placement, in a process of its own beside each rank.

    It can be pickled, since that process may be spawned.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.new_ep_size: int | None = None

    def set_new_ep_size(self, new_ep_size: int) -> None:
        """Plan the next time for another number of ranks, those of before first."""
        self.new_ep_size = int(new_ep_size)

    def rebalance_experts(
        self, current_expert_table: Any, expert_workload: Any
    ) -> tuple[int, Int, Any]:
        """Place the experts for the load of each slot.

        The table [L, R, K] has the expert in each slot of each rank, -1 in one that holds nothing;
        the workload its tokens, [L, R, K] or [T, L, R, K], whose windows are summed.

        Returns
        -------
        changed : int
            1 if any slot changes, else 0.
        priority : int64 ndarray, [L]
            Layers, those first in which most slots change.
        placement : int64, [L, R, K]
            Of the kind that the table is. A layer is the old one where anything is odd: slots that
            hold nothing, an expert twice on a rank, a load that says nothing. Else no expert is
            missing, none is twice on a rank, and one that stays on its rank stays in its slot.

        Raises
        ------
        ValueError
            If another number of ranks is asked for that has too few slots.
        """
        table, rewrap = to_numpy("current_expert_table", current_expert_table)
        load = _wide(to_numpy("expert_workload", expert_workload)[0])
        (L, R, _), ranks = table.shape, self.new_ep_size or table.shape[1]
        self.new_ep_size = None
        placed = self._plan(table, load.sum(axis=0) if load.ndim == 4 else load, ranks)
        differs = np.ones(L, np.int64)
        if ranks == R:
            _put_back_refused(placed, table)
            differs = (placed != table).sum(axis=(1, 2))
        order = np.argsort(-differs, kind="stable")
        return int(differs.any()), order, rewrap(placed)

    def _plan(self, table: Int, load: NDArray[Any], ranks: int) -> Int:
        L, R, K = table.shape
        old = table.reshape(L, R * K)
        try:
            request = Request(_by_expert(old, load)[None], old, ranks * K, ranks)
            placed = self.planner.rebalance(request, lambda: request.kept, None, logger)
        except ValueError as error:
            if ranks != R:
                raise
            logger.error("evenload: the old map stays: %s", error)
            return table.copy()
        return placed.reshape(L, ranks, K)


def _wide(load: NDArray[Any]) -> NDArray[Any]:
    """Return a load in which sums neither wrap nor round early: int64 or float64."""
    return load.astype(np.float64 if load.dtype.kind == "f" else np.int64, copy=False)


def _by_expert(old: Int, load: NDArray[Any]) -> NDArray[Any]:
    """Sum the load of all slots of each expert, [L, E]; a layer with a bad slot is all bad."""
    L, slots = old.shape
    flat = load[:, : slots // load.shape[2]].reshape(L, -1)
    weight = np.zeros((L, int(old.max()) + 1), flat.dtype)
    layer, slot = np.nonzero(old >= 0)
    np.add.at(weight, (layer, old[layer, slot]), flat[layer, slot])
    weight[(flat < 0).any(axis=1)] = -1
    return weight


def _put_back_refused(placed: Int, table: Int) -> None:
    """Undo, in place, the layers that vllm-ascend would refuse, or that had empty slots."""
    for layer, (new, old) in enumerate(zip(placed, table, strict=True)):
        twice = (np.diff(np.sort(new, axis=1), axis=1) == 0).any()
        stays = (new[:, :, None] == old[:, None, :]).any(axis=2)
        missing = np.setdiff1d(old, new).size > 0
        if twice or missing or (new != old)[stays].any() or (old < 0).any():
            placed[layer] = table[layer]
