"""evenload inside vLLM: the function behind the entry point ``vllm.general_plugins``.

vLLM calls it in every process that it starts, perhaps more than once. Unless the user asks for
evenload it looks at two environment variables and returns.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from evenload.plugins.settings import PREFIX, is_asked_for
from evenload.plugins.signature import what_differs

if TYPE_CHECKING:
    from evenload.plugins.planner import Planner

NAME = "default"  # the only policy that vLLM's configuration lets through
# vLLM makes this group on every rank or on none, and runs the policy on every member of it, in the
# same order as all else that uses it.
EPLB_GROUP = ("vllm.distributed.parallel_state", "get_eplb_group")
# vLLM's own knob: the prefixes, beside its fixed ones, of variables that it copies to Ray's actors.
RAY_PREFIXES = "VLLM_RAY_EXTRA_ENV_VAR_PREFIXES_TO_COPY"
logger = logging.getLogger("vllm.evenload")


class BrokenContractError(AssertionError, ValueError):
    """Numbers that no policy can plan with; vLLM's own policy asserts them."""


def register() -> None:
    """Install evenload as vLLM's policy ``"default"`` if `EVENLOAD_VLLM` or a file asks for it.

    Called again it does nothing. Where this release's policies take other arguments than those
    that evenload knows, vLLM's own stays, and a warning names them.

    Raises
    ------
    RuntimeError
        If the self-test fails and `EVENLOAD_ON_FAILURE` says ``raise``. Else vLLM's own policy
        stays then, inside a class that compares plans with the other ranks all the same.
    """
    if is_asked_for("vllm"):
        carry_settings()
        _install()
    if is_asked_for("vllm_ascend"):
        from evenload.plugins import vllm_ascend

        carry_settings()
        vllm_ascend.install()


def carry_settings() -> None:
    """Make vLLM copy ``EVENLOAD_*`` to the engines that Ray starts, which it would not by itself.

    They are those of ``--data-parallel-backend ray``, which get variables with certain prefixes
    only. vLLM reads the knob when it starts them, after its plug-ins were loaded.
    """
    said = [prefix.strip() for prefix in os.environ.get(RAY_PREFIXES, "").split(",")]
    if PREFIX not in said:
        os.environ[RAY_PREFIXES] = ",".join([*filter(None, said), PREFIX])
        logger.info("evenload: %s added to %s, so that Ray's engines get the same settings",
                    PREFIX, RAY_PREFIXES)  # fmt: skip


def _install() -> None:
    try:
        from vllm.distributed.eplb.policy import EPLB_POLICIES, AbstractEplbPolicy

        own: Any = EPLB_POLICIES[NAME]
    except (ImportError, KeyError) as error:
        logger.warning("evenload: vLLM's own policy stays, since this release has %s", error)
        return
    if getattr(own, "policy", None) is not None:
        return
    for policy in (AbstractEplbPolicy, own):
        name = f"{policy.__name__}.rebalance_experts"
        function = getattr(policy, "rebalance_experts", None)
        differs = what_differs(name, function, rebalance, 2)
        if differs:
            logger.warning("evenload: not installed, because %s; vLLM's own policy stays; use a "
                           "release of evenload for this vLLM", differs)  # fmt: skip
            return
    from evenload.plugins import moved
    from evenload.plugins.selftest import planner_for

    planner = planner_for("vLLM", logger)

    class EvenloadPolicy(AbstractEplbPolicy):  # type: ignore[misc]
        """What vLLM calls."""

        policy = planner

        @classmethod
        def rebalance_experts(cls, *args: Any, **kwargs: Any) -> Any:
            return rebalance(planner, own, *args, **kwargs)

    EPLB_POLICIES[NAME] = EvenloadPolicy
    moved.watch_vllm()
    if planner.settings.verify:
        from evenload.plugins import verify

        verify.install(planner.settings.verify == "all", planner.stop)


def rebalance(
    planner: Planner, own: Any, weight: Any, num_replicas: int, num_groups: int, num_nodes: int,
    num_ranks: int, old_global_expert_indices: Any = None,
) -> Any:  # fmt: skip
    """Return the expert of each slot, int64 [L, S] on the CPU, as vLLM's policies have it.

    It is the old map where nothing can be planned, and where ranks do not agree. The weights [L, E]
    are the tokens of each logical expert, summed over all ranks; the old indices [L, S'] are what
    runs, -1 in slots of ranks that came, wider where ranks go.

    Raises
    ------
    BrokenContractError
        If the numbers do not divide.
    PlacementMismatchError
        If a placement planned ahead is of another shape. vLLM's profiling run calls the policy of
        every model before serving, so that the engine does not start then.
    LateError
        If other ranks do not compare their plans within `agree_timeout`, before serving.
    """
    import torch

    from evenload.arrays import to_numpy
    from evenload.plugins import moved, peers
    from evenload.plugins.plan import Request

    windows, old = to_numpy("weight", weight)[0][None], old_global_expert_indices
    current = None if old is None else to_numpy("old_global_expert_indices", old)[0]
    try:
        request = Request(windows, current, num_replicas, num_ranks, num_nodes, num_groups)
    except ValueError as error:
        if planner.serving and current is not None and current.shape[1] == num_replicas:
            logger.error("evenload: the old map stays: %s", error)
            return torch.from_numpy(current)
        raise BrokenContractError(str(error)) from None

    def by_vllm() -> Any:
        numbers = (num_replicas, num_groups, num_nodes, num_ranks)
        return own.rebalance_experts(weight, *numbers, old).cpu().long().numpy()

    group = peers.of_coordinator(*EPLB_GROUP, planner.settings)
    compare, first = (None, True) if group is None else (group.rounds(), group.rank == 0)
    model = moved.model_of(*windows.shape[1:])
    name = model.name if model else ""
    placed = planner.rebalance(request, by_vllm, compare, logger, first, name)
    if model and first and current is not None:
        model.moved(planner.engine, current, placed, num_ranks, bool(request.sound.any()))
    return torch.from_numpy(placed)
