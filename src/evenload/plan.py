"""What a solver's answer is worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evenload.arrays import Float, keep_numpy, to_numpy
from evenload.batches import Judged, judge
from evenload.bounds import balancedness_bound
from evenload.dispatch import DISPATCHES, TIMED
from evenload.placement import Placement, check_same
from evenload.problem import Problem
from evenload.seconds import least_seconds, over_phases, planned_seconds
from evenload.solvers.answer import Answer
from evenload.traffic import away_share

if TYPE_CHECKING:
    from evenload.io import AnyPath

MUCH_LESS = 0.03  # balancedness lost under even sharing of which a plan warns its reader


def straggler_time(gpu_load: Float, capacity: Float) -> float:
    """Sum over layers of the slowest GPU's time, relative to the sum of the means: at least 1.

    The load is [L, G] in any unit, the capacity [G] as `Cluster.capacity`.
    """
    living = capacity > 0.0
    heaviest = (gpu_load[:, living] / capacity[living]).max(axis=1)
    scale = heaviest.max()
    if scale == 0.0:
        return 1.0
    least = (gpu_load / scale).sum(axis=1) / capacity.sum()
    return max(1.0, float((heaviest / scale).sum() / least.sum()))


def evaluated(problem: Problem, placement: Placement, load: Float) -> tuple[Float, Float, float]:
    """Return GPU load [L, G], balancedness [L] and straggler time under a problem's dispatch.

    The load [L, E] was checked before. Where the dispatch is of two kinds, what takes turns is
    times and loads, so these are averaged. Under ``"one"`` balancedness and straggler time are of
    active experts, or by `Problem.expert_time`, in batches drawn from the load.
    """
    if problem.dispatch == "one":
        judged = judge(problem.of_load(load), placement)
        waiting, least = float(judged.latest.sum()), float(judged.work.sum())
        tokens = judged.gpu_load.sum(axis=1, keepdims=True)
        part = np.divide(judged.gpu_load, tokens, out=judged.gpu_load, where=tokens > 0.0)
        ratio = max(1.0, waiting / least) if least > 0.0 else 1.0
        return part * load.sum(axis=1, keepdims=True), judged.balancedness, ratio
    loads, reached, waiting = np.zeros((len(load), placement.cluster.num_gpus)), [], 0.0
    for dispatch, share in problem.dispatches:
        weights = placement.weights(load, dispatch, problem.tokens_from)
        gpu_load, balancedness = placement.evaluate(load, weights)
        loads += share * gpu_load
        reached.append(balancedness)
        waiting += share * straggler_time(gpu_load, placement.cluster.capacity)
    return loads, problem.mixed(reached), waiting


def under_each(
    placement: Placement, load: Float, tokens_from: Float | None, dispatches: Iterable[str]
) -> dict[str, float]:
    """Return the mean balancedness of a load, checked before, under some dispatches, by name."""
    reached = {}
    for dispatch in dispatches:
        weights = placement.weights(load, dispatch, tokens_from)
        reached[dispatch] = float(placement.evaluate(load, weights)[1].mean())
    return reached


def _told_of_even(problem: Problem, placement: Placement, reached: Float) -> tuple[str, ...]:
    """Warn of what is lost where an engine does not share tokens as it was planned for."""
    if problem.dispatch != "live":
        return ()
    planned, even = float(reached.mean()), float(placement.evaluate(problem.load)[1].mean())
    if even >= planned - MUCH_LESS:
        return ()
    return (
        f"ONLY FOR A LIVE SPLIT: mean balancedness {planned:.4f} as planned, but {even:.4f} where "
        "an expert's tokens are shared evenly among its replicas, as engines do by default; use "
        "dispatch 'even' for those",
    )


class Reached(NamedTuple):
    """What a placement reaches for the batches of one phase."""

    balancedness: Any  #: mean / max GPU load of each layer, float64 [L]
    straggler_time: float  #: as `Plan.straggler_time`
    weight: float  #: the phase's part of all that counts
    seconds: Any = None  #: as `Plan.seconds`, [L]; None without an expert's time


@dataclass(frozen=True, eq=False)
class Plan:
    """A placement with what it reaches on the load it was made for, under the problem's dispatch.

    Where a live split counts for a part of the time only, times are averaged: the balancedness is
    mean over the average time of the slowest GPU. Of loads by phase the load is what they have
    together, each by its weight; `by_phase` tells of each alone.
    """

    placement: Placement  #: where every expert lives
    balancedness: Any  #: mean / max GPU load of each layer, float64 [L] in (0, 1]
    duplicates: Any  #: slots wasted on an expert that their GPU holds already, int64 [L]
    #: Sum over layers of the heaviest GPU's load, relative to the sum of the means: what a forward
    #: pass waits for, at least 1.
    straggler_time: float
    solver: str  #: the name of the one that ran
    reason: str  #: why that one
    notes: tuple[str, ...]  #: what was not possible, with the reason
    problem: Problem  #: what was solved; its load is a copy of its own
    proven: Float | None = None  #: limit on the balancedness that the solver itself proved, [L]
    proven_seconds: Float | None = None  #: limit on the seconds that the solver itself proved, [L]
    moves: Any = None  #: experts that are new to their GPU, int64 [L]; None if nothing ran before

    @classmethod
    def evaluate(
        cls, problem: Problem, answer: Answer, solver: str, reason: str, notes: tuple[str, ...]
    ) -> Plan:
        """Measure a solver's answer to a problem; one for another problem is a `ValueError`."""
        check_same(answer.placement, problem, "placement")
        wrap, current = problem.rewrap, problem.current
        placement = answer.placement.rewrapped(wrap)
        if problem.survive and not placement.survives(*problem.survive):
            raise ValueError(
                f"survive={problem.survive[0]!r}: solver {solver!r} made a placement that loses "
                "experts; use solver 'auto', 'joint' or 'incremental'"
            )
        _, balancedness, waiting = evaluated(problem, placement, problem.load)
        return cls(
            placement=placement,
            balancedness=wrap(balancedness),
            duplicates=placement.duplicates,
            straggler_time=waiting,
            solver=solver,
            reason=reason,
            notes=(*notes, *answer.notes, *_told_of_even(problem, placement, balancedness)),
            problem=replace(problem, load=problem.load.copy()),
            proven=answer.bound,
            proven_seconds=answer.least_seconds,
            moves=None if current is None else wrap(placement.arrivals(current)),
        )

    @property
    def current(self) -> Placement | None:
        """The placement that ran before, with NumPy arrays; None if it was not given."""
        return self.problem.current

    @cached_property
    def expected_balancedness(self) -> Any:
        """Mean balancedness over the samples of the load, float64 [L]; None for a single load."""
        samples, weight = self.problem.samples, self.problem.sample_weight
        if samples is None or weight is None:
            return None
        reached = [evaluated(self.problem, self.placement, load)[1] for load in samples]
        return self.problem.rewrap(np.average(np.stack(reached), axis=0, weights=weight))

    @cached_property
    def by_phase(self) -> dict[str, Reached]:
        """What each phase reaches, by its name; empty unless the load is given by phase."""
        problem, found = self.problem, {}
        for phase in problem.phases if problem.sample_phase is not None else ():
            alone = problem.of_load(phase.load, phase)
            _, balancedness, waiting = evaluated(alone, self.placement, phase.load)
            seconds = self.phase_seconds and self.phase_seconds[phase.name]
            reached = problem.rewrap(balancedness), waiting, phase.weight, seconds
            found[phase.name] = Reached(*reached)
        return found

    @cached_property
    def copies(self) -> Any:
        """Copies of experts for one microbatch, on average over what the load may be: float64 [L].

        Of a balancer that leaves `copy_slack`, see `evenload.copying`; None for other dispatches.
        """
        from evenload.copying import copies_by_slack

        problem = self.problem
        if problem.dispatch != "copy":
            return None
        samples, weight = problem.likely
        count = copies_by_slack(list(samples), self.placement, [problem.copy_slack], weight)
        return problem.rewrap(count[0])

    @cached_property
    def phase_seconds(self) -> dict[str, Any] | None:
        """Seconds of each phase by its name, float64 [L] each; `seconds` is their mean."""
        if self.problem.expert_time is None:
            return None
        problem, judged = self.problem, self.one
        if judged is not None:
            each = [judged]
            if len(problem.phases) > 1:
                each = [judge(problem.of_load(p.load, p), self.placement) for p in problem.phases]
            return {
                phase.name: problem.rewrap(np.asarray(of.seconds))
                for phase, of in zip(problem.phases, each, strict=True)
            }
        if problem.dispatch not in TIMED:
            return None
        found = planned_seconds(problem, self.placement.rewrapped(keep_numpy))
        return {name: problem.rewrap(seconds) for name, seconds in found.items()}

    @cached_property
    def seconds(self) -> Any:
        """Mean seconds per batch of each layer's slowest GPU, float64 [L].

        By the problem's `expert_time`, see `evenload.seconds`; None without one. Under dispatch
        ``"one"`` the slowest GPU is that of each batch.
        """
        if self.phase_seconds is None:
            return None
        found = {name: to_numpy(name, of)[0] for name, of in self.phase_seconds.items()}
        return self.problem.rewrap(over_phases(self.problem, found))

    @cached_property
    def seconds_bound(self) -> Any:
        """Proven lower limit on the `seconds` of any placement, float64 [L]; None without them."""
        if self.phase_seconds is None:
            return None
        if self.one is not None:
            return self.problem.rewrap(np.asarray(self.one.seconds_bound))
        least = least_seconds(self.problem)
        proven = self.proven_seconds
        return self.problem.rewrap(least if proven is None else np.maximum(least, proven))

    @cached_property
    def one(self) -> Judged | None:
        """What the dispatch ``"one"`` comes to, see `evenload.batches`; None for other dispatches.

        In other batches than the plan was made for, drawn from what the load may be.
        """
        problem = self.problem
        return judge(problem, self.placement) if problem.dispatch == "one" else None

    @property
    def active(self) -> Any:
        """Expected most active experts on a GPU under dispatch ``"one"``, float64 [L]; else None.

        `active_bound` is what no placement has less of.
        """
        return None if self.one is None else self.problem.rewrap(self.one.active)

    @property
    def active_bound(self) -> Any:
        """Mean over batches of active experts per GPU, rounded up, float64 [L]; else None."""
        return None if self.one is None else self.problem.rewrap(self.one.active_bound)

    @cached_property
    def under(self) -> dict[str, float]:
        """Mean balancedness of the same placement and load under every dispatch, by its name."""
        tokens = self.problem.tokens_from
        return under_each(self.placement, self.problem.load, tokens, DISPATCHES)

    @cached_property
    def bound(self) -> Any:
        """Proven upper limit on the balancedness of any placement, float64 [L].

        Under the topology ``"strict"``, of any placement that keeps each group on one node. See
        `evenload.bounds`; computed when first asked for, which takes longer than a plan where there
        are two slots per GPU.
        """
        proven = 1.0 if self.proven is None else self.proven
        return self.problem.rewrap(np.minimum(balancedness_bound(self.problem), proven))

    @cached_property
    def split(self) -> Any:
        """Best uneven sharing of each expert's tokens, float64 [L, E, X]; see `Placement.split`."""
        return self.problem.rewrap(self.placement.split(self.problem.load))

    @cached_property
    def away_share(self) -> Any:
        """Part of the load computed away from its group's home node, float64 [L].

        None where there are no groups or only one node; see `evenload.traffic.away_share`.
        """
        groups = self.problem.num_groups
        if groups == 1 or self.problem.cluster.num_nodes == 1:
            return None
        return self.problem.rewrap(away_share(self.placement, self.problem.load, groups))

    @property
    def gap(self) -> Any:
        """How far each layer may be from the best, ``bound - balancedness``, [L]."""
        return self.bound - self.balancedness

    @property
    def _dispatch_words(self) -> str:
        planned = self.problem.dispatches
        words = f"{planned[0][1]:g} live, else even" if len(planned) > 1 else planned[0][0]
        others = [f"{name} {reached:.4f}" for name, reached in self.under.items() if name != words]
        return f"{words}; under others: {', '.join(others)}"

    def summary(self) -> str:
        """Return the plan's figures in a few lines of text."""
        p = self.placement
        lines = [
            f"{p.num_layers} layers, {p.num_experts} experts in {p.num_slots} slots on "
            f"{p.cluster.num_gpus} GPUs ({p.cluster.num_nodes} nodes)",
            f"solver          {self.solver}: {self.reason}",
            f"balancedness    mean {float(self.balancedness.mean()):.4f}, "
            f"worst layer {float(self.balancedness.min()):.4f}",
            f"bound           mean {float(self.bound.mean()):.4f} "
            f"(gap {float(self.gap.mean()):.4f}, largest {float(self.gap.max()):.4f})",
            f"dispatch        {self._dispatch_words}",
            f"straggler time  {self.straggler_time:.4f} x ideal",
            f"duplicates      {int(self.duplicates.sum())}",
        ]
        for name, of in self.by_phase.items():
            timed = ""
            if of.seconds is not None:
                timed = f"{1e6 * float(of.seconds.mean()):.2f} µs per layer and batch, "
            lines.append(
                f"{name:<15} {timed}mean {float(of.balancedness.mean()):.4f}, worst layer "
                f"{float(of.balancedness.min()):.4f}, straggler time {of.straggler_time:.4f} x "
                f"ideal, weight {of.weight:.2f}"
            )
        if self.problem.survive is not None:
            what, count = self.problem.survive
            lines.append(f"survives        any {count} {what}{'s' if count > 1 else ''}")
        if self.seconds is not None:
            lines.insert(4, f"seconds         {self._seconds_words()}")
        if self.expected_balancedness is not None:
            lines.append(f"over samples    mean {float(self.expected_balancedness.mean()):.4f}")
        if self.copies is not None:
            lines.append(
                f"copies          mean {float(self.copies.mean()):.2f} per layer and microbatch at "
                f"{self.problem.copy_slack:.0%} slack"
            )
        if self.one is not None:
            lines.append(
                f"active experts  mean {float(self.active.mean()):.2f} on the fullest GPU "
                f"(at least {float(self.active_bound.mean()):.2f})"
            )
        if self.moves is not None:
            lines.append(
                f"moves           {int(self.moves.sum())} of {self.moves.shape[0] * p.num_slots} "
                f"slots, most in a layer {int(self.moves.max())}"
            )
        if self.away_share is not None:
            lines.append(f"away from home  {float(self.away_share.mean()):.2%} of the load")
        return "\n".join([*lines, *(f"note            {note}" for note in self.notes)])

    def save(self, path: AnyPath, **how: Any) -> tuple[str, ...]:
        """Write the placement with what is known of its origin, as `evenload.io.write_placement`.

        The path's ending picks the format: ``.json`` and ``.npz`` (evenload's own), ``.pt``
        (SGLang), ``.yaml`` (TensorRT-LLM). `how` are arguments of that function, whose errors are
        the same. Returns what the format has no place for, one sentence each.
        """
        from evenload.io import write_placement

        about = {"solver": self.solver, "load": self.problem.load}
        if self.problem.dispatch != "even":
            about["dispatch"] = self.problem.dispatch
        return write_placement(path, self.placement, **{**about, **how})

    def plot(self, path: AnyPath | None = None) -> Any:
        """Draw the load of each GPU in each layer, before and after; needs matplotlib.

        Returns a ``matplotlib.figure.Figure``, saved too where a path to a ``.png``, ``.svg`` or
        ``.pdf`` is given. Without matplotlib (extra ``plot``) it is a `ValueError`.
        """
        from evenload.report.figures import draw_plan, drawn

        return drawn(draw_plan, self, path)

    def _repr_html_(self) -> str:
        from evenload.report.html import plan_html

        return plan_html(self)

    def _seconds_words(self) -> str:
        mean, least = (float(each.mean()) for each in (self.seconds, self.seconds_bound))
        worst = float(self.seconds.max())
        return (
            f"mean {1e6 * mean:.2f} µs per layer and batch, worst layer {1e6 * worst:.2f} µs; "
            f"bound mean {1e6 * least:.2f} µs"
        )

    def __repr__(self) -> str:
        timed = ""
        if self.seconds is not None:
            timed = f"{1e6 * float(self.seconds.mean()):.2f} µs per layer and batch, "
        phases = "".join(
            f"{name} {float(of.balancedness.mean()):.4f}, " for name, of in self.by_phase.items()
        )
        return (
            f"<Plan by {self.solver}: {timed}balancedness {float(self.balancedness.mean()):.4f}, "
            f"bound {float(self.bound.mean()):.4f}, {phases}{self.placement!r}>"
        )
