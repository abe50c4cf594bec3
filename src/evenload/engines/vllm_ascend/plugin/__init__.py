"""evenload inside vllm-ascend's own runner.

Written from its sources (2026) and tried on a stand-in only: it has never run on an NPU.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("vllm.evenload")


def register() -> None:
    """Make vllm-ascend's ``PolicyFactory.generate_policy`` hand out evenload, for every type.

    Nothing happens where vllm-ascend is not installed, and on a second call. Where the self-test
    fails on any rank, all keep the engine's own policies, see `factory.Factory`.

    Raises
    ------
    RuntimeError
        If the self-test fails and `EVENLOAD_ON_FAILURE` says ``raise``.
    """
    from evenload.engines.common.settle import settle
    from evenload.engines.vllm_ascend.plugin.factory import Factory

    try:
        from vllm_ascend.eplb.core.policy.policy_factory import PolicyFactory
    except ImportError as error:
        logger.warning("evenload: vllm-ascend cannot be imported, so it is left alone: %s", error)
        return
    own = PolicyFactory.generate_policy
    if not isinstance(own, Factory):
        PolicyFactory.generate_policy = Factory(own, settle("vllm-ascend", logger))
