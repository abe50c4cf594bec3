"""Placements compared on one load: the columns of a report and the lines below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.bounds import balancedness_bound
from evenload.cluster import Cluster
from evenload.io import PlacementFile, load_digest
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.report.digits import percent_down, percent_up
from evenload.report.summary import Summary, summarise

if TYPE_CHECKING:
    from evenload.plan import Plan


def _trivial(load: Any, cluster: Cluster, **traffic: Any) -> tuple[Placement, Summary]:
    """Summarise the trivial placement, bounded as any is: it keeps no groups together."""
    L, E = load.shape
    placement = Placement.trivial(L, E, cluster)
    bound = balancedness_bound(Problem.build(load, cluster))
    return placement, summarise("trivial", placement, load, bound=bound, **traffic)


def _first(load: Any, plan: Plan, **traffic: Any) -> tuple[Placement, Summary]:
    """Summarise what runs now, or the trivial placement where that is not known.

    Moves are not counted between different numbers of GPUs: a plan has its own.
    """
    current = plan.current
    if current is None or current.cluster.num_gpus != plan.placement.cluster.num_gpus:
        return _trivial(load, plan.placement.cluster, **traffic)
    bound = balancedness_bound(Problem.build(load, current.cluster))
    return current, summarise("current", current, load, start=current, bound=bound, **traffic)


def compare_plans(
    load: Any, plans: Mapping[str, tuple[Plan, float]], **traffic: Any
) -> list[Summary]:
    """Summarise what runs now, or the trivial placement, and then each plan.

    Parameters
    ----------
    load : ndarray, [L, E]
    plans : mapping, name -> (Plan, milliseconds)
        At least one; all on one cluster.
    **traffic
        `num_groups` and `topk`, as `summary.summarise`.
    """
    last, _ = list(plans.values())[-1]
    start, column = _first(load, last, **traffic)
    columns = [column]
    for name, (plan, milliseconds) in plans.items():
        columns.append(
            summarise(
                name,
                plan.placement,
                load,
                start=start,
                solver=plan.solver,
                bound=plan.bound,
                milliseconds=milliseconds,
                **traffic,
            )
        )
    return columns


def compare_plan(load: Any, plan: Plan, milliseconds: float, **traffic: Any) -> list[Summary]:
    """Summarise what runs now, or the trivial placement, and one plan, named after its solver."""
    return compare_plans(load, {plan.solver: (plan, milliseconds)}, **traffic)


def compare_file(load: Any, file: PlacementFile, **traffic: Any) -> list[Summary]:
    """Summarise the trivial placement and the one in a file; `traffic` as `compare_plans`.

    Raises
    ------
    ValueError
        If the placement is for another number of layers or experts than the load.
    """
    placement = file.placement
    theirs = (placement.num_layers, placement.num_experts)
    if load.shape != theirs:
        raise ValueError(
            f"{file.source} places {theirs[0]} layers x {theirs[1]} experts, and the loads have "
            f"{load.shape[0]} x {load.shape[1]}; use a placement and loads of one model"
        )
    trivial, column = _trivial(load, placement.cluster, **traffic)
    name = Path(file.source).name
    return [
        column,
        summarise(
            name,
            placement,
            load,
            start=trivial,
            solver=file.solver,
            bound=column.bound,
            **traffic,
        ),
    ]


def relief(before: Summary, after: Summary) -> str:
    """Say in one sentence what the step from one placement to another changes."""
    change = 1.0 - after.straggler_time / before.straggler_time
    if abs(change) < 5e-5:
        return f"The heaviest GPUs have as much to do with {after.name} as with {before.name}."
    how = f"{percent_down(change)} less" if change > 0 else f"{percent_up(-change, 1)} more"
    return (
        f"Every layer waits for its heaviest GPU; with {after.name} those have {how} to do than "
        f"with {before.name}."
    )


def plan_lines(summaries: Sequence[Summary], plan: Plan) -> list[str]:
    """Return the lines below a plan's table: the gist, the solver and why, its notes."""
    lines = [relief(summaries[0], summaries[-1]), f"solver: {plan.solver} ({plan.reason})"]
    return lines + [f"note: {note}" for note in plan.notes]


def file_lines(summaries: Sequence[Summary], load: Any, file: PlacementFile) -> list[str]:
    """Return the lines below the table of a placement file: the gist, and what it was made for."""
    lines = [relief(summaries[0], summaries[-1])]
    if file.load_digest is not None:
        same = file.load_digest == load_digest(load)
        lines.append(f"The placement was made for {'these very' if same else 'other'} loads.")
    return lines
