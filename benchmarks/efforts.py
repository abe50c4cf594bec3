"""What more time buys: quality and time of each planner and effort, over several seeds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import efforts_table, ours
from benchmarks.loads import NUM_LAYERS, Case
from benchmarks.measure import Rounds, interleaved, once
from benchmarks.peers import Planner, published
from benchmarks.quality import placed
from benchmarks.sizes import Size, sizes
from evenload import solve

TITLE = "Efforts"
REFERENCE = "local-search"

# These take long: one timed call a seed, and DeepSeek's on the first seeds only.
TIMED_ONCE = ("DeepSeek EPLB", "SGLang 0.5.23", "joint thorough")
SEEDS_OF = {"DeepSeek EPLB": 3}


@dataclass
class Record:
    """What one planner did on a size, an entry a seed (times: an entry a round)."""

    mean: list[float] = field(default_factory=list)
    gap: list[NDArray[np.float64]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every planner at every size."""
    planners, missing = published()
    planners += ours.effort_planners()
    seeds, rounds = (2, 1) if quick else (5, 2)
    results = [measure(size, planners, seeds, rounds, say) for size in sizes(quick)]
    return {"seeds": seeds, "rounds": rounds, "missing": missing, "sizes": results}


def measure(
    size: Size,
    planners: Sequence[Planner],
    seeds: int,
    rounds: int,
    say: Callable[[str], None],
    num_layers: int = NUM_LAYERS,
) -> dict[str, Any]:
    """Return what each planner reaches at one size, and how long it takes."""
    records = {planner.name: Record() for planner in planners}
    bounds = []
    for seed, case in enumerate(size.cases(seeds, num_layers)):
        say(f"{size.name}, seed {seed}")
        chosen = {p.name: p for p in planners if seed < SEEDS_OF.get(p.name, seeds)}
        seconds, answers = _time(case, chosen, rounds)
        bound = _bound(case)
        bounds.append(float(bound.mean()))
        for name, answer in answers.items():
            _add(records[name], placed(case, answer).balancedness(case.load), bound)
            records[name].seconds += seconds[name]
            records[name].ratio.append(_ratio(seconds, name))
    return {
        "name": size.name,
        "seeds": len(bounds),
        "bound": statistics.mean(bounds),
        "planners": [_summary(name, record) for name, record in records.items()],
    }


def _time(
    case: Case, planners: Mapping[str, Planner], rounds: int
) -> tuple[Rounds, dict[str, NDArray[np.int64]]]:
    calls = {name: partial(planner.plan, *case.arguments) for name, planner in planners.items()}
    often = {name: call for name, call in calls.items() if name not in TIMED_ONCE}
    answers = {name: call() for name, call in often.items()}
    seconds = interleaved(often, rounds)
    for name in calls.keys() - often.keys():
        took, answers[name] = once(calls[name])
        seconds[name] = [took]
    return seconds, answers


def _bound(case: Case) -> NDArray[np.float64]:
    plan = solve(case.load, case.cluster, num_groups=case.num_groups, solver="greedy")
    bound: NDArray[np.float64] = plan.bound
    return bound


def _ratio(seconds: Rounds, name: str) -> float:
    """Return how many times longer than the reference a planner took, on one seed."""
    return statistics.median(seconds[name]) / statistics.median(seconds[REFERENCE])


def _add(record: Record, reached: NDArray[np.float64], bound: NDArray[np.float64]) -> None:
    record.mean.append(float(reached.mean()))
    record.gap.append(bound - reached)


def _summary(name: str, record: Record) -> dict[str, Any]:
    gap = np.concatenate(record.gap)
    return {
        "name": name,
        "mean": statistics.mean(record.mean),
        "least": min(record.mean),
        "most": max(record.mean),
        "gap_mean": float(gap.mean()),
        "gap_median": float(np.median(gap)),
        "ms": 1000 * statistics.median(record.seconds),
        "ratio": statistics.median(record.ratio),
        "seeds": len(record.mean),
    }


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    return efforts_table.render(result)
