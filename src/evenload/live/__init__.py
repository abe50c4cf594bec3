"""Move real experts on torch.distributed while they serve, and survive the death of any rank.

For whoever writes an engine or a trainer (extra ``live``). A `Balancer` runs on every rank; the
protocol is told in ``docs/explanation/live.md``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evenload.live.balancer import Balancer
    from evenload.live.membership import FencedError, Membership
    from evenload.live.policy import Policy
    from evenload.live.report import Report

__all__ = ["Balancer", "FencedError", "Membership", "Policy", "Report"]

_HOME = {
    "Balancer": "balancer",
    "FencedError": "membership",
    "Membership": "membership",
    "Policy": "policy",
    "Report": "report",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"evenload.live.{_HOME[name]}"), name)
    raise AttributeError(f"module 'evenload.live' has no attribute {name!r}")
