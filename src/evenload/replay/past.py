"""What a policy is asked, and what it may know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evenload.checks import positive_int
from evenload.cluster import Cluster
from evenload.cost import CostModel
from evenload.placement import Placement


@dataclass(frozen=True, eq=False)
class Past:
    """All that is known when a policy has to decide.

    Parameters
    ----------
    load : float64 ndarray, [H, L, E], read-only
        Tokens of each expert in the last H windows, oldest first; H is the policy's `memory`, or
        fewer near the beginning, but at least 1.
    window : int
        Number of the next window, the first that the decision is for.
    asked : int
        How often the policy has been asked before in this replay.
    current : Placement
        What serves now.
    cluster : Cluster
    num_groups : int
        Groups of experts that routing keeps on one node; 1 where there are none.
    cost : CostModel
    interval : int
        Windows from this decision to the next.
    sample : float
        Part of the served tokens that the trace has recorded, in (0, 1].
    """

    load: NDArray[np.float64]
    window: int
    asked: int
    current: Placement
    cluster: Cluster
    num_groups: int
    cost: CostModel
    interval: int = 1
    sample: float = 1.0


class Policy(Protocol):
    """Decides from the past whether experts move, and where to.

    It should be deterministic and keep nothing from one call to the next: what it needs of the past
    is in `Past`.

    Attributes
    ----------
    name : str
        For tables.
    memory : int
        Windows that it wants to see, at least 1.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def memory(self) -> int: ...  # noqa: D102

    def decide(self, past: Past) -> Placement | None:
        """Return the placement to move to, or None to keep the current one."""
        ...


def check_policy(value: Any) -> Policy:
    """Return `value` if it has what a policy needs, or raise `ValueError`."""
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not callable(getattr(value, "decide", None)):
        raise ValueError(
            f"policy={value!r} is no policy; use a name, or an object with name, memory and decide"
        )
    positive_int(f"memory of the policy {name!r}", getattr(value, "memory", None))
    policy: Policy = value
    return policy
