"""From a trace and a policy to what would have happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload import solve
from evenload.arrays import keep_numpy
from evenload.checks import positive_int
from evenload.cluster import Cluster, check_cluster, check_groups
from evenload.cost import CostModel, check_sample
from evenload.placement import Placement, check_same
from evenload.problem import Problem
from evenload.replay.course import Course
from evenload.replay.policies import Policy, check_policy, get_policy
from evenload.replay.results import Replay
from evenload.solvers import get_solver
from evenload.trace import Trace, check_trace

Planner: TypeAlias = Callable[[NDArray[np.float64]], Placement]
Oracle: TypeAlias = str | Planner | None
Progress: TypeAlias = Callable[[int, int], object]


def replay(
    trace: Any,
    cluster: Cluster,
    policy: str | Policy,
    *,
    window: int = 1,
    interval: int = 1,
    warm_start: int = 1,
    cost: CostModel | None = None,
    start: Placement | None = None,
    num_groups: int = 1,
    oracle: Oracle = "fast",
    sample: float = 1.0,
    delay: bool = True,
    keep_placements: bool = True,
    progress: Progress | None = None,
) -> Replay:
    """Run a policy over a trace, as if it had happened.

    Before each `interval` windows the policy is shown the past and decides; what follows is served
    with its placement. While experts are on their way, each layer is served from its old place
    until all of it has arrived, layer after layer; the policy is not asked again before the last.

    Parameters
    ----------
    trace : Trace or array_like, [T, L, E]
        Tokens routed to each expert, window by window.
    cluster : Cluster
    policy : str or Policy
        See `get_policy` for the names.
    window : int, default 1
        Recorded windows that are summed into one; the following count these.
    interval : int, default 1
        Windows from one decision to the next.
    warm_start : int, default 1
        Windows seen before the first is served, at least 1.
    cost : CostModel, optional
        Default: ``CostModel()``, DeepSeek-V3's experts on H100s.
    start : Placement, optional
        What serves at first. Default: ``Placement.trivial``, experts in order.
    num_groups : int, default 1
        Groups of experts that routing keeps on one node, for planners.
    oracle : str, callable or None, default "fast"
        Who plans each window on itself: local search to 0.9995, a solver by name, or a function
        from a load to a placement; None leaves it out.
    sample : float, default 1.0
        Part of the served tokens that the trace has recorded, above 0 and at most 1: all seconds of
        computing are divided by it.
    delay : bool, default True
        False: moves take effect at once (and still cost what they cost), to judge plans alone.
    keep_placements : bool, default True
        False keeps the last only, for long replays with many rebalances.
    progress : callable, optional
        Called with the number of windows done and of all.

    Returns
    -------
    Replay
        The same input gives the same, but for `plan_seconds`, which the clock measures.

    Raises
    ------
    ValueError
        If the trace has a gap or a number that is no load, `window` is longer than it, no window is
        left to be served, a number is below 1, a policy, solver or oracle is unknown, or the start
        or what the policy returns is no placement of this model on this cluster.

    Examples
    --------
    >>> load = [[[6, 4, 1, 3]], [[6, 4, 1, 3]], [[3, 6, 1, 4]]]
    >>> replay(load, Cluster(2, slots_per_gpu=2), "never", delay=False)
    <Replay of never: 2 windows, balancedness 0.7389, 0 rebalances, 0 moves>
    >>> replay(load, Cluster(2, slots_per_gpu=2), "once:greedy", delay=False)
    <Replay of once:greedy: 2 windows, balancedness 0.8500, 1 rebalances, 2 moves>
    """
    recorded = check_trace(trace)
    windows = recorded.merged(window)
    first = check_warm_start(warm_start, windows)
    chosen = get_policy(policy) if isinstance(policy, str) else check_policy(policy)
    costs = check_cost(cost)
    settings = {
        "source": windows.source,
        "shape": list(recorded.shape),
        "policy": chosen.name,
        "cluster": {**check_cluster(cluster).arguments, "num_slots": cluster.num_slots},
        "window": positive_int("window", window),
        "interval": positive_int("interval", interval),
        "warm_start": first,
        "num_groups": check_groups(num_groups, windows.num_experts),
        "oracle": oracle if oracle is None or isinstance(oracle, str) else "given function",
        "start": "trivial" if start is None else "given",
        "sample": check_sample(sample),
        "delay": bool(delay),
        "cost": asdict(costs),
    }
    place = Placement.trivial(windows.num_layers, windows.num_experts, cluster)
    if start is not None:
        check_same(start, place, "start")
        place = start.rewrapped(keep_numpy)
    best = make_oracle(oracle, cluster, num_groups)
    served = windows.num_windows - first
    course = Course(chosen, cluster, costs, place, settings, served, keep_placements)
    for t in range(windows.num_windows):
        if t >= first and (t - first) % interval == 0:
            course.decide(t)
        load = windows.window(t)
        if t >= first:
            course.serve(t, load, best)
            if progress is not None:
                progress(t - first + 1, served)
        course.seen.append(load)
    return course.finish(windows.notes)


def make_oracle(oracle: Any, cluster: Cluster, num_groups: int) -> Planner | None:
    """Return what plans a window on itself; `oracle` as in `replay`.

    ``"fast"`` is local search up to 0.9995 of the best, for a fifth of the time that the last bit
    takes; where GPUs differ, the joint search, briefly.

    Raises
    ------
    ValueError
        For an unknown solver, or what is no oracle.
    """
    if oracle is None or callable(oracle):
        return oracle  # type: ignore[no-any-return]
    if not isinstance(oracle, str):
        raise ValueError(
            f"oracle={oracle!r} is no oracle; use 'fast', a solver's name, a function or None"
        )
    if oracle == "auto":
        return lambda load: solve(load, cluster, num_groups=num_groups).placement
    options: dict[str, Any] = {}
    if oracle == "fast" and cluster.gpus_are_equal:
        oracle, options = "local-search", {"target": 0.9995}
    elif oracle == "fast":
        oracle, options = "joint", {"effort": "fast"}
    solver = get_solver(oracle)

    def plan(load: NDArray[np.float64]) -> Placement:
        answer = solver(Problem.build(load, cluster, num_groups), **options)
        return answer if isinstance(answer, Placement) else answer.placement

    return plan


def check_warm_start(warm_start: Any, windows: Trace) -> int:
    """Return the first window to serve, or raise `ValueError` if none is left."""
    first = positive_int("warm_start", warm_start)
    if windows.num_windows == 1:
        raise ValueError(
            "the trace has 1 window, and after warm_start=1 none is left to serve; use a shorter "
            "window or a longer trace"
        )
    if first >= windows.num_windows:
        raise ValueError(
            f"warm_start={first} leaves none of the trace's {windows.num_windows} windows to "
            f"serve; use {windows.num_windows - 1}"
        )
    return first


def check_cost(cost: Any) -> CostModel:
    """Return `cost`, the default for None, or raise `ValueError`."""
    if cost is None:
        return CostModel()
    if not isinstance(cost, CostModel):
        raise ValueError(f"cost={cost!r} is not a CostModel; use e.g. CostModel.preset('h100-ib')")
    return cost
