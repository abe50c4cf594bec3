"""What it costs to move experts while forwards run, and how long the death of a rank is felt."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.live_rank import EXPERT_BYTES, EXPERTS, LAYERS, RANKS, SLOTS
from benchmarks.measure import ratio, table

TITLE = "Experts that move while they serve"
LIMIT = 600  # seconds for all ranks


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Let the ranks measure side by side."""
    from torch.distributed import TCPStore

    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")  # of DNS, see docs
    rounds = 2 if quick else 7
    load = os.getloadavg()[0]
    server = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    say(f"live: {RANKS} processes, {rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        commands = [
            [sys.executable, "-m", "benchmarks.live_rank", str(server.port), str(rank), name,
             str(rounds)] for rank in range(RANKS)
        ]  # fmt: skip
        ranks = [subprocess.Popen(command) for command in commands]
        for process in ranks:
            process.wait(LIMIT)
        told = [json.loads(path.read_text()) for path in sorted(Path(name).glob("rank*.json"))]
    return summarised(told) | {"rounds": rounds, "load": load}


def summarised(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Put together what the ranks saw; a round takes as long as its slowest rank's."""

    def slowest(what: str) -> list[float]:
        return [max(each) for each in zip(*(rank[what] for rank in told), strict=True)]

    took = {what: slowest(what) for what in ("bare", "none", "sums", "background", "stall")}
    worst = max(took["stall"])
    return {
        "seconds": {what: statistics.median(each) for what, each in took.items()},
        "throughput": {w: ratio(took["bare"], took[w]) for w in ("none", "sums")},
        "worst_stall": worst,
        "stall_share": worst / statistics.median(took["sums"]),
        "idle": [max(rank["idle"][0] for rank in told), max(rank["idle"][1] for rank in told)],
        "flip_us": 1e6 * statistics.median(t for rank in told for t in rank["flip"]),
        "flip_most_us": 1e6 * max(t for rank in told for t in rank["flip"]),
        "death": {w: max(rank["death"][w] for rank in told) for w in told[0]["death"]},
    }


def render(result: dict[str, Any]) -> str:
    """Return the tables."""
    size = EXPERT_BYTES >> 20
    seconds, through, death = result["seconds"], result["throughput"], result["death"]
    rows = [
        ["the same messages alone", f"{seconds['bare']:.3f}", "1.00"],
        ["`evenload.live` without checksums", f"{seconds['none']:.3f}", f"{through['none']:.2f}"],
        ["`evenload.live` with checksums", f"{seconds['sums']:.3f}", f"{through['sums']:.2f}"],
    ]
    told = (
        f"{RANKS} processes over gloo on one machine: {LAYERS} layers x {EXPERTS} experts of "
        f"{size} MiB, {SLOTS} slots per rank; medians of {result['rounds']} rounds. The load "
        f"average was {result['load']:.1f} when it began"
        + (": above 3 the machine was busy with other work, and no figure here is to be judged."
           if result["load"] > 3 else ".")
    )  # fmt: skip
    idle = result["idle"]
    lines = [
        f"- Worst step of a running forward, beyond its median without moves: "
        f"{1e3 * result['worst_stall']:.0f} ms, {result['stall_share']:.0%} of a move for which "
        f"forwards stand still. Without moves a step took {1e3 * idle[0]:.0f} ms, and "
        f"{1e3 * idle[1]:.0f} ms at most.",
        f"- A layer's change-over, CPU time of the forward's thread: {result['flip_us']:.0f} µs, "
        f"{result['flip_most_us']:.0f} µs at most.",
        f"- A rank killed: the others' forward fails after {death['noticed']:.2f} s at the latest; "
        f"agreed on who is left {death['detected']:.2f} s later (3 s without a heartbeat), "
        f"connected after {1e3 * death['connected']:.0f} ms, repaired after "
        f"{1e3 * death['repaired']:.0f} ms (each expert had a copy).",
    ]
    head = ["move", "seconds", "throughput"]
    return "\n\n".join([told, table(head, rows), "\n".join(lines)])
