"""What must stay to the byte or to the last digit: published results, loads, judged replays."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np

from benchmarks.loads import DATA
from evenload import Cluster, Placement, eplb
from evenload.replay import replay
from evenload.synth import lognormal_load, synthetic_load, synthetic_trace, zipf_load

GOLDEN = DATA.parent / "golden"


def measure(say: Callable[[str], None]) -> dict[str, str]:
    """Return a digest of each result, by name; published vectors lie beside some checkouts only."""
    say("golden vectors")
    found = {
        "lognormal_load": digest(lognormal_load(58, 256, 1.0, seed=0)),
        "zipf_load": digest(zipf_load(58, 256, 1.0, seed=0)),
        "synthetic_load": digest(synthetic_load(58, 256, seed=0)),
        "synthetic_trace": digest(synthetic_trace(6, seed=0)),
    }
    for policy in ("never", "every-1:greedy"):
        trace = synthetic_trace(12, 4, 32, seed=0)
        told = replay(trace, Cluster(8, 2, num_slots=40), policy, oracle=None, sample=1e-3)
        figures = [np.asarray(getattr(told, name)) for name in ("balancedness", "mean_seconds")]
        found[f"replay {policy}"] = digest(*(np.char.mod("%.9g", array) for array in figures))
    if GOLDEN.is_dir():
        found |= _packings() | _plans()
    return found


def digest(*arrays: Any) -> str:
    """Return the start of the SHA-256 of arrays, their types and shapes."""
    told = sha256()
    for array in arrays:
        told.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return told.hexdigest()[:16]


def _packings() -> dict[str, str]:
    import torch

    found = {}
    with np.load(GOLDEN / "iterated_greedy_packing.npz") as file:
        for case in sorted({name.split("_")[0] for name in file.files}):
            weight, packs = file[f"{case}_weight"], int(file[f"{case}_num_packs"])
            for dtype in ("float32", "float64"):
                typed = weight.astype(dtype)
                ours = eplb.balanced_packing(typed, packs, backend="compiled")
                theirs = eplb.balanced_packing(torch.from_numpy(typed), packs, backend="torch")
                found[f"packing {case} {dtype}"] = digest(*ours)
                found[f"packing {case} {dtype} torch"] = digest(*(t.numpy() for t in theirs))
    return found


def _plans() -> dict[str, str]:
    found = {}
    with np.load(GOLDEN / "deepseek_rebalance.npz") as file:
        for case in sorted({name.split("_")[0] for name in file.files}):
            weight, (slots, *rest) = file[f"{case}_weight"], file[f"{case}_args"].tolist()
            maps = eplb.rebalance_experts(weight, slots, *rest, solver="greedy")
            cluster = Cluster(rest[2], rest[1], num_slots=slots)
            reached = Placement(maps[0], cluster, weight.shape[1]).balancedness(weight)
            found[f"rebalance {case}"] = digest(*maps, np.char.mod("%.9g", reached))
    return found
