"""Decide which policy a process of vLLM runs, and put it where vLLM looks it up."""

from __future__ import annotations

import logging
from typing import Any

from evenload.engines.common.settle import Settled, settle
from evenload.engines.vllm.plugin.policy import Policy, by_evenload, by_the_engine

NAME = "default"  # the only one that vLLM's configuration lets through
logger = logging.getLogger("vllm.evenload")


def install() -> None:
    """Put evenload, or on failure vLLM's own policy that compares, in ``EPLB_POLICIES``.

    Called again it does nothing.

    Raises
    ------
    RuntimeError
        If the self-test fails and the user wants the engine not to start then.
    """
    try:
        from vllm.distributed.eplb.policy import EPLB_POLICIES, AbstractEplbPolicy

        own: Any = EPLB_POLICIES[NAME]
    except (ImportError, KeyError) as error:
        logger.warning("evenload: vLLM's own policy stays, since this release has %s", error)
        return
    if getattr(own, "policy", None) is not None:
        return
    policy = _policy(settle("vLLM", logger), own)

    class EvenloadPolicy(AbstractEplbPolicy):  # type: ignore[misc]
        """What vLLM calls; all is in `policy`."""

        @classmethod
        def rebalance_experts(cls, *args: Any, **kwargs: Any) -> Any:
            return policy.rebalance_experts(*args, **kwargs)

    EvenloadPolicy.policy = policy
    EPLB_POLICIES[NAME] = EvenloadPolicy


def _policy(settled: Settled, own: Any) -> Policy:
    if settled.fallen_back:
        return Policy(by_the_engine(own), settled.options, f"vLLM's {own.__name__}")
    return Policy(by_evenload(settled.options), settled.options, settled.options.what_plans)
