"""How long plans take, over vLLM's planner in the same run."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.baseline.quality import SOLVERS
from benchmarks.measure import clocked
from benchmarks.peers import VLLM, Planner, published
from benchmarks.sizes import Size, sizes
from benchmarks.wheels import PeerMissingError
from evenload import Cluster, solve
from evenload.synth import synthetic_trace

ROUNDS = 9
ROUNDS_SLOW = 2
REFERENCE = "vLLM 0.33.0"


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Return wall and CPU time of each row as ratios, medians over interleaved rounds.

    Raises
    ------
    PeerMissingError
        If vLLM's planner cannot be had.
    """
    theirs = _reference()
    found: dict[str, Any] = {}
    for size in sizes():
        say(size.name)
        found |= _shape(size, theirs)
    say("current")
    return found | _replanned(theirs)


def _reference() -> Planner:
    planners, missing = published()
    for planner in planners:
        if planner.name == REFERENCE:
            return planner
    raise PeerMissingError(f"times are ratios to {VLLM.package}'s planner; {' '.join(missing)}")


def _shape(size: Size, theirs: Planner) -> dict[str, Any]:
    case = size.cases(1)[0]
    calls: dict[str, Callable[[], object]] = {REFERENCE: partial(theirs.plan, *case.arguments)}
    for name, options in SOLVERS.items():
        calls[name] = partial(solve, case.load, case.cluster, num_groups=case.num_groups, **options)
    slow = {name: calls.pop(name) for name in list(calls) if name.endswith("thorough")}
    return _ratios(size.name, calls, ROUNDS) | _ratios(
        size.name, {REFERENCE: calls[REFERENCE]} | slow, ROUNDS_SLOW
    )


def _replanned(theirs: Planner) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for gpus in (32, 96):
        trace = synthetic_trace(17, seed=1).astype(float)
        cluster = Cluster(gpus, num_slots=288)
        runs = solve(trace[-2], cluster, solver="greedy").placement
        calls: dict[str, Callable[[], object]] = {
            REFERENCE: partial(theirs.plan, trace[-1], 288, 1, 1, gpus),
            "default": partial(solve, trace[-1], cluster, current=runs),
            "free moves": partial(solve, trace[-1], cluster, current=runs, move_cost=0.0),
            "200 in all": partial(solve, trace[-1], cluster, current=runs, max_total_moves=200),
            "trace": partial(solve, trace, cluster, current=runs),
        }
        found |= _ratios(f"current 288/{gpus}", calls, ROUNDS)
    return found


def _ratios(
    shape: str, calls: dict[str, Callable[[], object]], rounds: int
) -> dict[str, dict[str, float]]:
    seconds = {name: np.array(values) for name, values in clocked(calls, rounds).items()}
    theirs = seconds.pop(REFERENCE)
    return {
        f"{shape} | {name}": {
            "wall": statistics.median(ours[:, 0] / theirs[:, 0]),
            "cpu": statistics.median(ours[:, 1] / theirs[:, 1]),
            "ms": 1000 * statistics.median(ours[:, 0]),
        }
        for name, ours in seconds.items()
    }
