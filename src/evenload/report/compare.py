"""Placements compared on one load: the figures of each, the lines below them, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import evenload
from evenload.batches import judge
from evenload.bounds import balancedness_bound
from evenload.cluster import Cluster, check_groups
from evenload.dispatch import DISPATCHES, TIMED
from evenload.io import LoadFile, PlacementFile, load_digest
from evenload.placement import Placement
from evenload.plan import evaluated, under_each
from evenload.problem import Problem
from evenload.report.text import counted, down, percent_down, percent_up, show_seconds
from evenload.seconds import least_seconds, over_phases, planned_seconds
from evenload.traffic import away_share, nodes_per_token

if TYPE_CHECKING:
    from evenload.plan import Plan

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """The load and the cluster that all placements of one report share."""

    source: str  # where the load is from: a path, or a few words
    num_layers: int
    num_experts: int
    cluster: Cluster
    num_groups: int = 1  # of experts that share a node; 1 where there are none
    num_windows: int = 1  # of the trace
    window: int | None = None  # the one that was picked; None where they were summed
    forecast: bool = False  # whether it is the load that is expected after the windows
    dispatch: str = "even"  # in words

    @classmethod
    def of(cls, file: LoadFile, cluster: Cluster, num_groups: int = 1, **how: Any) -> Context:
        """Return the context of loads that were read from a file."""
        L, E = file.load.shape
        return cls(file.source, L, E, cluster, num_groups, file.num_windows, file.window, **how)

    def title(self) -> str:
        """Say it in one line."""
        c, gone = self.cluster, self.cluster.num_gpus - len(self.cluster.living_gpus)
        windows = f" (sum of {self.num_windows} windows)" if self.num_windows > 1 else ""
        if self.forecast:
            windows = f" (forecast after {self.num_windows} windows)"
        elif self.window is not None:
            windows = f" (window {self.window} of {self.num_windows})"
        return (
            f"{Path(self.source).name}{windows}: {self.num_layers} layers x {self.num_experts} "
            f"experts, {c.num_slots} slots on {counted(c.num_gpus, 'GPU')}"
            f"{f' ({gone} gone)' if gone else ''}"
            f"{f', {c.num_nodes} nodes' if c.num_nodes > 1 else ''}"
            f"{f', {self.num_groups} groups' if self.num_groups > 1 else ''}"
            f"{'' if self.dispatch == 'even' else f', dispatch {self.dispatch}'}"
        )


class Spot(NamedTuple):
    """One GPU in one layer: its load in the unit of the load, and over the layer's mean."""

    layer: int
    gpu: int
    tokens: float
    relative: float


def relative_load(gpu_load: Float, capacity: Float) -> Float:
    """Divide GPU loads by their layer's fair shares: [L, G] -> [L, G].

    1 in a layer without load, NaN for a GPU of capacity 0, which is gone.
    """
    fair = gpu_load.sum(axis=1, keepdims=True) * (capacity / capacity.sum())
    relative: Float = np.divide(gpu_load, fair, out=np.ones_like(gpu_load), where=fair > 0.0)
    relative[:, capacity == 0.0] = np.nan
    return relative


@dataclass(eq=False)
class Summary:
    """What a placement does with a load: its figures.

    Raises
    ------
    ValueError
        If the load does not fit the placement, or is none, the groups do not divide the experts,
        the routed experts are none of the placement, or `dispatch` is none.
    """

    name: str  # head of its column
    placement: Placement
    load: Any  # tokens routed to each expert, [L, E]
    start: Placement | None = None  # what moves are counted from; default: the trivial placement
    solver: str | None = None
    bound: Float | None = None  # on the balancedness, [L]
    milliseconds: float | None = None  # time that planning took
    num_groups: int = 1  # groups of experts that routing sends tokens to
    topk: Any = None  # experts that each token was routed to, [tokens, L, k]
    split: bool = False  # whether to tell of a live split too: a maximum flow for each layer
    # How tokens are shared: `dispatch`, `live_share` and `tokens_from` of `Problem.build`.
    sharing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        p, cluster, load = self.placement, self.placement.cluster, self.load
        check_groups(self.num_groups, p.num_experts)
        checked, _ = p.check_load(load)
        self.problem = Problem.build(checked, cluster, **self.sharing)
        self.gpu_load: Float = evaluated(self.problem, p, checked)[0]  # [L, G]
        self.relative_load = relative_load(self.gpu_load, cluster.capacity)
        # Mean over max GPU load, [L]; and the sum over layers of the heaviest GPU's, over the sum
        # of the means: 1 at best.
        self.balancedness: Float
        self.straggler_time: float
        _, self.balancedness, self.straggler_time = evaluated(self.problem, p, self.problem.load)
        # Mean seconds per batch of each layer's slowest GPU, [L], and the least that can be.
        self.seconds: Float | None = None
        self.seconds_bound: Float | None = None
        if self.problem.expert_time is not None and self.problem.dispatch in TIMED:
            self.seconds = over_phases(self.problem, planned_seconds(self.problem, p))
            self.seconds_bound = least_seconds(self.problem)
        # Most active experts on a GPU where each has one replica, [L], and the fewest that can be.
        self.active: Float | None = None
        self.active_bound: Float | None = None
        if self.problem.dispatch == "one":
            judged = judge(self.problem, p)
            self.active, self.active_bound = judged.active, judged.active_bound
            if self.problem.expert_time is not None:
                self.seconds, self.seconds_bound = judged.seconds, judged.seconds_bound
        self.worst_layer: int = int(self.balancedness.argmin())  # the first one on ties
        self.gap: Float | None = None if self.bound is None else self.bound - self.balancedness
        self.heaviest: Spot = self._spot(np.nanargmax(self.relative_load))
        self.lightest: Spot = self._spot(np.nanargmin(self.relative_load))
        self.duplicates: Int = np.asarray(p.duplicates)
        start = self.start or Placement.trivial(p.num_layers, p.num_experts, cluster)
        self.moves: Int = np.asarray(p.moves_from(start))
        # Two of what not every load or cluster has, [L]: part of the load away from its group's
        # home node, nodes of a token.
        self.away_share: Float | None = None
        self.nodes_per_token: Float | None = None
        if cluster.num_nodes > 1 and self.num_groups > 1:
            self.away_share = np.asarray(away_share(p, load, self.num_groups))
        if cluster.num_nodes > 1 and self.topk is not None:
            self.nodes_per_token = nodes_per_token(p, self.topk)

    @cached_property
    def under(self) -> dict[str, float]:
        """Mean balancedness under each dispatch, by its name; the live one where it is told of."""
        told = self.split or self.problem.dispatch == "live"
        names = [name for name in DISPATCHES if told or name != "live"]
        return under_each(self.placement, self.problem.load, self.problem.tokens_from, names)

    def _spot(self, index: Any) -> Spot:
        layer, gpu = divmod(int(index), self.gpu_load.shape[1])
        tokens, relative = self.gpu_load[layer, gpu], self.relative_load[layer, gpu]
        return Spot(layer, gpu, float(tokens), float(relative))

    def to_plain(self, first: str = "trivial") -> dict[str, Any]:
        """Return it as nested dicts of plain numbers, strings and lists, for JSON.

        Moves are counted from the placement named `first`; times are in milliseconds. All is under
        ``dispatch``; ``under`` has the mean balancedness under each.
        """
        gap = self.gap
        return {
            "name": self.name,
            "solver": self.solver,
            "balancedness": _per_layer(self.balancedness, worst=True),
            "bound": _per_layer(self.bound, worst=True),
            "gap": None
            if gap is None
            else {"mean": float(gap.mean()), "largest": float(gap.max())},
            "dispatch": self.problem.dispatch,
            "live_share": self.problem.live_share,
            "under": self.under,
            "straggler_time": self.straggler_time,
            "seconds": _per_layer(self.seconds),
            "seconds_bound": _per_layer(self.seconds_bound),
            "active": _per_layer(self.active),
            "active_bound": _per_layer(self.active_bound),
            "heaviest_gpu": self.heaviest._asdict(),
            "lightest_gpu": self.lightest._asdict(),
            "away_share": _per_layer(self.away_share),
            "nodes_per_token": _per_layer(self.nodes_per_token),
            "duplicates": _total(self.duplicates),
            f"moves_from_{first}": _total(self.moves),
            "planning_ms": self.milliseconds,
        }


def _per_layer(values: Float | None, *, worst: bool = False) -> dict[str, Any] | None:
    if values is None:
        return None
    least = {"worst": values.min().item(), "worst_layer": int(values.argmin())} if worst else {}
    return {"mean": values.mean().item(), **least, "per_layer": values.tolist()}


def _total(values: Int) -> dict[str, Any]:
    return {"total": int(values.sum()), "per_layer": values.tolist()}


def report_to_plain(context: Context, summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return a whole report as nested dicts and lists; the best placement comes last."""
    names = ("source", "num_layers", "num_experts", "num_windows", "window", "forecast")
    return {
        "evenload": evenload.__version__,
        "load": {name: getattr(context, name) for name in names},
        "cluster": context.cluster.arguments | {"num_slots": context.cluster.num_slots},
        "num_groups": context.num_groups,
        "placements": [summary.to_plain(summaries[0].name) for summary in summaries],
    }


# ---- side by side ----------------------------------------------------------------------------


def _start(load: Any, cluster: Cluster, current: Placement | None = None, **how: Any) -> Summary:
    """Summarise what runs now, or the trivial placement where its GPUs are others or unknown.

    Either is bounded as one that keeps no groups together.
    """
    name = "current"
    if current is None or current.cluster.num_gpus != cluster.num_gpus:
        L, E = load.shape
        name, current = "trivial", Placement.trivial(L, E, cluster)
    if current.cluster != cluster:  # where no GPU is the one that tokens start on
        how["sharing"] = {**how.get("sharing", {}), "tokens_from": None}
    bound = balancedness_bound(Problem.build(load, current.cluster, **how.get("sharing", {})))
    return Summary(name, current, load, start=current, bound=bound, **how)


def compare_plans(
    load: Any, plans: Mapping[str, tuple[Plan, float | None]], **how: Any
) -> list[Summary]:
    """Summarise what runs now, or the trivial placement, and then each of one or more plans.

    `plans` are name -> (Plan, milliseconds), all on one cluster and for one dispatch, and `how` is
    `num_groups`, `topk` and `split` of `Summary`.
    """
    *_, (last, _) = plans.values()
    how["sharing"] = last.problem.sharing
    if (
        last.by_phase and last.problem.dispatch != "one"
    ):  # whose batches differ: seconds are told of each by `plan_lines`
        how["sharing"] |= {"expert_time": None, "tokens_per_batch": None, "top_k": 1}
    found = [_start(load, last.placement.cluster, last.current, **how)]
    for name, (plan, milliseconds) in plans.items():
        how |= {"start": found[0].placement, "solver": plan.solver, "milliseconds": milliseconds}
        found.append(Summary(name, plan.placement, load, bound=np.asarray(plan.bound), **how))
    return found


def compare_plan(load: Any, plan: Plan, milliseconds: float | None, **how: Any) -> list[Summary]:
    """Summarise what runs now, or the trivial placement, and one plan, named after its solver."""
    return compare_plans(load, {plan.solver: (plan, milliseconds)}, **how)


def compare_file(load: Any, file: PlacementFile, **how: Any) -> list[Summary]:
    """Summarise the trivial placement and the one in a file.

    `how` is `num_groups`, `topk`, `split` and `sharing` of `Summary`.

    Raises
    ------
    ValueError
        If the placement is for another number of layers or experts than the load.
    """
    placement = file.placement
    L, E = placement.num_layers, placement.num_experts
    if load.shape != (L, E):
        use = "use a placement and loads of one model"
        if load.shape[1] == E and load.shape[0] < L:
            last, first = L - 1, L - load.shape[0]
            if file.layers is not None:
                first, last = file.layers.ids[first], file.layers.ids[last]
            use = (
                "where the loads are of some of its layers, take those first, e.g. "
                f"`evenload convert PLACEMENT OUT --layers {first}-{last}`"
            )
        elif load.shape[1] == E:
            first, last = load.shape[0] - L, load.shape[0] - 1
            if file.layers is not None and file.layers.ids[-1] <= last:
                first, last = file.layers.ids[0], file.layers.ids[-1]
            use = (
                "where the placement is of some of their layers, take those first, e.g. "
                f"`evenload convert LOADS OUT --layers {first}-{last}`"
            )
        raise ValueError(
            f"{file.source} places {L} layers x {E} experts, and the loads have "
            f"{load.shape[0]} x {load.shape[1]}; {use}"
        )
    start = _start(load, placement.cluster, **how)
    how |= {"start": start.placement, "bound": start.bound, "solver": file.solver}
    return [start, Summary(Path(file.source).name, placement, load, **how)]


def relief(before: Summary, after: Summary) -> str:
    """Say in one sentence what the step from one placement to another changes."""
    if before.seconds is not None and after.seconds is not None and before.seconds.any():
        change = 1.0 - float(after.seconds.sum() / before.seconds.sum())
        how = f"{percent_down(change)} less" if change > 0 else f"{percent_up(-change, 1)} more"
        return (
            f"Every layer waits for its slowest GPU; with {after.name} a batch takes {how} time "
            f"than with {before.name}."
        )
    change = 1.0 - after.straggler_time / before.straggler_time
    if abs(change) < 5e-5:
        return f"The heaviest GPUs have as much to do with {after.name} as with {before.name}."
    how = f"{percent_down(change)} less" if change > 0 else f"{percent_up(-change, 1)} more"
    return (
        f"Every layer waits for its heaviest GPU; with {after.name} those have {how} to do than "
        f"with {before.name}."
    )


def others_line(summary: Summary) -> str:
    """Say what a placement reaches where tokens are shared among replicas in other ways."""
    alone = summary.problem.live_share == 1.0
    planned = summary.problem.dispatch if alone else ""
    others = [f"{name} {down(of)}" for name, of in summary.under.items() if name != planned]
    return f"{summary.name} under other dispatches: {', '.join(others)}."


def phases_entry(plan: Plan) -> dict[str, Any]:
    """Return what each phase reaches, by its name, for JSON; nothing where there are no phases."""
    phases = {
        name: {
            "weight": of.weight,
            "balancedness": _per_layer(np.asarray(of.balancedness), worst=True),
            "straggler_time": of.straggler_time,
            "seconds": None if of.seconds is None else _per_layer(np.asarray(of.seconds)),
        }
        for name, of in plan.by_phase.items()
    }
    return {"phases": phases} if phases else {}


def _phases_lines(plan: Plan, start: Placement) -> list[str]:
    """Say what each phase reaches, and what it would with the placement before."""
    lines, then = [], replace(plan, placement=start).by_phase
    for name, of in plan.by_phase.items():
        timed, before = "", then[name]
        if of.seconds is not None:
            now, first = (show_seconds(float(s.seconds.mean()), 4) for s in (of, before))
            timed = f"{now} per layer and batch, before {first}; "
        mean, worst = down(float(of.balancedness.mean())), down(float(of.balancedness.min()))
        lines.append(
            f"{name}: {timed}balancedness {mean} (worst layer {worst}), straggler time "
            f"{of.straggler_time:.4f} x ideal; before {down(float(before.balancedness.mean()))} "
            f"and {before.straggler_time:.4f}; counts {of.weight:.0%}."
        )
    return lines


def plan_lines(summaries: Sequence[Summary], plan: Plan) -> list[str]:
    """Return the lines below a plan's table: the gist, the solver and why, its notes."""
    lines = [relief(summaries[0], summaries[-1]), others_line(summaries[-1])]
    lines += _phases_lines(plan, summaries[0].placement)
    lines.append(f"solver: {plan.solver} ({plan.reason})")
    if plan.copies is not None:
        lines.append(
            f"A balancer that leaves {plan.problem.copy_slack:.0%} slack copies "
            f"{float(plan.copies.mean()):.2f} experts per layer and microbatch."
        )
    return lines + [f"note: {note}" for note in plan.notes]


def file_lines(summaries: Sequence[Summary], load: Any, file: PlacementFile) -> list[str]:
    """Return the lines below the table of a placement file: the gist, and what it was made for."""
    lines = [relief(summaries[0], summaries[-1]), others_line(summaries[-1])]
    if file.load_digest is not None:
        same = file.load_digest == load_digest(load)
        lines.append(f"The placement was made for {'these very' if same else 'other'} loads.")
    if file.dispatch is not None:
        lines.append(f"The placement was made for dispatch {file.dispatch}.")
    return lines
