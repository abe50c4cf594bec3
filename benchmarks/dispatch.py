"""Plans for a live split beside plans for even sharing, judged in the next window under both."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import interleaved, number, summary, table
from benchmarks.planners import published
from benchmarks.problems import (
    DATA,
    NUM_GPUS,
    NUM_SLOTS,
    ORDERS,
    TRACES,
    Drift,
    drifts,
    is_here,
    merged,
    other_domains,
    shuffled,
)
from evenload import Cluster, Placement, solve
from evenload.splitting import WaterFilling
from evenload.synth import synthetic_trace

TITLE = "Dispatch"
DISPATCHES = ("even", "live")
PRICES = {"even": (0.0, 0.0005, 0.001, 0.003, 0.01, 0.03),
          "live": (0.0, 0.001, 0.003, 0.01, 0.03)}  # fmt: skip
STEPS = (500, 1000, 2000, 4000, 8000, 16000)
ROUNDS = (1, 2, 4, 8)
THEIRS = "DeepSeek EPLB, last window"
MOST_MOVES, LEAST, SIXTEEN = 0.04, 0.96, 16
# What was asked of a plan for a live split, by trace and GPUs: a sketch's next-window balancedness.
SKETCH = {
    ("gpt-oss-20b in turn", 8): 0.995, ("gpt-oss-20b in turn", 16): 0.989,
    ("gpt-oss-20b in turn", 32): 0.967, ("gpt-oss-20b mixed", 8): 0.999,
    ("gpt-oss-20b mixed", 16): 0.997, ("gpt-oss-20b mixed", 32): 0.989,
    ("deepseek-v2-lite in turn", 8): 0.948, ("deepseek-v2-lite in turn", 16): 0.890,
    ("deepseek-v2-lite in turn", 32): 0.842, ("deepseek-v2-lite mixed", 8): 0.990,
    ("deepseek-v2-lite mixed", 16): 0.970, ("deepseek-v2-lite mixed", 32): 0.951,
}  # fmt: skip

Load = NDArray[np.float64]


@dataclass(frozen=True)
class Planner:
    """Plans the windows seen from what runs, by evenload unless `plan` is given."""

    name: str
    dispatch: str = "even"
    options: dict[str, Any] = field(default_factory=dict)
    plan: Callable[[Load, Cluster], Placement] | None = None

    def __call__(self, drift: Drift, seen: Load, current: Placement) -> Placement:
        """Return what runs next; nobody is charged for leaving the engine's first placement."""
        if self.plan is not None:
            return self.plan(seen, drift.cluster)
        options = dict(self.options, dispatch=self.dispatch)
        if len(seen) == drift.warm:
            options["move_cost"] = 0.0
        return solve(seen, drift.cluster, current=current, **options).placement


def follow(drift: Drift, planner: Planner) -> dict[str, Any]:
    """Serve every window after the warm ones with what was planned before it."""
    _, L, E = drift.trace.shape
    current = Placement.trivial(L, E, drift.cluster)
    reached: dict[str, list[float]] = {dispatch: [] for dispatch in DISPATCHES}
    moved, seconds = [], []
    for t in range(drift.warm, len(drift.trace)):
        began = time.process_time()
        planned = planner(drift, drift.trace[:t], current)
        seconds.append(time.process_time() - began)
        moved.append(float(planned.moves_from(current).sum()) / (L * drift.cluster.num_slots))
        for dispatch, values in reached.items():
            window = drift.trace[t]
            values.append(float(planned.balancedness(window, dispatch=dispatch).mean()))
        current = planned
    return {
        "planner": planner.name,
        "moves": float(np.mean(moved[1:])),
        "ms": summary(seconds[1:])["median"],
        "worst": {dispatch: min(values) for dispatch, values in reached.items()},
        **{dispatch: float(np.mean(values)) for dispatch, values in reached.items()},
    }


def ceilings(drift: Drift) -> dict[str, Any]:
    """Return what a planner reaches that knows what each next window is expected to be.

    The window itself is taken for what is expected, the tokens that come are drawn from it, and
    moves are free. `oracle` knows the very tokens.
    """
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {d: {"oracle": [], "noise": []} for d in DISPATCHES}
    for window in drift.trace[drift.warm :]:
        share = window / window.sum(axis=1, keepdims=True)
        tokens = window.sum(axis=1).astype(int)
        drawn = np.array([rng.multinomial(n, row) for n, row in zip(tokens, share, strict=True)])
        for dispatch, values in found.items():
            plan = solve(window, drift.cluster, dispatch=dispatch, solver="incremental")
            values["oracle"].append(float(plan.balancedness.mean()))
            place = plan.placement
            values["noise"].append(float(place.balancedness(drawn, dispatch=dispatch).mean()))
    return {d: {k: float(np.mean(v)) for k, v in kinds.items()} for d, kinds in found.items()}


def planners() -> list[Planner]:
    """Return all that are compared on a trace, each at its defaults."""
    theirs, _ = published("DeepSeek EPLB")
    peers = [
        Planner(THEIRS, plan=lambda seen, cluster, p=p: Placement(
            p.plan(seen[-1], cluster.num_slots, 1, 1, cluster.num_gpus), cluster, seen.shape[2]))
        for p in theirs
    ]  # fmt: skip
    return [
        *peers,
        Planner("for even sharing"),
        Planner("for a live split", "live"),
        Planner("for a live split .7 of the time", "live", {"live_share": 0.7}),
    ]


def by_place() -> list[dict[str, Any]]:
    """Plan for tokens that start on each GPU alike, and go to a near replica if there is one."""
    trace = synthetic_trace(9, seed=1).astype(float)
    rows = []
    for nodes in (1, 2, 4):
        cluster = Cluster(NUM_GPUS, nodes, num_slots=NUM_SLOTS)
        plans = {d: solve(trace[:-1], cluster, dispatch=d) for d in ("even", "nearest", "static")}
        for judged in ("nearest", "static"):
            for made in ("even", judged):
                place = plans[made].placement
                seen, later = (place.balancedness(load, dispatch=judged).mean()
                               for load in (plans[made].problem.load, trace[-1]))  # fmt: skip
                rows.append({"nodes": nodes, "dispatch": judged, "planned": made,
                             "seen": float(seen), "next": float(later)})  # fmt: skip
    return rows


def by_rounds() -> list[dict[str, Any]]:
    """Split batches of 1,024 tokens by water-filling, on plans from the windows before theirs."""
    rows, planner = [], Planner("", "live")
    for name, (merge, orders, sizes) in TRACES.items():
        for order in orders if is_here(name) and len(orders) > 1 else ():
            with np.load(DATA / f"{name}.npz") as arrays:
                batches = arrays[order]  # of 1,024 tokens each
            cluster = Cluster(SIXTEEN, num_slots=sizes[SIXTEEN])
            drift = Drift(f"{name} {ORDERS[order]}", merged(batches.astype(float), merge), cluster)
            place = Placement.trivial(*batches.shape[1:], cluster)
            reached: dict[str, list[float]] = {}
            for t in range(drift.warm, len(drift.trace)):
                place = planner(drift, drift.trace[:t], place)
                fills = {str(n): WaterFilling(place, rounds=n).weights for n in ROUNDS}
                for batch in batches[t * merge : (t + 1) * merge]:
                    for way, split in {"even": None, **fills, "exact": place.split}.items():
                        weights = None if split is None else split(batch)
                        balance = place.balancedness(batch, weights).mean()
                        reached.setdefault(way, []).append(float(balance))
            means = {way: float(np.mean(values)) for way, values in reached.items()}
            rows.append({"trace": drift.name, "slots": cluster.num_slots, **means})
    return rows


def speed(rounds: int) -> dict[str, Any]:
    """Time a live plan in DeepSeek-V3's shape, from what runs and 17 windows, and an even one."""
    trace = synthetic_trace(17, seed=1).astype(float)
    cluster = Cluster(NUM_GPUS, num_slots=NUM_SLOTS)
    calls = {}
    for dispatch in DISPATCHES:
        current = solve(trace[:16], cluster, dispatch=dispatch).placement
        calls[dispatch] = partial(solve, trace, cluster, current=current, dispatch=dispatch)
    return {name: summary(s)["median"] for name, s in interleaved(calls, rounds).items()}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Follow every planner over every trace."""
    judged = [drift for drift in drifts(quick) if drift.real and not drift.is_short]
    others = [*shuffled(1 if quick else 3), *map(other_domains, range(1 if quick else 3))]
    results = []
    for drift in [*judged, *others]:
        say(f"{drift.name}, {drift.cluster.num_gpus} GPUs")
        results.append({
            "name": drift.name, "gpus": drift.cluster.num_gpus, "slots": drift.cluster.num_slots,
            "measured": drift in judged,
            "ceilings": ceilings(drift),
            "planners": [follow(drift, planner) for planner in planners()],
        })  # fmt: skip
    say("curves")
    curves = {
        dispatch: {
            price: [follow(drift, Planner("", dispatch, {"move_cost": price})) for drift in judged]
            for price in (PRICES[dispatch][1::3] if quick else PRICES[dispatch])
        }
        for dispatch in DISPATCHES
    }
    say("steps")
    middle = [drift for drift in judged if drift.cluster.num_gpus == SIXTEEN]
    efforts = {
        steps: [follow(drift, Planner("", "live", {"effort": steps})) for drift in middle]
        for steps in (STEPS[:2] if quick else STEPS)
    }
    say("by rounds, by place, and speed")
    return {
        "traces": results,
        "curves": {d: {str(p): _mean(rows) for p, rows in c.items()} for d, c in curves.items()},
        "steps": {str(steps): _mean(rows) for steps, rows in efforts.items()},
        "by_rounds": by_rounds(),
        "by_place": by_place(),
        "speed": speed(2 if quick else 7),
    }


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Average what several traces gave."""
    keys = ("even", "live", "moves", "ms")
    return {key: float(np.mean([row[key] for row in rows])) for key in keys} if rows else None


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    speeds = result["speed"]
    steps = [[steps, *_cells(row)] for steps, row in result["steps"].items() if row]
    parts = [
        "Each planner is asked before every window, from the windows before it; `even` and `live` "
        "are the balancedness of the window that it could not see, mean over layers and windows, "
        "with every expert's tokens shared evenly and with the best split of that window. Moves "
        "are shares of all slots, a window. The ceiling knows the next window's expected load "
        "exactly, but not its tokens, and moves freely: beyond it lies luck.",
        "![balance against moves by dispatch](../figures/dispatch.png)",
        _in_short([trace for trace in result["traces"] if trace["measured"]]),
        table(("trace, GPUs/slots", "planner", "even", "live", "worst window, live", "moves",
               "below the ceiling, even", "below the ceiling, live", "CPU ms per plan"),
              [row for trace in result["traces"] for row in _rows(trace)]),
        "Steps of a layer against quality, mean over the four measured traces on 16 GPUs "
        "(`effort=`; by default 8000 there):",
        table(("steps", "even", "live", "moves", "CPU ms per plan"), steps),
        f"Batches of 1,024 tokens on {SIXTEEN} GPUs, split evenly, by rounds of water-filling, and "
        "exactly; the placements were planned for a live split of the windows before:",
        table(("trace", "slots", "even", *(f"rounds: {n}" for n in ROUNDS), "exact"),
              [[r["trace"], str(r["slots"]),
                *(f"{r[way]:.4f}" for way in ("even", *map(str, ROUNDS), "exact"))]
               for r in result["by_rounds"]]),
        "Tokens start on each GPU alike and take the near replica where there is one (58 x 256 -> "
        f"{NUM_SLOTS} slots, {NUM_GPUS} GPUs): the load planned for, and the next window.",
        table(("nodes", "dispatch", "planned for", "seen", "next"),
              [[str(r["nodes"]), r["dispatch"], r["planned"], f"{r['seen']:.4f}",
                f"{r['next']:.4f}"] for r in result["by_place"]]),
        f"58 x 256 -> {NUM_SLOTS} slots on {NUM_GPUS} GPUs, from what runs and 17 windows: "
        f"{number(speeds['live'])} ms for a live split, {number(speeds['even'])} ms for even "
        "sharing.",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _cells(row: dict[str, float]) -> list[str]:
    return [f"{row['even']:.4f}", f"{row['live']:.4f}", f"{row['moves']:.1%}", number(row["ms"])]


def _rows(trace: dict[str, Any]) -> list[list[str]]:
    label = f"{trace['name']}, {trace['gpus']}/{trace['slots']}"
    noise = {d: trace["ceilings"][d]["noise"] for d in DISPATCHES}
    rows = []
    for p in trace["planners"]:
        even, live, moves, ms = _cells(p)
        below = [f"{noise[d] - p[d]:.4f}" for d in DISPATCHES]
        rows.append(
            [label, p["planner"], even, live, f"{p['worst']['live']:.4f}", moves, *below, ms]
        )
    for told, kind in (("ceiling", "noise"), ("oracle", "oracle")):
        values = [f"{trace['ceilings'][d][kind]:.4f}" for d in DISPATCHES]
        rows.append([label, told, *values, *[""] * 5])
    return rows


def _in_short(measured: list[dict[str, Any]]) -> str:
    """Hold the plans for a live split to what a sketch reached, and to those for even sharing."""
    if not measured:
        return ""
    named = [{p["planner"]: p for p in trace["planners"]} for trace in measured]
    live = [names["for a live split"] for names in named]
    even = [names["for even sharing"] for names in named]
    known = [(trace["name"], trace["gpus"]) for trace in measured]
    short = [SKETCH[key] - p["live"] for key, p in zip(known, live, strict=True) if key in SKETCH]
    lines = [
        f"- Planned for a live split, mean of {len(live)} cases: "
        f"{np.mean([p['live'] for p in live]):.4f} at {np.mean([p['moves'] for p in live]):.1%} "
        f"of the slots moved a window (wanted: {LEAST} at {MOST_MOVES:.0%}).",
        f"- Planned for even sharing and split live: {np.mean([p['live'] for p in even]):.4f} at "
        f"{np.mean([p['moves'] for p in even]):.1%}; below the plan for a live split on "
        f"{sum(a['live'] >= b['live'] for a, b in zip(live, even, strict=True))} of {len(live)}.",
        f"- Against the sketch that set the goal: {-max(short):+.4f} on the worst case, "
        f"{-np.mean(short):+.4f} on average.",
        f"- Slowest plan: {max(p['ms'] for p in live):.0f} ms of CPU time, median over a trace's "
        "windows.",
    ]
    return "\n".join(lines)


CURVES = (("even", "even", "s:", "planned for even sharing, shared evenly"),
          ("even", "live", "s-", "planned for even sharing, split live"),
          ("live", "live", "o-", "planned for a live split, split live"),
          ("live", "even", "o:", "planned for a live split, shared evenly"))  # fmt: skip


def draw(result: dict[str, Any], file: Path | BinaryIO) -> None:
    """Write next-window balancedness against moves, a curve for each planner and dispatch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained", dpi=150)
    axes = figure.subplots()
    for made, judged, style, label in CURVES:
        curve = [row for row in result["curves"][made].values() if row]
        colour = "tab:orange" if made == "even" else "tab:blue"
        axes.plot([100 * row["moves"] for row in curve], [row[judged] for row in curve], style,
                  color=colour, label=label, markersize=5)  # fmt: skip
    axes.set_xlabel("moves per window, % of all slots (log)")
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_ylabel("balancedness of the next window")
    axes.set_title(
        "Mean over the measured traces on 8, 16 and 32 GPUs; points are prices of a move"
    )
    axes.grid(visible=True, alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(file, format="png")
