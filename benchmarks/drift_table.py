"""The tables of `benchmarks.drift`, and what is wanted of the incremental solver."""

from typing import Any

import numpy as np

from benchmarks.tables import number, table, times

THEIRS = "DeepSeek EPLB, last window"
FREE = "incremental 0"
HEAD = ("trace, GPUs/slots", "policy", "next window", "worst window", "regret", "moves a window",
        "moves / DeepSeek's")  # fmt: skip
SPEED = ("solver", "ms", "x local-search", "x auto")


def render(result: dict[str, Any]) -> str:
    """Return what was measured, what is wanted of it, and the tables."""
    traces = result["traces"]
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
        *_verdicts([trace for trace in traces if trace["judged"]]),
        "By order of the traffic, numbers of GPUs and, for the synthetic trace, seed: points below "
        "free moves, and moves over DeepSeek's, each as mean ± standard deviation over the cases.",
        *_spread(traces),
        table(HEAD, [row for trace in traces for row in _rows(trace)]),
        "58 x 256 -> 288 slots on 32 GPUs, in turn within one run; the trace has 17 windows.",
        table(SPEED, _speed(result["speed"])),
    ]
    return "\n\n".join(parts)


def by_name(trace: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a trace's policies by name."""
    return {policy["name"]: policy for policy in trace["policies"]}


def _verdicts(judged: list[dict[str, Any]]) -> list[str]:
    """Say how the figures compare with what is wanted, on the traces that can be judged by."""
    named = [by_name(trace) for trace in judged]
    if not named or any(THEIRS not in names for names in named):
        return []
    balance = {
        name: np.array([names[name]["balancedness"] for names in named]) for name in named[0]
    }
    moves = {
        name: np.array([names[name]["moves"] / names[THEIRS]["moves"] for names in named])
        for name in named[0]
    }
    gap = np.array([trace["oracle"] for trace in judged])
    smaller = 1 - (gap - balance[FREE]) / (gap - balance[THEIRS])
    lines = [
        f"- Free moves: above DeepSeek's next window on {(balance[FREE] > balance[THEIRS]).sum()} "
        f"of {len(judged)}, the regret smaller by {smaller.mean():.1%} on average "
        f"({smaller.min():.1%} to {smaller.max():.1%}); wanted: all, 20 %."
    ]
    for name in (name for name in balance if name.startswith("incremental") and name != FREE):
        below = 100 * (balance[FREE] - balance[name]).mean()
        above = (balance[name] >= balance[THEIRS]).sum()
        lines.append(
            f"- {name}: {below:.2f} points below free moves, {moves[name].mean():.1%} of "
            f"DeepSeek's moves and {(moves[name] / moves[FREE]).mean():.1%} of the free ones; at "
            f"least DeepSeek's next window on {above} of {len(judged)}, on average "
            f"{100 * (balance[name] - balance[THEIRS]).mean():+.2f} points."
        )
    return ["\n".join(lines)]


GROUPS = {
    "in turn": lambda trace: trace["judged"] and trace["name"].endswith("in turn"),
    "mixed": lambda trace: trace["judged"] and trace["name"].endswith("mixed"),
    "8 GPUs": lambda trace: trace["judged"] and trace["gpus"] == 8,
    "16 GPUs": lambda trace: trace["judged"] and trace["gpus"] == 16,
    "32 GPUs": lambda trace: trace["judged"] and trace["gpus"] == 32,
    "synthetic": lambda trace: "seed" in trace["name"],
}


def _spread(traces: list[dict[str, Any]]) -> list[str]:
    """Tell how the figures differ over orders, sizes and seeds."""
    if any(THEIRS not in by_name(trace) for trace in traces):
        return []
    cases = {name: [by_name(t) for t in traces if chosen(t)] for name, chosen in GROUPS.items()}
    cases = {name: found for name, found in cases.items() if found}
    priced = [name for name in by_name(traces[0]) if name.startswith("incremental")]
    head = ("policy", *(f"{name} ({len(found)})" for name, found in cases.items()))
    rows = [[name, *(_below(name, found) for found in cases.values())] for name in priced]
    return [table(head, rows)]


def _below(name: str, found: list[dict[str, Any]]) -> str:
    below = [100 * (c[FREE]["balancedness"] - c[name]["balancedness"]) for c in found]
    moves = [c[name]["moves"] / max(c[THEIRS]["moves"], 1e-9) for c in found]
    return (
        f"{np.mean(below):.2f} ± {np.std(below):.2f} at {np.mean(moves):.1%} ± {np.std(moves):.1%}"
    )


def _rows(trace: dict[str, Any]) -> list[list[str]]:
    theirs = by_name(trace).get(THEIRS)
    rows = [
        [
            f"{trace['name']}, {trace['gpus']}/{trace['slots']}",
            policy["name"],
            f"{policy['balancedness']:.4f}",
            f"{policy['worst']:.4f}",
            f"{trace['oracle'] - policy['balancedness']:.4f}",
            f"{policy['moves']:.1f}",
            "" if theirs is None else f"{policy['moves'] / max(theirs['moves'], 1e-9):.1%}",
        ]
        for policy in trace["policies"]
    ]
    label = f"{trace['name']}, {trace['gpus']}/{trace['slots']}"
    return [*rows, [label, "oracle", f"{trace['oracle']:.4f}", "", "0.0000", "", ""]]


def _speed(speed: dict[str, dict[str, float]]) -> list[list[str]]:
    return [
        [name, number(v["ms"]), times(v["to_local_search"]), times(v["to_auto"])]
        for name, v in speed.items()
    ]
