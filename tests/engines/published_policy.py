"""Run vLLM's published tests of its policy against ours: a plug-in of pytest.

The tests import ``DefaultEplbPolicy``; it is ours by the time they do. What they call beside
`rebalance_experts` is vLLM's, and stays so.
"""

from __future__ import annotations


def pytest_configure() -> None:
    """Register evenload as vLLM does, and give its class the name that the tests import."""
    from vllm.distributed.eplb.policy import EPLB_POLICIES, default
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    installed = EPLB_POLICIES["default"]
    assert installed.policy.name, "evenload was not installed"

    class Ours(installed):
        preserve_intragpu_slots = default.DefaultEplbPolicy.preserve_intragpu_slots

    default.DefaultEplbPolicy = Ours
