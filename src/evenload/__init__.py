"""evenload: decides on which GPU every expert of a Mixture-of-Experts model lives.

Names load when first used, so that ``import evenload`` costs a few milliseconds and never pulls in
Numba or torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evenload.ahead import warmup
    from evenload.cluster import Cluster
    from evenload.placement import Placement
    from evenload.plan import Plan
    from evenload.planner import solve

__version__ = "0.1.0"

__all__ = ["Cluster", "Placement", "Plan", "solve", "warmup"]

_HOME = {
    "Cluster": "evenload.cluster",
    "Placement": "evenload.placement",
    "Plan": "evenload.plan",
    "solve": "evenload.planner",
    "warmup": "evenload.ahead",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in ("eplb", "synth"):
        return import_module(f"evenload.{name}")
    raise AttributeError(f"module 'evenload' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, "eplb", "synth"])
