"""From a trace and a policy to what would have happened."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import keep_numpy
from evenload.checks import positive_int
from evenload.cluster import Cluster, check_cluster, check_groups
from evenload.cost import CostModel
from evenload.cost.model import check_sample
from evenload.moves import check_same
from evenload.placement import Placement
from evenload.replay.log import Log
from evenload.replay.oracle import Oracle, make_oracle
from evenload.replay.past import Past, Policy, check_policy
from evenload.replay.policies import get_policy
from evenload.replay.result import Replay
from evenload.replay.serve import Migration
from evenload.trace import Trace, check_trace

Float = NDArray[np.float64]
Progress = Callable[[int, int], object]


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
    course = _Course(
        windows, check_cluster(cluster), chosen, positive_int("interval", interval),
        check_cost(cost), check_groups(num_groups, windows.num_experts), check_sample(sample),
        bool(delay), start,
    )  # fmt: skip
    plan = make_oracle(oracle, cluster, num_groups)
    served = windows.num_windows - first
    log = Log(served, -(-served // course.interval), course.current, keep_placements)
    for t in range(windows.num_windows):
        if t >= first:
            course.decide(t, first, log)
        load = windows.window(t)
        if t >= first:
            course.serve(t, load, plan, log)
            if progress is not None:
                progress(t - first + 1, served)
        course.remember(load)
    settings = {
        "source": windows.source,
        "shape": list(recorded.shape),
        "policy": chosen.name,
        "cluster": {**course.cluster.arguments, "num_slots": course.cluster.num_slots},
        "window": positive_int("window", window),
        "interval": course.interval,
        "warm_start": first,
        "num_groups": course.num_groups,
        "oracle": oracle if oracle is None or isinstance(oracle, str) else "given function",
        "start": "trivial" if start is None else "given",
        "sample": course.sample,
        "delay": course.delay,
        "cost": asdict(course.cost),
    }
    return log.finish(chosen.name, course.cluster, settings, windows.notes)


class _Course:
    """The state of a replay: what serves, what was seen, what is on its way."""

    def __init__(
        self,
        windows: Trace,
        cluster: Cluster,
        policy: Policy,
        interval: int,
        cost: CostModel,
        num_groups: int,
        sample: float,
        delay: bool,
        start: Placement | None,
    ) -> None:
        self.cluster, self.policy, self.interval, self.cost = cluster, policy, interval, cost
        self.num_groups, self.sample, self.delay = num_groups, sample, delay
        trivial = Placement.trivial(windows.num_layers, windows.num_experts, cluster)
        if start is not None:
            check_same(start, trivial, "start")
        self.current = trivial if start is None else start.rewrapped(keep_numpy)
        self.before: Placement | None = None
        self.migration: Migration | None = None
        self.seen: deque[Float] = deque(maxlen=policy.memory)

    def remember(self, load: Float) -> None:
        """Add a window to what the policy may see."""
        self.seen.append(load)

    def decide(self, t: int, first: int, log: Log) -> None:
        """Ask the policy before window t, where it is time to."""
        if (t - first) % self.interval:
            return
        if self.migration is not None:
            log.put_off += 1
            return
        started = time.perf_counter()
        wanted = self.policy.decide(self._past(t, log.asked))
        log.ask(time.perf_counter() - started)
        if wanted is None:
            return
        name = f"what the policy {self.policy.name!r} returned"
        check_same(wanted, self.current, name)
        if wanted != self.current:
            self._move_to(wanted.rewrapped(keep_numpy), t, log)

    def _past(self, t: int, asked: int) -> Past:
        load = np.stack(self.seen)
        load.setflags(write=False)
        return Past(
            load, t, asked, self.current, self.cluster, self.num_groups, self.cost,
            self.interval, self.sample,
        )  # fmt: skip

    def _move_to(self, placement: Placement, t: int, log: Log) -> None:
        schedule = self.cost.schedule(self.current, placement)
        log.rebalance(t, placement, schedule, self.cost.move_seconds(schedule))
        self.before, self.current = self.current, placement
        due = self.cost.overlap * schedule.finished
        if self.delay and due[-1] > 0.0:
            self.migration = Migration(self.before, due)

    def serve(
        self, t: int, load: Float, plan: Callable[[Float], Placement] | None, log: Log
    ) -> None:
        """Serve a window, and write down how that went."""
        tokens = self.cost.tokens_per_second * self.sample
        mean = load.sum(axis=1) / self.cluster.capacity.sum() / tokens
        reached = self.current.balancedness(load)
        kept = reached if self.before is None else self.before.balancedness(load)
        if self.migration is not None:
            reached = self.migration.serve(mean, kept, reached)
            if self.migration.done:
                self.migration = None
        best = np.full(len(load), np.nan)
        if plan is not None:
            # Whatever serves is a plan too, and the search need not have found as good a one.
            known = plan(load).rewrapped(keep_numpy).balancedness(load)
            best = np.maximum(np.maximum(known, kept), reached)
        log.window(t, reached, kept, best, mean)


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
