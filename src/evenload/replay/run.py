"""From a trace and a policy to what would have happened."""

from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from evenload import solve
from evenload.arrays import Float, keep_numpy
from evenload.checks import one_of, part, positive_int
from evenload.clock import Stopwatch
from evenload.cluster import Cluster, check_cluster, check_groups
from evenload.copying import SLACKS, copied, copied_share, copies_by_slack, on_grid
from evenload.cost import CostModel
from evenload.dispatch import BY_PLACE, DISPATCHES, PLANNERS
from evenload.placement import Placement, check_same
from evenload.replay.policies import Past, Policy, check_policy, get_policy
from evenload.replay.results import Replay
from evenload.solvers import get_solver
from evenload.trace import Trace, check_trace

Planner: TypeAlias = Callable[[Float], Placement]
Oracle: TypeAlias = str | Planner | None


def replay(
    trace: Any,
    cluster: Cluster,
    policy: str | Policy,
    *,
    merge: int = 1,
    interval: int = 1,
    warm_start: int = 1,
    cost: CostModel,
    start: Placement | None = None,
    num_groups: int = 1,
    dispatch: str = "even",
    oracle: Oracle = "fast",
    recorded_share: float = 1.0,
    delay: bool = True,
    keep_placements: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Replay:
    """Run a policy over a trace, as if it had happened.

    Before each `interval` windows the policy is shown the past and decides; what follows is served
    with its placement. While experts are on their way, each layer is served from its old place
    until all of it has arrived, layer after layer; the policy is not asked again before the last.
    The same input gives the same, but for `planning_seconds`, which the clock measures. A trace
    with a gap or without a window left to be served, and a start or a policy's answer that is no
    placement of this model on this cluster, are a `ValueError`.

    Parameters
    ----------
    trace : Trace or array_like, [T, L, E]
        Tokens routed to each expert, window by window.
    cluster : Cluster
    policy : str or Policy
        See `get_policy` for the names.
    merge : int, default 1
        Recorded windows that are summed into one; the following count these.
    interval, warm_start : int, default 1
        Windows from one decision to the next, and seen before the first is served; at least 1.
    cost : CostModel
        What seconds are. That of a preset has to be of the trace's shape, see
        `CostModel.check_shape`.
    start : Placement, optional
        What serves at first. Default: ``Placement.trivial``, experts in order.
    num_groups : int, default 1
        As `evenload.solve`, for planners.
    dispatch : {"even", "live", "nearest", "static"}, default "even"
        How a replica is picked for a token, see `evenload.dispatch`: what every window is judged
        by, and what is planned for: by the solvers ``"auto"`` and ``"incremental"``; all
        others plan for even sharing.
    oracle : str, callable or None, default "fast"
        Who plans each window on itself: local search to 0.9995 (where GPUs differ, the joint
        search; for ``"nearest"`` and ``"static"``, the incremental one), a solver by name, or a
        function from a load to a placement; None leaves it out.
    recorded_share : float, default 1.0
        Part of the served tokens that the trace has recorded, above 0 and at most 1: all seconds of
        computing are divided by it. Without it, a trace of one request in a hundred has windows a
        hundred times too short for what moves take.
    delay : bool, default True
        False: moves take effect at once (and still cost what they cost), to judge plans alone.
    keep_placements : bool, default True
        False keeps the last only, for long replays with many rebalances.
    progress : callable, optional
        Called with the number of windows done and of all.

    Examples
    --------
    >>> load = [[[6, 4, 1, 3]], [[6, 4, 1, 3]], [[3, 6, 1, 4]]]
    >>> cost = CostModel(1000.0, 45e6, 450e9, 50e9)
    >>> replay(load, Cluster(2, slots_per_gpu=2), "never", cost=cost, delay=False)
    <Replay of never: 2 windows, balancedness 0.7389, 0 rebalances, 0 moves>
    >>> replay(load, Cluster(2, slots_per_gpu=2), "once:greedy", cost=cost, delay=False)
    <Replay of once:greedy: 2 windows, balancedness 0.8500, 1 rebalances, 2 moves>
    """
    recorded = check_trace(trace)
    first = check_warm_start(warm_start, merge, recorded)
    windows = recorded.merged(merge)
    chosen = get_policy(policy) if isinstance(policy, str) else check_policy(policy)
    check_cost(cost, recorded)
    settings = {
        "source": windows.source,
        "shape": list(recorded.shape),
        "policy": chosen.name,
        "cluster": {**check_cluster(cluster).arguments, "num_slots": cluster.num_slots},
        "merge": positive_int("merge", merge),
        "interval": positive_int("interval", interval),
        "warm_start": first,
        "num_groups": check_groups(num_groups, windows.num_experts),
        "dispatch": one_of("dispatch", dispatch, DISPATCHES),
        "oracle": oracle if oracle is None or isinstance(oracle, str) else "given function",
        "start": "trivial" if start is None else "given",
        "recorded_share": part("recorded_share", recorded_share),
        "delay": bool(delay),
        "cost": asdict(cost),
    }
    place = Placement.trivial(windows.num_layers, windows.num_experts, cluster)
    if start is not None:
        check_same(start, place, "start")
        place = start.rewrapped(keep_numpy)
    best = _make_oracle(oracle, cluster, {"num_groups": num_groups}, dispatch)
    course = _Course(chosen, cost, place, settings, keep_placements)
    for t in range(windows.num_windows):
        if t >= first and (t - first) % interval == 0:
            course.decide(t)
        load = windows.window(t)
        if t >= first:
            course.serve(t, load, best)
            if progress is not None:
                progress(t - first + 1, windows.num_windows - first)
        course.seen.append(load)
    return course.finish(windows.notes)


class _Course:
    """What serves, what is on its way, what was seen, and what came of it so far.

    `rebalances` has a row for each decision to move, and `windows` one for each window that was
    served; `finish` names their columns.
    """

    def __init__(
        self,
        policy: Policy,
        cost: CostModel,
        start: Placement,
        settings: dict[str, Any],
        keep_placements: bool,
    ) -> None:
        self.policy, self.cost, self.settings = policy, cost, settings
        self.how = {"dispatch": settings["dispatch"]}
        self.slack: float | None = getattr(policy, "slack", None)
        self.copies: list[Float] = []  # [C, L] of each window, and the part of tokens copied, [L]
        self.copied: list[Float] = []
        self.current, self.before, self.start = start, start, start
        self.cluster = start.cluster
        self.due: Float | None = None  # [L], seconds from now; while experts move
        self.seen: deque[Float] = deque(maxlen=policy.memory)
        self.asked, self.put_off, self.asked_seconds = 0, 0, 0.0
        self.rebalances: list[tuple[Any, ...]] = []
        self.windows: list[tuple[Any, ...]] = []
        self.keep_placements = keep_placements
        self.small = np.int16 if start.num_experts <= np.iinfo(np.int16).max else np.int32
        self.placements = [start.rows.astype(self.small)]

    def decide(self, t: int) -> None:
        """Ask the policy before window t, unless experts are still moving."""
        if self.due is not None:
            self.put_off += 1
            return
        load = np.stack(self.seen)
        load.setflags(write=False)
        told = ("num_groups", "dispatch", "interval", "recorded_share")
        settings = {name: self.settings[name] for name in told}
        past = Past(load, t, self.asked, self.current, self.cluster, cost=self.cost, **settings)
        with Stopwatch() as watch:
            wanted = self.policy.decide(past)
        self.asked += 1
        self.asked_seconds += watch.seconds
        if wanted is None:
            return
        check_same(wanted, self.current, f"what the policy {self.policy.name!r} returned")
        if getattr(self.policy, "offline", False):
            self.current = self.before = wanted.rewrapped(keep_numpy)
            self.placements = [wanted.rows.astype(self.small)]
            self.settings["start"] = "reordered"
        if wanted == self.current:
            return
        schedule = self.cost.schedule(self.current, wanted)
        moves = np.diff(schedule.moves.first_of_layer)
        seconds = schedule.seconds, self.cost.move_seconds(schedule), watch.seconds
        self.rebalances.append((t, moves, schedule.num_bytes, *seconds))
        if not self.keep_placements:
            self.placements.clear()
        self.placements.append(wanted.rows.astype(self.small))
        self.before, self.current = self.current, wanted.rewrapped(keep_numpy)
        due = self.cost.overlap * schedule.finished
        if self.settings["delay"] and due[-1] > 0.0:
            self.due = due

    def reach(self, place: Placement, load: Float) -> Float:
        """Return the balancedness of a window, after copying where experts are copied: [L]."""
        if self.slack is None:
            return np.asarray(place.balancedness(load, **self.how))
        return copied(on_grid(load), place, self.slack).balancedness(self.cluster)

    def serve(self, t: int, load: Float, oracle: Planner | None) -> None:
        """Serve window t, and write down how that went."""
        tokens = self.cost.tokens_per_second * self.settings["recorded_share"]
        mean = load.sum(axis=1) / self.cluster.capacity.sum() / tokens
        reached = self.reach(self.current, load)
        if self.slack is not None:
            self.copies.append(copies_by_slack([load], self.current, [self.slack, *SLACKS]))
            self.copied.append(copied_share(load, self.current, self.slack))
        never = reached  # without copies, which are no rebalance
        if self.rebalances or self.slack is not None or self.current is not self.start:
            never = np.asarray(self.start.balancedness(load, **self.how))
        found = np.maximum(never, reached)
        if self.due is not None:
            kept = self.reach(self.before, load)
            found = np.maximum(found, kept)
            part = old_part(mean / kept, mean / reached, self.due)
            mixed = 1.0 / (part / kept + (1.0 - part) / reached)
            reached = np.where(part <= 0.0, reached, mixed)
            left = self.due - float((mean / reached).sum())
            self.due = left if left[-1] > 0.0 else None
        best = np.full(len(load), np.nan)
        if oracle is not None:
            # Whatever serves is a plan too, and the search need not have found as good a one.
            planned = oracle(load).balancedness(load, **self.how)
            best = np.maximum(planned, found)
        self.windows.append((t, len(self.rebalances), reached, never, best, mean))

    def finish(self, notes: tuple[str, ...]) -> Replay:
        """Return what came of it."""
        windows, served, reached, never, best, mean = map(np.array, zip(*self.windows, strict=True))
        moved, moves, *costs = list(zip(*self.rebalances, strict=True)) or [()] * 6
        # Straggler time that each rebalance's placement saved while it was kept.
        saved = np.zeros(len(self.rebalances) + 1)
        np.add.at(saved, served, (mean / never - mean / reached).sum(axis=1))
        named = ("moved_bytes", "transfer_seconds", "move_seconds", "planning_seconds")
        return Replay(
            policy=self.policy.name,
            cluster=self.cluster,
            merge=self.settings["merge"],
            interval=self.settings["interval"],
            settings=self.settings,
            notes=notes,
            windows=windows.astype(np.int64),
            balancedness=reached,
            start_balancedness=never,
            oracle=best,
            mean_seconds=mean,
            served=served.astype(np.int64) * self.keep_placements,
            placements=np.stack(self.placements),
            rebalance_window=np.array(moved, np.int64),
            moves=np.array(moves, np.int64).reshape(-1, mean.shape[1]),
            saved_seconds=saved[1:],
            asked=self.asked,
            put_off=self.put_off,
            asked_seconds=self.asked_seconds,
            slacks=np.array([] if self.slack is None else [self.slack, *SLACKS], np.float64),
            copies=np.array(self.copies, np.float64).reshape(len(windows), -1, mean.shape[1]),
            copied=np.array(self.copied, np.float64).reshape(-1, mean.shape[1]),
            **dict(zip(named, np.array(costs, np.float64), strict=True)),
        )


def old_part(old_seconds: Float, new_seconds: Float, due: Float) -> Float:
    """Return the part of a window, in [0, 1], that each layer serves from its old place: [L].

    A layer takes `old_seconds` or `new_seconds` for the whole window, and changes over when `due`:
    ascending seconds of serving from the window's start, 0 or less for those that have. A window
    takes the sum over its layers, so each one that changes over alters how fast the rest goes by.
    """
    # Seconds that the whole window would take while the first l layers have changed over.
    pace = old_seconds.sum() + np.concatenate(([0.0], np.cumsum(new_seconds - old_seconds)[:-1]))
    stay = np.diff(np.maximum(due, 0.0), prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        served = np.where(stay > 0.0, stay / pace, 0.0)
    return np.asarray(np.minimum(np.cumsum(served), 1.0))


def _make_oracle(
    oracle: Any, cluster: Cluster, problem: dict[str, Any], dispatch: str
) -> Planner | None:
    """Return what plans a window on itself; `oracle` as in `replay`, `problem` for `solve`."""
    if oracle is None or callable(oracle):
        return oracle  # type: ignore[no-any-return]
    if not isinstance(oracle, str):
        raise ValueError(
            f"oracle={oracle!r} is not an oracle; use 'fast', a solver's name, a function or None"
        )
    how: dict[str, Any] = {"solver": oracle}
    if oracle == "fast":  # a fifth of the time that the last bit of the balancedness takes
        equal = {"solver": "local-search", "target": 0.9995}
        how = equal if cluster.gpus_are_equal else {"solver": "joint", "effort": "fast"}
        if dispatch in BY_PLACE:
            how = {"solver": "incremental", "effort": "fast"}
    elif oracle != "auto":
        get_solver(oracle)
    if how["solver"] in PLANNERS:
        how["dispatch"] = dispatch
    return lambda load: solve(load, cluster, **problem, **how).placement


def check_warm_start(warm_start: Any, merge: Any, recorded: Trace) -> int:
    """Return the first window to serve, each the sum of so many; a `ValueError` if none is left."""
    first, each = positive_int("warm_start", warm_start), positive_int("merge", merge)
    most = recorded.num_windows // 2
    if each > most:
        use = f"at most merge={most}, or a longer trace" if most else "a longer trace"
        raise ValueError(
            f"merge={each} makes fewer than 2 windows of the trace's {recorded.num_windows}, and "
            f"a replay plans from one and serves the next; use {use}"
        )
    there = recorded.num_windows // each
    if first >= there:
        raise ValueError(
            f"warm_start={first} leaves none of the trace's {there} windows to serve; use "
            f"{there - 1}"
        )
    return first


def check_cost(cost: Any, trace: Trace) -> CostModel:
    """Return `cost`; a `ValueError` unless it is one that the trace's model can have."""
    if not isinstance(cost, CostModel):
        raise ValueError(
            f"cost={cost!r} is not a CostModel; use e.g. CostModel.preset('h100-ib', 'gpt-oss-20b')"
        )
    cost.check_shape(trace.num_layers, trace.num_experts)
    return cost
