"""How many slots per GPU to buy: what they gain in windows that no plan has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from evenload.arrays import Float, check_load, keep_numpy, within_range
from evenload.batches import JUDGED, JUDGED_SEED, draw
from evenload.checks import one_of, positive_int
from evenload.cluster import Cluster
from evenload.cost.presets import HARDWARE, MODELS, check_model_shape, kv_bytes_per_token
from evenload.dispatch import PLANNERS
from evenload.forecast import is_trace
from evenload.placement import Placement
from evenload.plan import Plan, evaluated
from evenload.planner import solve
from evenload.problem import Problem
from evenload.splitting.stragglers import straggler_seconds
from evenload.trace import Trace, check_trace

MORE = (0, 1, 2, 3, 4, 6, 8)  # slots per GPU that are tried beyond the fewest
MEMORY = 16  # windows that a plan looks at, as those of the policy `evenload.replay` runs
POINTS = 4  # windows of a trace's second half that plans are judged by
NEAR = 0.01  # of the least, to be enough
WORTH = 0.02  # of what no redundancy takes, to be saved at least
# Part of a GPU's memory that an engine fills. Our assumption: vLLM 0.33 takes .92, less where told.
FILLED = 0.9
UNKNOWN = 0.01  # of the memory left, for each slot per GPU where it is not known

# What a placement takes by phase, as planned and in the next window, and the mean over phases.
_Judged: TypeAlias = tuple[dict[str, float], dict[str, float], float]


@dataclass(frozen=True, eq=False)
class Size:
    """One number of slots, and what plans with it come to."""

    cluster: Cluster
    redundant_per_gpu: int  #: slots per GPU beyond the fewest that hold every expert
    #: By phase: mean seconds per layer and batch of the slowest GPU, or, where experts' time is not
    #: known, its tokens over the mean GPU's; on the loads that the plans were made from.
    in_sample: Mapping[str, float]
    next_window: Mapping[str, float]  #: the same on the window after those; empty without windows
    judged: Float  #: mean over phases, in each window that was judged, [P]
    weight_bytes: float | None = None  #: of experts on each GPU, in all of the model's layers
    kv_tokens: float | None = None  #: tokens of KV cache per GPU that the redundant slots displace
    room: float | None = None  #: bytes per GPU that the experts leave for everything else

    @property
    def time(self) -> float:
        """Mean over the windows that were judged."""
        return float(self.judged.mean())

    @property
    def left(self) -> float:
        """Memory left for KV cache: bytes per GPU if known, else relative to that of `none`."""
        return 1.0 - UNKNOWN * self.redundant_per_gpu if self.room is None else self.room

    @property
    def cost(self) -> float:
        """The time, over the memory that is left; infinite without any.

        A batch that fills the memory has tokens in proportion to it: this is its time per token.
        """
        return self.time / self.left if self.left > 0.0 else math.inf


@dataclass(frozen=True, eq=False)
class Advice:
    """What slots gain on one number of GPUs, and how many of them to buy."""

    dispatch: str
    sizes: tuple[Size, ...]  #: slots ascending, from the fewest on
    trivial: Size  #: the fewest slots with experts in order, as engines start
    best: Size  #: that of least cost
    chosen: Size  #: what is recommended; `none` where buying does not pay
    time_source: str | None  #: where experts' seconds come from; None where tokens are counted
    unseen: bool  #: whether they are judged by windows that no plan has seen

    @property
    def none(self) -> Size:
        """The fewest slots, planned."""
        return self.sizes[0]

    @property
    def num_gpus(self) -> int:
        """GPUs of the expert-parallel group."""
        return self.none.cluster.num_gpus

    @property
    def fits(self) -> bool:
        """Whether a GPU's memory holds the experts at all, as far as is known."""
        return self.none.room is None or self.none.room > 0.0


def clusters_to_try(
    num_experts: int,
    num_gpus: int,
    num_nodes: int = 1,
    *,
    slots: Sequence[int] = (),
    copies: int = 1,
    most: int | None = None,
) -> list[Cluster]:
    """Return clusters from the fewest slots that hold every expert on, as many on each GPU.

    Parameters
    ----------
    num_experts, num_gpus, num_nodes : int
    slots : sequence of int
        Numbers of slots of a layer to try beside the fewest; those that are not a multiple of
        `num_gpus` are left out. Default: a handful, see `MORE`.
    copies : int, default 1
        Of every expert, at least.
    most : int, optional
        Slots per GPU that are of use. Default: one for each expert.

    Raises
    ------
    ValueError
        If none of `slots` is a multiple, or one is too few for the experts.
    """
    fewest = Cluster.smallest_for(copies * num_experts, num_gpus, num_nodes)
    least = fewest.slots_per_gpu
    if not slots:
        end = max(least, num_experts if most is None else most)
        tried = [least + more for more in MORE if least + more <= end]
    else:
        for number in slots:
            if positive_int("slots", number) < copies * num_experts:
                raise ValueError(
                    f"slots={number} is too few for {copies * num_experts} experts; use "
                    f"{fewest.num_slots} or more"
                )
        tried = sorted({least, *(n // num_gpus for n in slots if n % num_gpus == 0)})
        if not any(n % num_gpus == 0 for n in slots):
            below = max(fewest.num_slots, slots[0] // num_gpus * num_gpus)
            raise ValueError(
                f"slots={slots[0]} is not a multiple of num_gpus={num_gpus}; use {below} or "
                f"{below + num_gpus}"
            )
    return [Cluster(num_gpus, num_nodes, each) for each in tried]


def advise(
    load: Any,
    clusters: Sequence[Cluster],
    *,
    model: str | None = None,
    hardware: str | None = None,
    points: int = POINTS,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Advice:
    """Say how many slots to buy, from what plans gain in windows that they have not seen.

    For each number of slots a plan is made from the 16 windows before each of some windows of the
    trace's second half, and judged by that window: what moves take is not in it, `evenload.replay`
    tells that. Recommended are the fewest slots whose cost is within 1 % of the least, or within
    the standard error of the difference; and none unless the least cost is 2 % and the standard
    error below that of none. The cost is the time over the memory left for KV cache, in proportion
    to which batches can grow; without model and hardware a slot counts for 1 % of it.

    Parameters
    ----------
    load : array_like, [T, L, E], [L, E] or [E]; or a Trace; or a dict of these by phase
        As for `evenload.solve`. Without windows plans are judged by what they were made from.
    clusters : sequence of Cluster
        As `clusters_to_try` returns them: the first has the fewest slots.
    model, hardware : str, optional
        Presets, for the memory that experts take and leave; see `evenload.cost`.
    points : int, default 4
        How many windows plans are judged by.
    say : callable
        Told what is tried.
    **options
        Of `evenload.solve`, with the effort ``"fast"`` unless another is asked for. With
        `expert_time` and `tokens_per_batch` seconds are judged, else tokens on the slowest GPU,
        relative to the mean. Seconds under dispatch ``"one"`` wait for the slowest GPU of each
        batch, and under others for that with the largest mean over batches: these two do not
        compare.

    Raises
    ------
    ValueError
        For no cluster, a model of another shape, and whatever `evenload.solve` refuses.

    Examples
    --------
    >>> advice = advise([[70, 30, 50, 50]], clusters_to_try(4, 2))
    >>> [(size.cluster.num_slots, round(size.time, 3)) for size in advice.sizes]
    [(4, 1.0), (6, 1.0), (8, 1.0)]
    >>> advice.chosen.redundant_per_gpu
    0
    """
    if not clusters:
        raise ValueError("clusters is empty; use those of clusters_to_try")
    if options.get("solver", "auto") in PLANNERS:
        options = {"effort": "fast"} | options
    windows = _Windows(load, positive_int("points", points))
    memory = _Memory(model, hardware, clusters[0], windows.shape)
    sizes, trivial = [], None
    for cluster in clusters:
        say(f"{cluster.num_slots} slots on {cluster.num_gpus} GPUs")
        plans = [solve(seen, cluster, **options) for seen in windows.before]
        sizes.append(memory.of(cluster, [windows.judge(n, p) for n, p in enumerate(plans)]))
        if trivial is None:
            start = Placement.trivial(*windows.shape, cluster)
            judged = [windows.judge(n, plan, start) for n, plan in enumerate(plans)]
            trivial = memory.of(cluster, judged)
    assert trivial is not None
    curve, dispatch = plans[0].problem.expert_time, plans[0].problem.dispatch
    source = None if curve is None else curve.source
    best, chosen = _chosen(sizes)
    return Advice(dispatch, tuple(sizes), trivial, best, chosen, source, bool(windows.after))


class _Windows:
    """What plans are made from and judged by, by phase: P times the windows before and the next."""

    def __init__(self, load: Any, points: int) -> None:
        parts = dict(load) if isinstance(load, Mapping) else {"": load}
        if not parts:
            raise ValueError("load has no phase; give at least one, as {'decode': ...}")
        self.before: list[Any] = []  # as `solve` takes it
        self.after: list[dict[str, Float]] = []  # [L, E] by phase; empty where nothing is unseen
        traces = {name: check_trace(part) for name, part in parts.items() if is_trace(part)}
        later = [judged_windows(len(trace), points) for trace in traces.values()]
        count = min(map(len, later), default=0) if len(traces) == len(parts) else 0
        for n in range(count):
            # Phases may have different numbers of windows: each is cut at the same part of its own.
            at = {name: judged_windows(len(trace), count)[n] for name, trace in traces.items()}
            self._add({name: _stacked(traces[name], t) for name, t in at.items()})
            self.after.append({name: traces[name].window(t) for name, t in at.items()})
        if not count:
            sums = {name: sum(trace) for name, trace in traces.items()}
            self._add({name: sums.get(name, part) for name, part in parts.items()})
        L, E = check_load(next(iter(self.after[0].values())) if count else self._last)[0].shape
        self.shape = L, E

    def judge(self, point: int, plan: Plan, placement: Placement | None = None) -> _Judged:
        """Return what a plan's placement, or another one, takes."""
        problem, planned = plan.problem, placement or plan.placement
        phases, weights = problem.phases, [phase.weight for phase in problem.phases]
        place = planned.rewrapped(keep_numpy)
        seen = {p.name: _takes(problem.of_load(p.load, p), place) for p in phases}
        found = dict[str, float]()
        if self.after:
            after = {name: within_range(load) for name, load in self.after[point].items()}
            found = {p.name: _takes(problem.of_load(after[p.name], p), place) for p in phases}
        return seen, found, float(np.average(list((found or seen).values()), weights=weights))

    def _add(self, seen: dict[str, Any]) -> None:
        self._last = next(iter(seen.values()))
        self.before.append(self._last if list(seen) == [""] else seen)


def judged_windows(num_windows: int, points: int) -> list[int]:
    """Return numbers of windows of a trace's second half, evenly spaced, the last one always.

    None where it has one window only.
    """
    first = max(1, (num_windows + 1) // 2)
    count = max(0, min(points, num_windows - first))
    spaced = np.linspace(num_windows - 1, first, count)[::-1]
    return [int(number) for number in spaced.round()]


def _stacked(trace: Trace, end: int) -> Float:
    return np.stack([trace.window(t) for t in range(max(0, end - MEMORY), end)])


def _takes(problem: Problem, placement: Placement) -> float:
    """Return what a placement takes for a problem's load, mean over layers; see `Size`."""
    if problem.expert_time is None:
        return evaluated(problem, placement, problem.load)[2]
    counts, _ = draw(problem, JUDGED, JUDGED_SEED)
    how = counts, problem.expert_time, problem.dispatches
    return float(straggler_seconds(placement, *how).mean())


class _Memory:
    """What slots take of a GPU's memory, where the model is known, and leave, where that is."""

    def __init__(
        self, model: str | None, hardware: str | None, fewest: Cluster, shape: tuple[int, int]
    ) -> None:
        self._model, self._fewest = model, fewest.slots_per_gpu
        if model is not None:
            check_model_shape(model, *shape)
            experts = MODELS[model]
            self._slot_bytes = experts.num_layers * experts.num_bytes
        self._room = None
        if hardware is not None:
            self._room = FILLED * HARDWARE[one_of("hardware", hardware, HARDWARE)].memory

    def of(self, cluster: Cluster, judged: Sequence[_Judged]) -> Size:
        """Return the size, from what was judged at each point."""
        seen, after, means = zip(*judged, strict=True)
        size = Size(
            cluster,
            cluster.slots_per_gpu - self._fewest,
            in_sample=_mean(seen),
            next_window=_mean(after),
            judged=np.array(means),
        )
        if self._model is None:
            return size
        taken = cluster.slots_per_gpu * self._slot_bytes
        return replace(
            size,
            weight_bytes=taken,
            kv_tokens=size.redundant_per_gpu * self._slot_bytes / kv_bytes_per_token(self._model),
            room=None if self._room is None else self._room - taken,
        )


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _chosen(sizes: Sequence[Size]) -> tuple[Size, Size]:
    """Return the size of least cost, and that to recommend, see `advise`."""

    def within(size: Size, part: float) -> bool:
        """Whether a size costs at most so much more than the best, or might by chance."""
        more = size.judged * (best.left / size.left) - best.judged
        error = more.std(ddof=1) / math.sqrt(len(more)) if len(more) > 1 else 0.0
        return bool(more.mean() <= max(part * best.time, float(error)))

    none, best = sizes[0], min(sizes, key=lambda size: size.cost)
    if best.cost == math.inf or within(none, WORTH / (1.0 - WORTH)):
        return best, none
    return best, next(size for size in sizes if size.left > 0.0 and within(size, NEAR))
