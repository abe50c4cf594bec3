"""What needs a GPU: ``python -m benchmarks.on_gpu splitting``, on a machine with torch and Triton.

It prints one line of JSON a measurement, and writes ``on_gpu.json`` into $OUT, else into
``docs/benchmarks``: a section like those of ``results.json``. Nothing is compiled by Numba.
``expert-time`` also writes ``curves/*.csv`` there: they belong into ``src/evenload/cost/curves``,
where `ExpertTime.preset` finds them.

SGLang's own solver is measured beside ours where it can be had: it compiles CUDA sources at run
time, so it needs nvcc and, on the path of Python, sglang, apache-tvm-ffi, msgspec and
nvidia-mathdx, installed without what they depend on (``pip install --no-deps --target DIR``). Only
the solver's file and the kernels' package are imported. Where that fails, the result says why.
"""

import json
import os
import re
import statistics
import sys
import types
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, partial
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import machine, once
from evenload.cost.measure import measure_expert_time
from evenload.splitting import tensors
from evenload.splitting.schedule import Schedule, make_schedule

CASES = {
    "gpt-oss 24 x 32 -> 48 slots, 16 GPUs": (24, 32, 48, 16, 4),
    "V2-Lite 26 x 64 -> 80 slots, 16 GPUs": (26, 64, 80, 16, 6),
    "V3 58 x 256 -> 288 slots, 32 GPUs": (58, 256, 288, 32, 8),
}
ROUNDS = (1, 2, 4, 8)
TOKENS = 1024  # of a batch
CALLS, REPEATS = 20, 7
# Sides of the experts, their type, and how many of them may be active on a GPU at once.
EXPERTS = {
    "qwen3-30b-a3b": (2048, 768, "bf16", 128),
    "gpt-oss-20b": (2880, 2880, "bf16", 32),  # its own type, mxfp4, torch does not multiply
    "deepseek-v3": (7168, 2048, "fp8", 64),
    "deepseek-v3 in bf16": (7168, 2048, "bf16", 64),
}
# Words in torch's name of a GPU, and the hardware preset with it.
GPUS = {"H200": "h200-ib", "H100 80GB HBM3": "h100-ib", "H100 PCIe": "h100-pcie",
        "L40S": "l40s-pcie"}  # fmt: skip
Call = Callable[[], object]
OUT = Path(os.environ.get("OUT") or Path(__file__).resolve().parents[1] / "docs" / "benchmarks")


def problem(L: int, E: int, S: int, G: int, top_k: int) -> tuple[Any, Any, Any]:
    """Return counts of a batch [L, E], slots [L, E, X], and the expert of each slot [L, S].

    Loads are lognormal; the experts heaviest over their replicas get one more in turn, and replicas
    are dealt out over the GPUs in an order drawn at random, those of an expert in a row.
    """
    rng = np.random.default_rng(0)
    share = rng.lognormal(0.0, 1.0, (L, E))
    share /= share.sum(axis=1, keepdims=True)
    counts = np.stack([rng.multinomial(TOKENS * top_k, row) for row in share])
    replicas, experts = np.ones((L, E), np.int64), np.empty((L, S), np.int64)
    for layer in range(L):
        for _ in range(S - E):
            free = np.where(replicas[layer] < G, share[layer] / replicas[layer], 0.0)
            replicas[layer, free.argmax()] += 1
        order = rng.permutation(E)
        dealt = np.repeat(order, replicas[layer][order])
        experts[layer] = dealt.reshape(S // G, G).T.ravel()
    slots = np.full((L, E, int(replicas.max())), -1)
    for layer in range(L):
        for e in range(E):
            own = np.flatnonzero(experts[layer] == e)
            slots[layer, e, : own.size] = own
    return counts, slots, experts


def balancedness(quotas: Any, slots: Any, S: int, G: int) -> float:
    """Return the mean over layers of mean / max load of the GPUs, for quotas [L, E, X]."""
    load = np.zeros((len(slots), S))
    layer, e, x = np.nonzero(slots >= 0)
    load[layer, slots[layer, e, x]] = quotas[layer, e, x]
    gpus = load.reshape(len(slots), G, -1).sum(axis=2)
    return float((gpus.mean(axis=1) / gpus.max(axis=1)).mean())


def microseconds(call: Call) -> dict[str, float]:
    """Return min, median and max of a call's time, by events around `CALLS` of them."""
    for _ in range(3):
        call()
    took = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(CALLS):
            call()
        end.record()
        torch.cuda.synchronize()
        took.append(start.elapsed_time(end) * 1000 / CALLS)
    return {"min": min(took), "median": statistics.median(took), "max": max(took)}


def graphed(call: Call) -> Call:
    """Return what replays a call from a CUDA graph; it fails where the call waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return graph.replay


def of_layers(schedule: Schedule, first: int, end: int) -> Schedule:
    """Return the tables of some layers."""
    parts = [table[first:end] for table in schedule[:3]]
    return Schedule(*parts, schedule.speed)


def ours(name: str, counts: Any, slots: Any, S: int, G: int) -> list[dict[str, Any]]:
    """Measure both versions, all layers in one call and one layer by itself."""
    from evenload.splitting import kernel

    L = len(counts)
    schedule = make_schedule(slots, np.repeat(np.arange(G), S // G), np.ones(G))
    results = []
    for layers in (L, 1):
        count, some = torch.tensor(counts[:layers]), of_layers(schedule, 0, layers)
        shape = (layers, *slots.shape[1:])
        on_cpu = tensors.to_device(some, torch.device("cpu"))
        device = count.cuda(), tensors.to_device(some, torch.device("cuda"))
        out = torch.zeros(shape, dtype=torch.int64, device="cuda")
        for rounds in ROUNDS:
            expected = torch.zeros(shape, dtype=torch.int64)
            tensors.water_fill(count, on_cpu, rounds, expected)
            ways: dict[str, Any] = {"triton": kernel.water_fill, "torch": tensors.water_fill}
            if rounds == ROUNDS[-1]:
                ways |= {f"triton, {n} warps": partial(kernel.water_fill, num_warps=n)
                         for n in (1, 2, 4, 16)}  # fmt: skip
            for way, fill in ways.items():
                call = partial(fill, *device, rounds, out)

                call()
                same = torch.equal(out.cpu(), expected)
                told = {
                    "case": name, "way": way, "layers": layers, "rounds": rounds,
                    "same_as_cpu": same,
                    "balancedness": balancedness(expected.numpy(), slots[:layers], S, G),
                    "us": None if way == "torch" else microseconds(call),
                }  # fmt: skip
                replay = graphed(call)
                out.zero_()
                replay()
                told["same_in_graph"] = torch.equal(out.cpu(), expected)
                told["us_in_graph"] = microseconds(replay)
                told["us_a_layer"] = told["us_in_graph"]["median"] / layers
                print(json.dumps(told), flush=True)
                results.append(told)
    return results


@cache
def sglangs_solver() -> Any:
    """Import the file of SGLang's solver, and no more of SGLang than its kernels."""
    where = PathFinder.find_spec("sglang")
    if where is None:
        raise ImportError("sglang is not installed")
    root = Path(*where.submodule_search_locations or [])
    for name in ("sglang", "sglang.srt", "sglang.srt.utils", "sglang.srt.eplb"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    for name, member in (("runtime_context", "get_resources"), ("utils.common", "is_cuda")):
        module = types.ModuleType(f"sglang.srt.{name}")
        setattr(module, member, torch.cuda.is_available)
        sys.modules[module.__name__] = module
    from sglang.srt.eplb.lplb_solver import LPLBSolver

    return LPLBSolver


def _import_sglangs_kernels() -> None:
    """Import what SGLang's solver imports when it is built: threads that do see half of it."""
    with suppress(Exception):  # each build tells why it failed
        sglangs_solver()
        import_module("sglang.kernels.ops.lplb.torch_solver")
        import_module("sglang.kernels.ops.lplb.cuda_solver")


def sglangs(problem: tuple[Any, Any, Any], G: int) -> Any:
    """Build SGLang's solver for the first layer and solve once: that compiles."""
    counts, slots, experts = problem
    phy2log, log2phy = torch.tensor(experts[0]).cuda(), torch.tensor(slots[0]).cuda()
    solver = sglangs_solver()(phy2log, log2phy, G)
    solver._solve(torch.tensor(counts[0]).cuda().float())
    torch.cuda.synchronize()
    return solver


def measure_sglangs(
    name: str, problem: tuple[Any, Any, Any], built: Future[Any], S: int, G: int
) -> dict[str, Any]:
    """Time SGLang's solver on the first layer, as `ours` does with one layer."""
    counts, slots, _ = problem
    told: dict[str, Any] = {"case": name, "way": "SGLang LPLBSolver", "layers": 1}
    try:
        solver, count = built.result(), torch.tensor(counts[0]).cuda().float()
        chosen = torch.repeat_interleave(torch.arange(len(counts[0])), torch.tensor(counts[0]))
        top_k = chosen.int().cuda().view(TOKENS, -1)
        found = solver._solve(count).double().cpu().numpy()[None] * (slots[:1] >= 0)
        share = found / np.maximum(found.sum(axis=2, keepdims=True), 1e-30)
        told["balancedness"] = balancedness(share * counts[:1, :, None], slots[:1], S, G)
        told["us"] = microseconds(lambda: solver._solve(count))
        told["us_solve"] = microseconds(lambda: solver.solve(top_k))  # counts them first
        replay = graphed(lambda: solver._solve(count))
        told["us_in_graph"] = microseconds(replay)
        told["us_a_layer"] = told["us_in_graph"]["median"]
    except Exception as error:  # whatever it is that it lacks there
        told["not_run"] = f"{type(error).__name__}: {error}"[-600:]
    print(json.dumps(told), flush=True)
    return told


def splitting() -> dict[str, Any]:
    """Measure the split of a batch: ours in both versions, and SGLang's."""
    problems = {name: problem(*case) for name, case in CASES.items()}
    results = []
    for name, found in problems.items():
        results += ours(name, *found[:2], *CASES[name][2:4])
    _import_sglangs_kernels()
    with ThreadPoolExecutor(len(CASES)) as pool:  # nvcc takes most of a minute for each
        builds = {name: pool.submit(sglangs, found, CASES[name][3])
                  for name, found in problems.items()}  # fmt: skip
    for name, found in problems.items():
        results.append(measure_sglangs(name, found, builds[name], *CASES[name][2:4]))
    return {"tokens": TOKENS, "calls": CALLS, "repeats": REPEATS, "results": results}


def expert_time() -> dict[str, Any]:
    """Measure the experts of three models, and write a curve for each."""
    gpu = torch.cuda.get_device_name()
    known = [name for words, name in GPUS.items() if words in gpu]
    folder = OUT / "curves"
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for model, (hidden, intermediate, dtype, experts) in EXPERTS.items():
        told: dict[str, Any] = {"model": model, "dtype": dtype}
        try:
            seconds, measured = once(
                lambda shape=(hidden, intermediate, dtype), most=experts: measure_expert_time(
                    *shape, num_experts=most
                )
            )
            name = known[0] if known else re.sub("[^a-z0-9]+", "-", gpu.lower())
            measured.write(folder / f"{name}-{hidden}x{intermediate}-{dtype}.csv")
            told |= {"wall_s": seconds, "about": measured.about, "notes": measured.notes}
            most = max(active for active, _, _ in measured.points)
            told["us_of_all_active"] = [
                [a, n, 1e6 * t] for a, n, t in measured.points if a in (1, 8, most)
            ]
        except Exception as error:  # the others are still worth having
            told["not_run"] = f"{type(error).__name__}: {error}"[-600:]
        torch.cuda.empty_cache()
        print(json.dumps(told), flush=True)
        results.append(told)
    return {"results": results}


SECTIONS = {"splitting": splitting, "expert-time": expert_time}


def main(names: list[str]) -> None:
    """Run what is named, all without a name."""
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    kept = OUT / "on_gpu.json"
    sections = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in names or SECTIONS:
        result = SECTIONS[name]()
        sections[name] = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "command": f"python -m benchmarks.on_gpu {name}",
            "machine": machine() | _gpu(),
            "result": result,
        }
    OUT.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(sections, indent=1) + "\n")


def _gpu() -> dict[str, Any]:
    import triton

    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
