"""Planning, timed apart from loading or compiling the kernels that it needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evenload.cli.screen import busy, say

if TYPE_CHECKING:
    from evenload.cluster import Cluster
    from evenload.plan import Plan


def make_ready(load: Any, cluster: Cluster, num_groups: int, solvers: Sequence[str]) -> None:
    """Plan once with each solver, so that every kernel this problem needs is loaded.

    Says on stderr how long that took: it is much where kernels have to be compiled, once.
    """
    started = time.perf_counter()
    with busy("loading kernels (compiling them takes a while, once)"):
        from evenload.planner import solve

        for solver in solvers:
            solve(load, cluster, num_groups=num_groups, solver=solver)
    say(f"kernels ready in {time.perf_counter() - started:.2f} s")


def timed_plan(load: Any, cluster: Cluster, num_groups: int, solver: str) -> tuple[Plan, float]:
    """Return the plan and the milliseconds that it took.

    Parameters
    ----------
    load : float64 ndarray, [L, E]
    cluster : Cluster
    num_groups : int
    solver : str

    Raises
    ------
    ValueError
        As `evenload.solve`.
    """
    from evenload.planner import solve

    with busy("planning"):
        started = time.perf_counter()
        plan = solve(load, cluster, num_groups=num_groups, solver=solver)
        return plan, (time.perf_counter() - started) * 1e3
