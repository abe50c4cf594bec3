"""The time of what runs live: a plan from what runs, and the split of a batch."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.measure import clocked, number, ratio, summary, table, times
from benchmarks.planners import Planner, published
from benchmarks.problems import Drift, drifts
from evenload import Placement, solve
from evenload.splitting import WaterFilling

TITLE = "While serving"
REFERENCES = ("vLLM 0.33.0", "DeepSeek EPLB")
FRESH, LIVE, SPLIT = "evenload, fresh plan", "evenload, live plan", "evenload, split of a batch"
LIVE_SPLIT = f"{LIVE} for a live split"
WINDOWS = 16  # of history
QUIET = 0.5  # load average up to which a machine is quiet
CASES = (("gpt-oss-20b", 8), ("synthetic 58 x 256, seed 0", 32))  # names begin so; GPUs
HEAD = ("call", "ms", "min - max", "CPU ms", *(f"vs {name}" for name in REFERENCES),
        "next window", "moves")  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Time every call on the cases that are here."""
    planners, missing = published(*REFERENCES)
    rounds, results, busy = 3 if quick else 11, [], os.getloadavg()[0]
    for drift in drifts():
        if any(drift.name.startswith(n) and drift.cluster.num_gpus == g for n, g in CASES):
            say(f"{drift.name}, {drift.cluster.num_gpus} GPUs")
            results.append(measure(drift, planners, rounds))
    return {"rounds": rounds, "missing": missing, "busy": busy, "cases": results}


def measure(drift: Drift, planners: list[Planner], rounds: int) -> dict[str, Any]:
    """Plan for the window after the first 16, from a plan for the last of the 15 before it."""
    seen, following, cluster = drift.trace[:WINDOWS], drift.trace[WINDOWS], drift.cluster
    _, L, E = seen.shape
    plans: dict[str, Callable[[], Placement]] = {p.name: partial(_peer, p, drift) for p in planners}
    running = {d: solve(seen[:-1], cluster, dispatch=d).placement for d in ("even", "live")}
    plans[FRESH] = lambda: solve(seen[-1], cluster).placement
    plans[LIVE] = lambda: solve(seen, cluster, current=running["even"]).placement
    plans[LIVE_SPLIT] = lambda: (
        solve(seen, cluster, current=running["live"], dispatch="live").placement
    )
    placed = {name: plan() for name, plan in plans.items()}
    filling = WaterFilling(placed[LIVE_SPLIT])
    took = clocked({**plans, SPLIT: partial(filling.quotas, following.astype(int))}, rounds)
    wall = {name: [w for w, _ in pairs] for name, pairs in took.items()}
    rows = []
    for name, pairs in took.items():
        row = {
            "name": name,
            "ms": summary(wall[name]),
            "cpu_ms": summary([cpu for _, cpu in pairs])["median"],
            "faster": {o: ratio(wall[o], wall[name]) for o in REFERENCES if o in wall},
        }
        if name in placed:
            dispatch = "live" if name == LIVE_SPLIT else "even"
            place, old = placed[name], running[dispatch]
            weights = place.weights(following, dispatch)
            row["next"] = float(place.balancedness(following, weights).mean())
            row["moves"] = int(place.moves_from(old).sum())
        rows.append(row)
    size = f"{L} x {E} -> {cluster.num_slots} slots, {cluster.num_gpus} GPUs"
    return {"name": drift.name, "size": size, "calls": rows}


def _peer(planner: Planner, drift: Drift) -> Placement:
    """Plan the last window as published, from scratch."""
    cluster, load = drift.cluster, drift.trace[WINDOWS - 1]
    chosen = planner.plan(load, cluster.num_slots, 1, 1, cluster.num_gpus)
    return Placement(chosen, cluster, load.shape[1])


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    return "\n\n".join([
        "What an engine waits for while it serves. `live plan` is `solve(trace, current=)` with a "
        f"history of {WINDOWS} windows, from a plan for the {WINDOWS - 1} before; `fresh plan` is "
        "`solve` of the last window alone, which is all that the published planners see. `split of "
        "a batch` divides the tokens of one window among the replicas by `WaterFilling`, compiled "
        f"on the CPU. Medians of {result['rounds']} interleaved rounds. `next window` is the "
        "balancedness in the window that no planner saw, under the dispatch planned for; moves are "
        "from the placement that runs.",
        *(f"Not run: {sentence}" for sentence in result["missing"]),
        *tables(result),
    ])  # fmt: skip


def tables(result: dict[str, Any]) -> list[str]:
    """Return a table for each case, under its name; first whether others used the machine."""
    told = (
        f"The machine was busy with other work (load average {result['busy']:.1f} when this "
        "began), so that waiting is in the times by the clock: go by `CPU ms`, of all threads."
    )
    return [told] * (result["busy"] > QUIET) + [
        f"**{case['name']}** ({case['size']})\n\n" + table(HEAD, map(_cells, case["calls"]))
        for case in result["cases"]
    ]


def _cells(call: dict[str, Any]) -> list[str]:
    return [
        call["name"],
        number(call["ms"]["median"]),
        f"{number(call['ms']['min'])} - {number(call['ms']['max'])}",
        number(call["cpu_ms"]),
        *(times(call["faster"].get(name)) for name in REFERENCES),
        f"{call['next']:.4f}" if "next" in call else "",
        str(call.get("moves", "")),
    ]
