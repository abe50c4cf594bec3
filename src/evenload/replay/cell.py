"""One replay of a sweep."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evenload.checks import positive_int
from evenload.cluster import Cluster
from evenload.replay.policies import get_policy
from evenload.replay.run import replay
from evenload.trace import Trace


@dataclass(frozen=True)
class Cell:
    """Where a sweep's replays differ.

    Parameters
    ----------
    policy : str
    gpus, nodes, slots : int
    window, interval : int
    """

    policy: str
    gpus: int
    nodes: int
    slots: int
    window: int
    interval: int

    @property
    def cluster(self) -> Cluster:
        """The cluster that it is about."""
        return Cluster(self.gpus, self.nodes, num_slots=self.slots)


def _numbers(name: str, values: Any) -> list[int]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        values = [values]
    numbers = [positive_int(name, value) for value in values]
    if not numbers:
        raise ValueError(f"{name} is empty; use one number or more")
    return list(dict.fromkeys(numbers))


def grid(
    trace: Trace,
    policies: Sequence[str],
    gpus: Any,
    slots: Any,
    windows: Any,
    intervals: Any,
    gpus_per_node: int | None,
) -> list[Cell]:
    """Return every combination, checked; policies vary fastest.

    Raises
    ------
    ValueError
        For an unknown policy, a number below 1, GPUs that do not fill their nodes, fewer slots than
        experts or GPUs, or a window that leaves nothing to serve.
    """
    names = [policies] if isinstance(policies, str) else list(policies)
    for name in names:
        get_policy(name)
    if not names:
        raise ValueError("policies is empty; use one or more")
    cells = []
    for G, S, window, interval in itertools.product(
        _numbers("gpus", gpus),
        _numbers("slots", slots),
        _numbers("windows", windows),
        _numbers("intervals", intervals),
    ):
        trace.merged(window)
        nodes = _nodes(G, gpus_per_node)
        Cluster(G, nodes, num_slots=S).check_holds(trace.num_experts, "slots")
        cells += [Cell(name, G, nodes, S, window, interval) for name in dict.fromkeys(names)]
    return cells


def _nodes(gpus: int, gpus_per_node: int | None) -> int:
    if gpus_per_node is None:
        return 1
    each = positive_int("gpus_per_node", gpus_per_node)
    if gpus > each and gpus % each:
        raise ValueError(
            f"gpus={gpus} is not a multiple of gpus_per_node={each}; "
            f"use {gpus // each * each} or {(gpus // each + 1) * each}"
        )
    return max(gpus // each, 1)


def run_cell(trace: Trace, cell: Cell, how: dict[str, Any]) -> dict[str, Any]:
    """Replay one cell and return its figures; what workers run."""
    result = replay(
        trace,
        cell.cluster,
        cell.policy,
        window=cell.window,
        interval=cell.interval,
        keep_placements=False,
        **how,
    )
    return result.figures()
