"""evenload: decides on which GPU every expert of a Mixture-of-Experts model lives.

Names load when first used, so that ``import evenload`` costs a few milliseconds and never pulls in
Numba or torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evenload.ahead import warmup
    from evenload.cluster import Cluster
    from evenload.cost import CostModel
    from evenload.io import read_trace
    from evenload.placement import Placement
    from evenload.plan import Plan
    from evenload.planner import solve
    from evenload.trace import Trace

__version__ = "0.2.0"

__all__ = ["Cluster", "CostModel", "Placement", "Plan", "Trace", "read_trace", "solve", "warmup"]

_HOME = {
    "Cluster": "evenload.cluster",
    "CostModel": "evenload.cost",
    "Placement": "evenload.placement",
    "Plan": "evenload.plan",
    "Trace": "evenload.trace",
    "read_trace": "evenload.io",
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
