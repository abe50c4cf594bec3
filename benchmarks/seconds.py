"""Whether the default policy takes less time than never moving: seconds by the cost model."""

from collections.abc import Callable
from typing import Any

from benchmarks.measure import table
from benchmarks.problems import Drift, drifts
from evenload.cost import CostModel, model_of
from evenload.replay import replay

TITLE = "Seconds"
HARDWARE, WINDOW = "h100-ib", 60.0  # seconds of serving in a window, if it were balanced
POLICIES = ("never", "once", "evenload")
OLMOE = "olmoe-1b-7b"  # whose trace has 3 of its 16 layers


def measure(drift: Drift) -> dict[str, Any]:
    """Replay a trace as if its windows were `WINDOW` seconds of serving, on average."""
    trace, cluster = drift.trace, drift.cluster
    _, L, E = trace.shape
    model = OLMOE if drift.name.startswith("olmoe") else model_of(L, E)
    cost = CostModel.preset(HARDWARE, model)
    tokens = trace[drift.warm :].sum() / (len(trace) - drift.warm)
    sample = float(tokens / cluster.capacity.sum() / cost.tokens_per_second / WINDOW)
    how = {"cost": cost, "recorded_share": sample, "warm_start": drift.warm, "oracle": None}
    figures = [replay(trace, cluster, name, **how).figures() for name in POLICIES]
    told = ("policy", "total_seconds", "move_seconds", "moves", "net_seconds")
    return {
        "name": drift.name,
        "model": model,
        "gpus": cluster.num_gpus,
        "slots": cluster.num_slots,
        "windows": len(trace) - drift.warm,
        "policies": [{name: row[name] for name in told} for row in figures],
    }


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Replay every trace of the drift benchmark."""
    results = []
    for drift in drifts(quick):
        say(f"{drift.name}, {drift.cluster.num_gpus} GPUs")
        results.append(measure(drift))
    return {"traces": results}


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = []
    totals = []
    for trace in result["traces"]:
        never, once, ours = trace["policies"]
        seconds = [p["total_seconds"] for p in (never, once, ours)]
        totals.append(seconds)
        rows.append([
            f"{trace['name']}, {trace['gpus']}/{trace['slots']}",
            trace["model"],
            *(f"{total:,.1f}" for total in seconds),
            f"{seconds[2] / seconds[0] - 1.0:+.1%}",
            f"{seconds[2] / seconds[1] - 1.0:+.1%}",
            f"{ours['move_seconds']:.3f}",
            f"{ours['moves']:,}",
        ])  # fmt: skip
    lost = [sum(s[2] >= s[other] for s in totals) for other in (0, 1)]
    head = ("trace, GPUs/slots", "model", "never s", "once s", "evenload s", "to never", "to once",
            "standing still s", "moves")  # fmt: skip
    return "\n\n".join([
        f"The traces of [Drift](#drift), each window taken for {WINDOW:g} s of balanced serving by "
        f"the cost model of {HARDWARE} and the trace's own model; no clock is in it, and none of "
        "it was measured on a GPU. Total seconds are straggler time and standing still for moves. "
        "`evenload` is the policy as it is: a move has to gain the time that it takes until the "
        f"next window. It takes as much time as never moving, or more, on {lost[0]} of "
        f"{len(totals)}, and as much as planning once, or more, on {lost[1]}.",
        table(head, rows),
    ])  # fmt: skip
