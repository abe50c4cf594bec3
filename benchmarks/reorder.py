"""What a reordered checkpoint gains, what writing one takes beside `cp`, and how much memory."""

import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.measure import table
from benchmarks.memory import PEAK
from benchmarks.problems import DATA, ORDERS, is_here
from evenload import Cluster, CostModel, Placement, Trace
from evenload.checkpoint import plan_order
from evenload.copying import copies_by_slack
from evenload.cost import model_of
from evenload.io import write_placement
from evenload.replay import replay

TITLE = "Reordered checkpoints"
MODELS = {"gpt-oss-20b": 10, "deepseek-v2-lite": 2}  # recorded windows of a window
HARDWARE, SECONDS = "h100-ib", 60.0  # of serving in a window, if it were balanced
POLICIES = ("never", "once", "reorder", "evenload")
SLACK = 0.05  # of the balancer that copies experts
SIZES = {"2 GB": 2e9, "10 GB": 10e9}
BLOCK = 2**26
PROGRAM = (
    PEAK
    + """
from evenload.cli import main
assert main(sys.argv[1:]) == 0
print(peak())
"""
)
# One expert of DeepSeek-V2-Lite as tensors of its own, and a layer of gpt-oss, fused: bf16.
SHAPES = {
    "single": {"model_type": "deepseek_v2", "n_routed_experts": 64, "hidden": 2048, "inner": 1408},
    "fused": {"model_type": "gpt_oss", "num_local_experts": 32, "hidden": 2880, "inner": 2880},
}


# ---- what it gains -------------------------------------------------------------------------------


def gains(model: str, quick: bool) -> Iterator[dict[str, Any]]:
    """Plan on the first half of a trace, without redundancy, and judge by the second."""
    with np.load(DATA / f"{model}.npz") as arrays:
        for order, told in ORDERS.items():
            recorded = arrays[order].astype(float)
            trace = Trace(recorded).merged(MODELS[model])
            T, L, E = trace.shape
            cost = CostModel.preset(HARDWARE, model_of(L, E))
            for gpus in (8,) if quick else (8, 16):
                cluster, half = Cluster(gpus, num_slots=E), T // 2
                tokens = sum(trace.window(t).sum() for t in range(half, T)) / (T - half)
                sample = float(tokens / gpus / cost.tokens_per_second / SECONDS)
                how = {"cost": cost, "recorded_share": sample, "warm_start": half, "oracle": None}
                replays = {name: replay(trace, cluster, name, **how) for name in POLICIES}
                batches = recorded[len(recorded) // 2 :]
                homes = {
                    "in order": Placement.trivial(L, E, cluster),
                    "reordered": plan_order(
                        recorded[: len(recorded) // 2], gpus, dispatch="copy", copy_slack=SLACK
                    ),
                }
                yield {
                    "name": f"{model} {told}",
                    "gpus": gpus,
                    "reached": {n: float(r.balancedness.mean()) for n, r in replays.items()},
                    "seconds": {n: r.figures()["total_seconds"] for n, r in replays.items()},
                    "copies": {
                        name: float(np.mean([
                            copies_by_slack([load], place, [SLACK]).mean() for load in batches
                        ]))
                        for name, place in homes.items()
                    },
                }  # fmt: skip


# ---- what writing takes --------------------------------------------------------------------------


def make(folder: Path, shape: str, size: float) -> tuple[int, int, int]:
    """Write a checkpoint of random bytes; return its layers, experts and largest tensor's bytes."""
    about = dict(SHAPES[shape])
    hidden, inner = int(about.pop("hidden")), int(about.pop("inner"))
    E = int(about.get("n_routed_experts") or about["num_local_experts"])
    layers = max(1, round(size / (E * 3 * hidden * inner * 2)))
    about |= {"num_hidden_layers": layers}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(about))
    block, where, largest = np.random.default_rng(0).bytes(BLOCK), {}, 0
    for layer in range(layers):
        at, file = f"model.layers.{layer}.mlp", f"model-{layer:05}.safetensors"
        tensors: dict[str, tuple[int, ...]]
        if shape == "single":
            tensors = {f"{at}.gate.weight": (E, hidden)}
            for expert in range(E):
                for name in ("gate_proj", "up_proj", "down_proj"):
                    tensors[f"{at}.experts.{expert}.{name}.weight"] = (inner, hidden)
        else:
            tensors = {
                f"{at}.router.weight": (E, hidden), f"{at}.router.bias": (E,),
                f"{at}.experts.gate_up_proj": (E, hidden, 2 * inner),
                f"{at}.experts.gate_up_proj_bias": (E, 2 * inner),
                f"{at}.experts.down_proj": (E, inner, hidden),
                f"{at}.experts.down_proj_bias": (E, hidden),
            }  # fmt: skip
        header, end = {}, 0
        for name, dims in tensors.items():
            begin, end = end, end + 2 * int(np.prod(dims))
            header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [begin, end]}
            largest, where[name] = max(largest, end - begin), file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for first in range(0, end, BLOCK):
                stream.write(block[: min(BLOCK, end - first)])
            os.fsync(stream.fileno())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return layers, E, largest


def timed(command: list[str], source: Path, out: Path, cold: bool) -> tuple[float, int]:
    """Run a command until its output is on the disk; return seconds, and the number it printed."""
    for path in source.iterdir():
        with path.open("rb") as stream:
            if cold:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while stream.read(BLOCK):
                    pass
    started = time.perf_counter()
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for path in out.iterdir():
        number = os.open(path, os.O_RDONLY)
        os.fsync(number)
        os.close(number)
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds, int(said or 0)


def written(shape: str, size: float, rounds: int) -> dict[str, Any]:
    """Time `evenload reorder` beside ``cp -r``, in turn, with the source in memory and not."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        source, out, place = folder / "model", folder / "out", folder / "place.json"
        layers, E, largest = make(source, shape, size)
        random = np.random.default_rng(1)
        rows = [random.permutation(E) for _ in range(layers)]
        write_placement(place, Placement(rows, Cluster(8, num_slots=E), E))
        python = [sys.executable, "-c", PROGRAM, "reorder"]
        commands = {
            "cp": ["cp", "-r", str(source), str(out)],
            "reorder": [*python, str(source), str(place), "-o", str(out)],
        }
        found: dict[str, list[tuple[float, int]]] = {}
        for _ in range(rounds):
            for cold in (True, False):
                for kind, command in commands.items():
                    key = f"{kind} {'cold' if cold else 'warm'}"
                    found.setdefault(key, []).append(timed(command, source, out, cold))
        bytes_of = sum(path.stat().st_size for path in source.iterdir())
    seconds = {key: statistics.median(s for s, _ in runs) for key, runs in found.items()}
    ratios = {
        state: statistics.median(
            ours[0] / theirs[0]
            for ours, theirs in zip(found[f"reorder {state}"], found[f"cp {state}"], strict=True)
        )
        for state in ("cold", "warm")
    }
    peak = max(memory for key, runs in found.items() if "reorder" in key for _, memory in runs)
    return {"bytes": bytes_of, "largest": largest, "layers": layers, "seconds": seconds,
            "ratios": ratios, "peak": peak, "rounds": rounds}  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Replay the measured traces, and write checkpoints of both kinds."""
    found, files = [], []
    for model in filter(is_here, MODELS):
        for case in gains(model, quick):
            say(f"{case['name']}, {case['gpus']} GPUs")
            found.append(case)
    for shape in SHAPES:
        for told, size in {"0.2 GB": 2e8}.items() if quick else SIZES.items():
            say(f"{shape}, {told}")
            rounds = 2 if size < 5e9 and not quick else 1
            files.append({"shape": shape, "size": told, **written(shape, size, rounds)})
    return {"traces": found, "files": files, "load": os.getloadavg()[0]}


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = [
        [
            f"{case['name']}, {case['gpus']}",
            *(f"{case['reached'][name]:.3f}" for name in POLICIES),
            *(f"{case['seconds'][name]:,.0f}" for name in POLICIES),
            *(f"{case['copies'][name]:.2f}" for name in ("in order", "reordered")),
        ]
        for case in result["traces"]
    ]
    head = ["trace, GPUs", *(f"{name}" for name in POLICIES), *(f"{name} s" for name in POLICIES),
            "copies in order", "copies reordered"]  # fmt: skip
    files = [
        [
            f"{told['shape']}, {told['size']}",
            f"{told['layers']}",
            *(f"{told['seconds'][f'{kind} {state}']:.1f}"
              for state in ("cold", "warm") for kind in ("cp", "reorder")),
            *(f"{told['ratios'][state]:.2f}x" for state in ("cold", "warm")),
            f"{told['peak'] / 1e6:.0f}", f"{told['largest'] / 1e6:,.0f}",
        ]
        for told in result["files"]
    ]  # fmt: skip
    titles = ["experts, size", "layers", "cp cold s", "reorder cold s", "cp warm s",
              "reorder warm s", "cold", "warm", "peak MB", "largest tensor MB"]  # fmt: skip
    gained = table(head, rows) if rows else "Traces were not run: the measured loads are not here."
    return "\n\n".join([
        "Balancedness without any redundancy, mean over windows: planned on the first half of a "
        "trace and judged on the second, window by window (10,240 tokens of gpt-oss, 2,048 of "
        "V2-Lite). `never` is experts in order, `reorder` experts in order in a checkpoint that "
        "was reordered for the first half, `once` a plan of the last window before the second, "
        "and `evenload` moves experts all the time. Seconds are by the cost model of "
        f"{HARDWARE}, each window taken for {SECONDS:g} s of balanced serving; none was measured "
        "on a GPU. Copies are those that a balancer such as MoonEP makes per layer and microbatch "
        f"of 1,024 tokens with {SLACK:.0%} slack, from homes in order before and after.",
        gained,
        "Writing a checkpoint of random bytes, until all of it is on the disk (fsync), beside "
        "`cp -r` in turn (twice; once for 10 GB): with the source dropped from memory before "
        "(cold) or read before (warm). `single` has three tensors per expert, of which only names "
        "change; `fused` has one tensor of all experts, which is copied expert by expert. Peak "
        "memory is all of the process, by the operating system. "
        f"Programs that wanted to run beside, on average: {result['load']:.0f}; "
        "the more there are, the less ratios tell.",
        table(titles, files),
    ])  # fmt: skip
