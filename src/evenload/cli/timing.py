"""Planning, timed apart from loading or compiling the kernels that it needs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from evenload.cli.screen import busy, say

if TYPE_CHECKING:
    from evenload.cluster import Cluster
    from evenload.plan import Plan
    from evenload.redundancy import Redundancy


def make_ready(load: Any, cluster: Cluster, **how: Any) -> None:
    """Plan once, so that every kernel this problem needs is loaded.

    Says on stderr how long that took: it is much where kernels have to be compiled, once. `how` are
    further arguments of `evenload.solve`.
    """
    started = time.perf_counter()
    with busy("loading kernels (compiling them takes a while, once)"):
        from evenload.planner import solve

        solve(load, cluster, **how)
    say(f"kernels ready in {time.perf_counter() - started:.2f} s")


def timed_plan(load: Any, cluster: Cluster, **how: Any) -> tuple[Plan, float]:
    """Return the plan and the milliseconds that it took.

    Parameters
    ----------
    load : float64 ndarray, [L, E]
    cluster : Cluster
    **how
        Further arguments of `evenload.solve`.

    Raises
    ------
    ValueError
        As `evenload.solve`.
    """
    from evenload.planner import solve

    with busy("planning"):
        started = time.perf_counter()
        plan = solve(load, cluster, **how)
        return plan, (time.perf_counter() - started) * 1e3


def find_redundancy(load: Any, gpus: int, nodes: int, **how: Any) -> Redundancy:
    """Return the fewest slots that reach a balance; say on stderr how long it took.

    Parameters
    ----------
    load : float64 ndarray, [L, E]
    gpus, nodes : int
    **how
        Further arguments of `evenload.redundancy.smallest_redundancy`.

    Raises
    ------
    ValueError
        As `evenload.redundancy.smallest_redundancy`.
    """
    started = time.perf_counter()
    with busy("looking for the fewest slots") as tell:
        from evenload.redundancy import smallest_redundancy

        found = smallest_redundancy(load, gpus, nodes, say=tell, **how)
    tried = found.num_tried
    say(
        f"tried {tried} number{'s' if tried > 1 else ''} of slots in "
        f"{time.perf_counter() - started:.2f} s, loading kernels included"
    )
    return found
