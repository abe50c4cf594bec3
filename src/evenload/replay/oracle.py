"""The best that is known of a window, had it been known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload.cluster import Cluster
from evenload.placement import Placement
from evenload.planner import solve
from evenload.problem import Problem
from evenload.solvers import get_solver

Float = NDArray[np.float64]

Oracle: TypeAlias = str | Callable[[Float], Placement] | None

# Near the best, for a fifth of the time that the last bit takes.
FAST: dict[str, Any] = {"target": 0.9995}


def make_oracle(
    oracle: Any, cluster: Cluster, num_groups: int
) -> Callable[[Float], Placement] | None:
    """Return what plans a window on itself.

    Parameters
    ----------
    oracle : str, callable or None
        ``"fast"`` for local search up to 0.9995 (where GPUs differ: the joint search, briefly), the
        name of a solver or ``"auto"``, or a function from a load [L, E] to a placement; None for
        none.
    cluster : Cluster
    num_groups : int

    Raises
    ------
    ValueError
        For an unknown solver, or anything else.
    """
    if oracle is None:
        return None
    if callable(oracle):
        given: Callable[[Float], Placement] = oracle
        return given
    if not isinstance(oracle, str):
        raise ValueError(
            f"oracle={oracle!r} is no oracle; use 'fast', a solver's name, a function or None"
        )
    if oracle == "auto":
        return lambda load: solve(load, cluster, num_groups=num_groups).placement
    name, options = (oracle, {}) if oracle != "fast" else _fast(cluster)
    solver = get_solver(name)

    def plan(load: Float) -> Placement:
        answer = solver(Problem.build(load, cluster, num_groups), **options)
        return answer if isinstance(answer, Placement) else answer.placement

    return plan


def _fast(cluster: Cluster) -> tuple[str, dict[str, Any]]:
    return ("local-search", FAST) if cluster.gpus_are_equal else ("joint", {"effort": "fast"})
