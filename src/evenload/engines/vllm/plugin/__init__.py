"""evenload inside vLLM: the function behind the entry point ``vllm.general_plugins``.

vLLM calls it in every process that it starts, perhaps more than once. Unless the user asks for
evenload it looks at two environment variables and returns.
"""

from __future__ import annotations

from evenload.engines.common.options import is_asked_for


def register() -> None:
    """Install evenload as vLLM's policy ``"default"`` if `EVENLOAD_VLLM` or a file asks for it.

    Raises
    ------
    RuntimeError
        If the self-test fails and `EVENLOAD_ON_FAILURE` says ``raise``. Else vLLM's own policy
        stays then, inside a class that compares plans with the other ranks all the same.
    """
    if is_asked_for("vllm"):
        from evenload.engines.vllm.plugin.install import install

        install()
    if is_asked_for("vllm_ascend"):
        from evenload.engines.vllm_ascend.plugin import register as register_ascend

        register_ascend()
