"""Whether a plan holds in the window after, and what it moves: policies over real traces."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import drift_table
from benchmarks.drift_traces import Drift, drifts
from benchmarks.loads import NUM_GPUS, NUM_SLOTS
from benchmarks.measure import interleaved, ratio, summary
from benchmarks.peers import Planner, published
from evenload import Cluster, Placement, solve
from evenload.synth import synthetic_trace

TITLE = "Drift"
DEFAULT = "incremental, as it is"
PRICES = (0.0, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02)
PEERS = ("DeepSeek EPLB", "vLLM 0.33.0")

Load = NDArray[np.float64]
Plan = Callable[[Load, Placement], Placement]
"""``plan(windows seen [T, L, E], what runs)`` gives what runs next."""


@dataclass(frozen=True)
class Policy:
    """A way to plan before every window.

    Attributes
    ----------
    name : str
    plan : callable
    price : float, optional
        Of a move, for those that have one.
    """

    name: str
    plan: Plan
    price: float | None = None


def policies(drift: Drift, planners: list[Planner]) -> list[Policy]:
    """Return all that are compared on a trace."""
    cluster = drift.cluster
    return [
        Policy("never", lambda _, current: current),
        Policy("once", _once(cluster)),
        *(Policy(f"{p.name}, last window", partial(_peer, p, cluster)) for p in planners),
        Policy("joint, last window", lambda seen, _: solve(seen[-1], cluster).placement),
        *(
            Policy(f"incremental {price:g}", partial(_incremental, drift, price), price)
            for price in PRICES
        ),
        Policy(DEFAULT, partial(_incremental, drift, None)),
    ]


def _once(cluster: Cluster) -> Plan:
    planned: list[Placement] = []

    def plan(seen: Load, _: Placement) -> Placement:
        if not planned:
            planned.append(solve(seen.sum(axis=0), cluster).placement)
        return planned[0]

    return plan


def _peer(planner: Planner, cluster: Cluster, seen: Load, _: Placement) -> Placement:
    chosen = planner.plan(seen[-1], cluster.num_slots, 1, 1, cluster.num_gpus)
    return Placement(chosen, cluster, seen.shape[2])


def _incremental(drift: Drift, price: float | None, seen: Load, current: Placement) -> Placement:
    free = len(seen) == drift.warm  # nobody is charged for leaving the engine's first placement
    return solve(seen, drift.cluster, current=current, move_cost=0 if free else price).placement


def follow(drift: Drift, policy: Policy) -> tuple[list[float], list[int]]:
    """Serve every window after the warm ones with what was planned before it.

    Returns
    -------
    reached : list of float
        Mean balancedness over layers in each window.
    moved : list of int
        Experts moved before each window but the first: every policy starts from the engine's
        trivial placement, and none is charged for leaving that.
    """
    _, L, E = drift.trace.shape
    current = Placement.trivial(L, E, drift.cluster)
    reached, moved = [], []
    for t in range(drift.warm, len(drift.trace)):
        planned = policy.plan(drift.trace[:t], current)
        moved.append(int(planned.moves_from(current).sum()))
        reached.append(float(planned.balancedness(drift.trace[t]).mean()))
        current = planned
    return reached, moved[1:]


def oracle(drift: Drift) -> list[float]:
    """Plan each window on itself, searched as hard as the incremental solver searches."""
    windows = drift.trace[drift.warm :, None]
    plans = [solve(window, drift.cluster, solver="incremental") for window in windows]
    return [float(plan.balancedness.mean()) for plan in plans]


def measure(drift: Drift, planners: list[Planner]) -> dict[str, Any]:
    """Return what every policy reaches and moves on one trace."""
    rows = []
    for policy in policies(drift, planners):
        reached, moved = follow(drift, policy)
        rows.append(
            {
                "name": policy.name,
                "price": policy.price,
                "balancedness": float(np.mean(reached)),
                "worst": min(reached),
                "moves": float(np.mean(moved)),
            }
        )
    return {
        "name": drift.name,
        "gpus": drift.cluster.num_gpus,
        "slots": drift.cluster.num_slots,
        "layers": drift.trace.shape[1],
        "windows": len(drift.trace) - drift.warm,
        "judged": drift.real and not drift.is_short,
        "oracle": float(np.mean(oracle(drift))),
        "policies": rows,
    }


def speed(rounds: int) -> dict[str, Any]:
    """Time the incremental solver beside those that plan from scratch, in turn."""
    trace = synthetic_trace(17, seed=1).astype(float)
    cluster = Cluster(NUM_GPUS, num_slots=NUM_SLOTS)
    current = solve(trace[:16], cluster).placement
    calls = {
        "local-search": lambda: solve(trace[-1], cluster, solver="local-search"),
        "auto": lambda: solve(trace[-1], cluster),
        "incremental, one load": lambda: solve(trace[-1], cluster, current=current),
        "incremental, trace": lambda: solve(trace, cluster, current=current),
    }
    seconds = interleaved(calls, rounds)
    return {
        name: {
            "ms": summary(values)["median"],
            "to_local_search": ratio(values, seconds["local-search"]),
            "to_auto": ratio(values, seconds["auto"]),
        }
        for name, values in seconds.items()
    }


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Follow every policy over every trace."""
    planners, missing = published()
    chosen = [planner for planner in planners if planner.name in PEERS]
    results = []
    for drift in drifts(quick):
        say(f"{drift.name}, {drift.cluster.num_gpus} GPUs")
        results.append(measure(drift, chosen))
    say("speed")
    return {"missing": missing, "traces": results, "speed": speed(2 if quick else 9)}


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    return drift_table.render(result)
