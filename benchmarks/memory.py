"""Peak memory of a call beyond its input, measured from outside Python's allocator.

Numba's scratch is invisible to tracemalloc, so each call runs in a fresh process that reads the
operating system's high-water mark of resident memory before and after.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.tables import number, table

TITLE = "Peak memory"

# A warm-up first, so that imports and compiled code are not counted, whichever search the large
# problem comes to. The file clear_refs sets Linux's high-water mark back; elsewhere the mark can
# only understate the growth.
PEAK = """
import json, resource, sys
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

PROLOGUE = (
    PEAK
    + """
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
"""
)

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


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure each call in a process of its own."""
    rows = 2000 if quick else 20000
    results = []
    for name, program in CALLS.items():
        title = name.format(rows=rows)
        say(title)
        output = subprocess.run(
            [sys.executable, "-c", PROLOGUE + program.format(rows=rows)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        results.append({"name": title} | json.loads(output))
    return {"calls": results}


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = []
    for call in result["calls"]:
        megabytes = [call[key] / 1e6 for key in ("input", "output", "peak")]
        both = call["input"] + call["output"]
        rows.append((call["name"], *map(number, megabytes), f"{call['peak'] / both:.2f}"))
    head = ("call", "input MB", "output MB", "peak beyond input MB", "peak / (input + output)")
    return (
        "Growth of the process's high-water mark of resident memory during the call, outputs "
        "included; output counts the slot map and the replica counts.\n\n" + table(head, rows)
    )
