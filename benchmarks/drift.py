"""Whether a plan holds in the window after, and what it moves: policies over real traces."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import interleaved, number, ratio, summary, table, times
from benchmarks.planners import Planner, published
from benchmarks.problems import NUM_GPUS, NUM_SLOTS, Drift, drifts
from evenload import Cluster, Placement, solve
from evenload.synth import synthetic_trace

TITLE = "Drift"
PRICES = (0.0, 0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02)
THEIRS, FREE = "DeepSeek EPLB, last window", "incremental 0"
HEAD = ("trace, GPUs/slots", "policy", "next window", "worst window", "regret", "moves per window",
        "moves / DeepSeek's")  # fmt: skip

Load = NDArray[np.float64]


@dataclass(frozen=True)
class Policy:
    """``plan(windows seen [T, L, E], what runs)`` gives what runs next; a move may have a price."""

    name: str
    plan: Callable[[Load, Placement], Placement]
    price: float | None = None


def policies(drift: Drift, planners: list[Planner]) -> list[Policy]:
    """Return all that are compared on a trace."""
    cluster = drift.cluster
    once: list[Placement] = []

    def plan_once(seen: Load, _: Placement) -> Placement:
        if not once:
            once.append(solve(seen.sum(axis=0), cluster).placement)
        return once[0]

    def peer(planner: Planner, seen: Load, _: Placement) -> Placement:
        chosen = planner.plan(seen[-1], cluster.num_slots, 1, 1, cluster.num_gpus)
        return Placement(chosen, cluster, seen.shape[2])

    return [
        Policy("never", lambda _, current: current),
        Policy("once", plan_once),
        *(Policy(f"{p.name}, last window", partial(peer, p)) for p in planners),
        Policy("joint, last window", lambda seen, _: solve(seen[-1], cluster).placement),
        *(
            Policy(f"incremental {price:g}", partial(incremental, drift, price), price)
            for price in PRICES
        ),
        Policy("incremental, as it is", partial(incremental, drift, None)),
    ]


def incremental(drift: Drift, price: float | None, seen: Load, current: Placement) -> Placement:
    """Plan from what runs, at a price of a move."""
    free = len(seen) == drift.warm  # nobody is charged for leaving the engine's first placement
    return solve(seen, drift.cluster, current=current, move_cost=0 if free else price).placement


def follow(drift: Drift, policy: Policy, stride: int = 1) -> tuple[list[float], list[int]]:
    """Serve the windows after the warm ones, every `stride`-th, with what was planned before it.

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
    for t in range(drift.warm, len(drift.trace), stride):
        planned = policy.plan(drift.trace[:t], current)
        moved.append(int(planned.moves_from(current).sum()))
        reached.append(float(planned.balancedness(drift.trace[t]).mean()))
        current = planned
    return reached, moved[1:]


def measure(drift: Drift, planners: list[Planner]) -> dict[str, Any]:
    """Return what every policy reaches and moves on one trace."""
    rows = []
    for policy in policies(drift, planners):
        reached, moved = follow(drift, policy)
        rows.append({
            "name": policy.name,
            "price": policy.price,
            "balancedness": float(np.mean(reached)),
            "worst": min(reached),
            "moves": float(np.mean(moved)),
        })  # fmt: skip
    # The oracle plans each window on itself, searched as hard as the incremental solver searches.
    windows = drift.trace[drift.warm :, None]
    oracle = [solve(w, drift.cluster, solver="incremental").balancedness.mean() for w in windows]
    return {
        "name": drift.name,
        "gpus": drift.cluster.num_gpus,
        "slots": drift.cluster.num_slots,
        "layers": drift.trace.shape[1],
        "windows": len(windows),
        "judged": drift.real and not drift.is_short,
        "oracle": float(np.mean(oracle)),
        "policies": rows,
    }


def speed(rounds: int) -> dict[str, Any]:
    """Time the incremental solver beside those that plan from scratch, in turn."""
    trace = synthetic_trace(17, seed=1).astype(float)
    cluster = Cluster(NUM_GPUS, num_slots=NUM_SLOTS)
    current = solve(trace[:16], cluster).placement
    calls = {
        "local-search": partial(solve, trace[-1], cluster, solver="local-search"),
        "auto": partial(solve, trace[-1], cluster),
        "incremental, one load": partial(solve, trace[-1], cluster, current=current),
        "incremental, trace": partial(solve, trace, cluster, current=current),
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
    planners, missing = published("DeepSeek EPLB", "vLLM 0.33.0")
    results = []
    for drift in drifts(quick):
        say(f"{drift.name}, {drift.cluster.num_gpus} GPUs")
        results.append(measure(drift, planners))
    say("speed")
    return {"missing": missing, "traces": results, "speed": speed(2 if quick else 9)}


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    traces = result["traces"]
    named = [{policy["name"]: policy for policy in trace["policies"]} for trace in traces]
    has_theirs = all(THEIRS in names for names in named)
    judged = [i for i, trace in enumerate(traces) if trace["judged"]]
    speeds = [[name, number(v["ms"]), times(v["to_local_search"]), times(v["to_auto"])]
              for name, v in result["speed"].items()]  # fmt: skip
    parts = [
        "Before every window each policy plans from the windows before it; `next window` is the "
        "balancedness reached in the window that it could not see, mean over layers and windows, "
        "and `regret` what an oracle reaches more, which plans on that window itself and searches "
        "as hard. Windows have about 10k tokens (gpt-oss-20b) and 2k (DeepSeek-V2-Lite); "
        "qwen3-30b-a3b (4 windows) and olmoe-domains (6, and they are domains, not time) are too "
        "short to judge by. `incremental 0.001` is the solver with `move_cost=0.001`. The first "
        "plan's moves, away from the engine's first placement, are no policy's.",
        "![balance against moves](../figures/drift.png)",
        *(f"Not run: {sentence}" for sentence in result["missing"]),
        *(_in_short([named[i] for i in judged], [traces[i]["oracle"] for i in judged])
          if judged and has_theirs else []),
        "By order of the traffic, numbers of GPUs and, for the synthetic trace, seed: points below "
        "free moves, and moves over DeepSeek's, each as mean ± standard deviation over the cases.",
        *([_spread(traces, named)] if has_theirs else []),
        table(HEAD, [row for trace, names in zip(traces, named, strict=True)
                     for row in _rows(trace, names.get(THEIRS))]),
        "58 x 256 -> 288 slots on 32 GPUs, in turn within one run; the trace has 17 windows.",
        table(("solver", "ms", "x local-search", "x auto"), speeds),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _in_short(judged: list[dict[str, Any]], oracles: list[float]) -> list[str]:
    """Compare with DeepSeek's EPLB and with free moves, on the traces that can be judged by."""
    balance, moves = (
        {name: np.array([names[name][key] for names in judged]) for name in judged[0]}
        for key in ("balancedness", "moves")
    )
    smaller = 1 - (oracles - balance[FREE]) / (oracles - balance[THEIRS])
    lines = [
        f"- Free moves: above DeepSeek's next window on {(balance[FREE] > balance[THEIRS]).sum()} "
        f"of {len(judged)}, the regret smaller by {smaller.mean():.1%} on average "
        f"({smaller.min():.1%} to {smaller.max():.1%})."
    ]
    for name in (name for name in balance if name.startswith("incremental") and name != FREE):
        lines.append(
            f"- {name}: {100 * (balance[FREE] - balance[name]).mean():.2f} points below free "
            f"moves, {(moves[name] / moves[THEIRS]).mean():.1%} of DeepSeek's moves and "
            f"{(moves[name] / moves[FREE]).mean():.1%} of the free ones; at least DeepSeek's next "
            f"window on {(balance[name] >= balance[THEIRS]).sum()} of {len(judged)}, on average "
            f"{100 * (balance[name] - balance[THEIRS]).mean():+.2f} points."
        )
    return ["\n".join(lines)]


GROUPS = ("in turn", "mixed", "8 GPUs", "16 GPUs", "32 GPUs", "synthetic")


def _groups_of(trace: dict[str, Any]) -> list[str]:
    if trace["judged"]:
        return [trace["name"].partition(" ")[2], f"{trace['gpus']} GPUs"]
    return ["synthetic"] if "seed" in trace["name"] else []


def _spread(traces: list[dict[str, Any]], named: list[dict[str, Any]]) -> str:
    """Tell how the figures differ over orders, sizes and seeds."""
    both = list(zip(traces, named, strict=True))
    groups = {group: [n for t, n in both if group in _groups_of(t)] for group in GROUPS}
    groups = {group: chosen for group, chosen in groups.items() if chosen}
    rows = []
    for name in (name for name in named[0] if name.startswith("incremental")):
        cells = [name]
        for chosen in groups.values():
            below = [100 * (n[FREE]["balancedness"] - n[name]["balancedness"]) for n in chosen]
            moves = [n[name]["moves"] / max(n[THEIRS]["moves"], 1e-9) for n in chosen]
            cells.append(f"{np.mean(below):.2f} ± {np.std(below):.2f} at "
                         f"{np.mean(moves):.1%} ± {np.std(moves):.1%}")  # fmt: skip
        rows.append(cells)
    return table(("policy", *(f"{name} ({len(c)})" for name, c in groups.items())), rows)


def _rows(trace: dict[str, Any], theirs: dict[str, Any] | None) -> list[list[str]]:
    label = f"{trace['name']}, {trace['gpus']}/{trace['slots']}"
    rows = [
        [
            label,
            p["name"],
            f"{p['balancedness']:.4f}",
            f"{p['worst']:.4f}",
            f"{trace['oracle'] - p['balancedness']:.4f}",
            f"{p['moves']:.1f}",
            "" if theirs is None else f"{p['moves'] / max(theirs['moves'], 1e-9):.1%}",
        ]
        for p in trace["policies"]
    ]
    return [*rows, [label, "oracle", f"{trace['oracle']:.4f}", "", "0.0000", "", ""]]


COLUMNS = 3
MARKS = {"never": "kx", "once": "k+", THEIRS: "bs", "vLLM 0.33.0, last window": "gD",
         "joint, last window": "m^"}  # fmt: skip


def draw(result: dict[str, Any], file: Path | BinaryIO) -> None:
    """Write a panel a trace, balance against moves: the curve of prices, and the other policies."""
    from matplotlib.figure import Figure

    traces = [trace for trace in result["traces"] if trace["windows"] >= COLUMNS]
    rows = -(-len(traces) // COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, 3.2 * rows), layout="constrained", dpi=150)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, trace in zip(grid.flat, traces, strict=False):
        slots = trace["layers"] * trace["slots"]
        curve = [p for p in trace["policies"] if p["price"] is not None]
        axes.plot([p["moves"] / slots for p in curve], [p["balancedness"] for p in curve], "ro-",
                  markersize=4, label="incremental, price of a move 0 to 0.02")  # fmt: skip
        for p in trace["policies"]:
            if p["name"] in MARKS:
                axes.plot(p["moves"] / slots, p["balancedness"], MARKS[p["name"]], label=p["name"])
        axes.axhline(trace["oracle"], color="0.6", linewidth=1, linestyle=":", label="oracle")
        axes.set_title(f"{trace['name']}, {trace['gpus']} GPUs, {trace['slots']} slots", fontsize=9)
        axes.set_xlabel("moves per window / slots", fontsize=8)
        axes.set_ylabel("balancedness", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(visible=True, alpha=0.25)
    for axes in list(grid.flat)[len(traces) :]:
        axes.remove()
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9)
    figure.suptitle("Balancedness of the next window against moves: upper left is better")
    figure.savefig(file, format="png")
