"""Windows that a replay does in a second, and the memory it takes, from traces on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.measure import fresh, number, table
from benchmarks.memory import PEAK
from benchmarks.problems import NUM_EXPERTS, NUM_GPUS, NUM_LAYERS, NUM_SLOTS
from evenload.synth import synthetic_trace

TITLE = "Replay"
LENGTHS, QUICK = (250, 1000), (50, 200)
ORACLES = ("fast", None)
# Policy, windows between two decisions, and whether the placement of each rebalance is kept.
POLICIES = (
    ("never", 1, True),
    ("every-1:local-search", 10, True),
    ("every-1:local-search", 1, True),
    ("deepseek", 1, True),
    ("deepseek", 1, False),
    ("vllm", 1, True),
    ("evenload", 10, True),
)

# A short replay first, so that imports and compiled code are not counted. A recorded token stands
# for a thousand, so that windows last seconds and moves a few of them.
PROGRAM = PEAK + """
import evenload
from evenload.replay import replay

COST = evenload.CostModel.preset("h100-ib", "deepseek-v3")

def run(trace):
    return replay(trace, evenload.Cluster({gpus}, 4, num_slots={slots}), {policy!r}, cost=COST,
                  interval={interval}, oracle={oracle!r}, recorded_share=1e-3,
                  keep_placements={keep})

trace = evenload.read_trace({path!r})
run(evenload.Trace(trace.last(12, 12)))
before = lowered_peak()
started = time.perf_counter()
result = run(trace)
seconds = time.perf_counter() - started
kept = sum(getattr(result, name).nbytes for name in
           ("balancedness", "start_balancedness", "oracle", "mean_seconds", "placements"))
print(json.dumps({{"windows": len(result.windows), "seconds": seconds, "peak": peak() - before,
                   "kept": kept, "rebalances": result.num_rebalances}}))
"""  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure each case in a process of its own; every case is run twice, and the faster counts."""
    lengths = QUICK if quick else LENGTHS
    trace = synthetic_trace(max(lengths), NUM_LAYERS, NUM_EXPERTS).astype(np.int32)
    results = []
    with TemporaryDirectory() as folder:
        paths: dict[str, list[Path]] = {"npy": [], "npz, compressed": []}
        for T in lengths:
            for kind, name in zip(paths, (f"{T}.npy", f"{T}.npz"), strict=True):
                paths[kind].append(Path(folder, name))
            np.save(paths["npy"][-1], trace[:T])
            np.savez_compressed(paths["npz, compressed"][-1], load=trace[:T])
        for policy, interval, keep in POLICIES:
            for oracle in ORACLES:
                for kind in paths if policy == "never" else ("npy",):
                    case = {"policy": policy, "interval": interval, "oracle": oracle, "keep": keep}
                    say(" ".join(map(str, case.values())))
                    found = [_measure(path, case) for path in paths[kind]]
                    results.append(case | {"file": kind, "lengths": found})
    return {"shape": [NUM_LAYERS, NUM_EXPERTS, NUM_SLOTS, NUM_GPUS], "cases": results}


def _measure(path: Path, case: dict[str, Any]) -> dict[str, Any]:
    program = PROGRAM.format(gpus=NUM_GPUS, slots=NUM_SLOTS, path=str(path), **case)
    found = [json.loads(fresh(["-c", program])) for _ in range(2)]
    return min(found, key=lambda f: float(f["seconds"]))


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = []
    for case in result["cases"]:
        short, long = case["lengths"]
        rows.append((
            case["policy"],
            f"{case['interval']}",
            case["oracle"] or "none",
            case["file"],
            "all" if case["keep"] else "last",
            *(number(f["windows"] / f["seconds"]) for f in (short, long)),
            *(f"{f['peak'] / 1e6:.1f}" for f in (short, long)),
            f"{long['kept'] / 1e6:.1f}",
        ))  # fmt: skip
    lengths = [found["windows"] + 1 for found in result["cases"][0]["lengths"]]
    head = (
        "policy", "interval", "oracle", "file", "placements kept",
        *(f"windows/s, T={T}" for T in lengths), *(f"peak MB, T={T}" for T in lengths),
        "of it results",
    )  # fmt: skip
    L, E, S, G = result["shape"]
    return (
        f"A trace on disk of {L} layers x {E} experts, replayed on {S} slots of {G} GPUs in 4 "
        "nodes. Peak is the growth of resident memory during the replay, after a short one; the "
        "results, which are in it, grow with the windows, and with the rebalances whose placements "
        "they keep.\n\n" + table(head, rows)
    )
