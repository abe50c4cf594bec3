"""Peak memory beyond the input, as the operating system counts it: of calls, and of large dumps.

Numba's scratch is invisible to tracemalloc, so each call runs in a fresh process that reads its
high-water mark of resident memory before and after.
"""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.measure import fresh, number, table

TITLE = "Peak memory"

# A warm-up first, so that imports and compiled code are not counted, whichever search the large
# problem comes to. The file clear_refs sets Linux's high-water mark back; elsewhere the mark can
# only understate the growth.
PEAK = """
import json, resource, sys, time
from pathlib import Path

def peak():
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

def lowered_peak():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return peak()
"""
PROLOGUE = PEAK + """
import numpy as np
import evenload
from evenload import eplb

def measure(call, small, large):
    evenload.warmup()
    call(*small)
    before = lowered_peak()
    arrays = call(*large)
    after = peak()
    output = sum(array.nbytes for array in arrays)
    print(json.dumps({"peak": after - before, "input": large[0].nbytes, "output": output}))

def loads(rows, columns):
    return np.random.default_rng(0).lognormal(size=(rows, columns))

def plan(load, gpus, slots, solver):
    cluster = evenload.Cluster(gpus, num_slots=slots)
    placement = evenload.solve(load, cluster, solver=solver).placement
    return placement.physical_to_logical, placement.replica_count
"""  # fmt: skip
CALLS = {
    "balanced_packing, [{rows}, 288] into 32 packs": """
measure(lambda weight: eplb.balanced_packing(weight, 32), (loads(8, 288),), (loads({rows}, 288),))
""",
    "solve greedy, {rows} x 256 -> 288 slots": """
measure(plan, (loads(8, 256), 32, 288, "greedy"), (loads({rows}, 256), 32, 288, "greedy"))
""",
    "solve auto, {rows} x 256 -> 288 slots": """
measure(plan, (loads(8, 256), 32, 288, "auto"), (loads({rows}, 256), 32, 288, "auto"))
""",
    "solve auto, 94 x 512 -> 4096 slots on 1024 GPUs": """
measure(plan, (loads(8, 256), 32, 288, "auto"), (loads(94, 512), 1024, 4096, "auto"))
""",
}

# A per_token dump of one rank of SGLang's recorder, of DeepSeek-V3's shape.
LAYERS, DENSE, SLOTS, EXPERTS, WIDTH = 61, 3, 288, 256, 8
TOKENS = (4096, 64)  # of a pass: many, and few
READ = PEAK + """
import evenload
sum(window.sum() for window in evenload.read_trace({small!r}))
before, started = lowered_peak(), time.perf_counter()
trace = evenload.read_trace({large!r})
sum(window.sum() for window in trace)
print(json.dumps({{"peak": peak() - before, "windows": len(trace),
                   "seconds": time.perf_counter() - started}}))
"""  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure each call in a process of its own, then what reading a large dump takes."""
    rows = 2000 if quick else 20000
    results = []
    for name, program in CALLS.items():
        title = name.format(rows=rows)
        say(title)
        results.append(
            {"name": title} | json.loads(fresh(["-c", PROLOGUE + program.format(rows=rows)]))
        )
    return {"calls": results, "dumps": _dumps(2e7 if quick else 2e9, say)}


def _dumps(num_bytes: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    found = []
    with TemporaryDirectory() as folder:
        small, large = Path(folder, "small_0.pt"), Path(folder, "large_0.pt")
        for tokens in TOKENS:
            say(f"a dump of {tokens} tokens per pass")
            write_dump(small, 1, tokens)
            write_dump(large, num_bytes, tokens)
            told = json.loads(fresh(["-c", READ.format(small=str(small), large=str(large))]))
            found.append({"tokens": tokens, "bytes": large.stat().st_size} | told)
    return found


def write_dump(path: Path, num_bytes: float, tokens: int = TOKENS[0]) -> None:
    """Write a per_token dump of about that size; its records share nothing."""
    import torch

    rng = np.random.default_rng(0)
    records = []
    for number_of in range(max(1, round(num_bytes / (LAYERS * tokens * WIDTH * 4)))):
        counts = rng.integers(0, 9, (LAYERS, SLOTS), np.int32)
        counts[:DENSE] = 0
        records.append({
            "forward_pass_id": number_of,
            "rank": 0,
            "gatherer_key": "primary",
            "input_ids": rng.integers(0, 129280, tokens).tolist(),
            "positions": list(range(tokens)),
            "extend_seq_lens": [tokens],
            "forward_mode": 1,
            "topk_ids_of_layer": torch.zeros((LAYERS, tokens, WIDTH), dtype=torch.int32),
            "misc_objects": [],
            "global_physical_count": torch.from_numpy(counts),
        })  # fmt: skip
    experts = torch.from_numpy(np.tile(np.arange(SLOTS) % EXPERTS, (LAYERS, 1)))
    torch.save({"records": records, "last_physical_to_logical_map": experts}, path)


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = []
    for call in result["calls"]:
        megabytes = [call[key] / 1e6 for key in ("input", "output", "peak")]
        both = call["input"] + call["output"]
        rows.append((call["name"], *map(number, megabytes), f"{call['peak'] / both:.2f}"))
    head = ("call", "input MB", "output MB", "peak beyond input MB", "peak / (input + output)")
    dumps = [
        (str(d["tokens"]), number(d["bytes"] / 1e6), str(d["windows"]), number(d["peak"] / 1e6),
         number(d["seconds"]))
        for d in result["dumps"]
    ]  # fmt: skip
    return "\n\n".join([
        "Growth of the process's high-water mark of resident memory during the call, outputs "
        "included; output counts the slot map and the replica counts.",
        table(head, rows),
        "Reading a per_token dump of SGLang's recorder, of DeepSeek-V3's shape, as a trace:",
        table(("tokens per pass", "file MB", "windows", "peak MB", "s"), dumps),
    ])  # fmt: skip
