"""What a fresh process pays before its first plan: from an empty cache, and from a warm one."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import evenload
from benchmarks.measure import fresh, number, table

TITLE = "Cold start"
BARE = "Python, nothing imported"
TRIVIAL = "NumPy and one trivial cached kernel"
KERNEL = """
import numba

@numba.njit(cache=True)
def total(array):
    result = 0.0
    for i in range(array.size):
        result += array[i]
    return result
"""
SOLVE = """
import numpy as np, evenload
load = np.random.default_rng(0).lognormal(size=(58, 256))
evenload.solve(load, evenload.Cluster({gpus}, num_slots=288), solver={solver!r})
"""
WARM = {
    BARE: ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import evenload": ["-c", "import evenload"],
    TRIVIAL: ["-c", "import numpy as np, trivial; trivial.total(np.ones(3))"],
    "evenload --help": ["-m", "evenload", "--help"],
    "evenload plan loads.csv": ["-m", "evenload", "plan", "loads.csv", "--gpus", "32",
                                "--slots", "288"],
    "first plan, greedy": ["-c", SOLVE.format(gpus=32, solver="greedy")],
    "first plan, auto": ["-c", SOLVE.format(gpus=32, solver="auto")],
    "first plan, auto, 96 GPUs": ["-c", SOLVE.format(gpus=96, solver="auto")],
}  # fmt: skip

# Counts what Numba compiles in the program that follows.
COUNTED = """
import atexit, json, sys, time
from numba.core import event

class Count(event.Listener):
    number = 0
    def on_start(self, event):
        self.number += 1
    def on_end(self, event):
        pass

count = Count()
event.register("numba:compile", count)

@atexit.register
def tell():
    told = {"compilations": count.number, "cpu": time.process_time()}
    print("\\n" + json.dumps(told), flush=True)
"""
TRACE = """
import evenload
from evenload.replay import replay
from evenload.synth import synthetic_trace
trace = synthetic_trace(6, seed=0).astype(float)
cluster = evenload.Cluster(32, num_slots=288)
cost = evenload.CostModel.preset("h100-ib", "deepseek-v3")
runs = evenload.Placement.trivial(58, 256, cluster)
"""
COLD = {
    "solve(load, cluster)": TRACE + "evenload.solve(trace[-1], cluster)",
    "solve(trace, cluster, current=)": TRACE + "evenload.solve(trace, cluster, current=runs)",
    "replay(trace, cluster, 'evenload')": TRACE + "replay(trace, cluster, 'evenload', cost=cost)",
    "evenload warmup": """
import runpy
sys.argv[1:] = ["warmup"]
runpy.run_module("evenload", run_name="__main__", alter_sys=True)
""",
}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Time fresh processes, with a warm cache in turn, and once each from an empty one."""
    rounds = 3 if quick else 10
    seconds = warm(rounds, say)
    return {
        "rounds": rounds,
        "seconds": {name: [wall for wall, _ in took] for name, took in seconds.items()},
        "cold": cold(say, dict(list(COLD.items())[: 1 if quick else None])),
    }


def cold(
    say: Callable[[str], None], programs: dict[str, str] | None = None
) -> dict[str, dict[str, float]]:
    """Return CPU seconds (all threads) and compilations of each program from an empty cache."""
    found = {}
    for name, program in (programs or COLD).items():
        say(f"empty cache: {name}")
        with TemporaryDirectory() as folder:
            told = fresh(["-c", COUNTED + program], {"NUMBA_CACHE_DIR": folder})
        found[name] = json.loads(told.splitlines()[-1])
    return found


def warm(
    rounds: int, say: Callable[[str], None], names: Iterable[str] = WARM
) -> dict[str, list[tuple[float, float]]]:
    """Return the wall and CPU seconds of whole processes, start to exit, in turn."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with TemporaryDirectory() as folder:
        Path(folder, "trivial.py").write_text(KERNEL, encoding="utf-8")
        loads = np.random.default_rng(0).integers(1, 1000, (58, 256))
        np.savetxt(Path(folder, "loads.csv"), loads, "%d", ",")
        home = str(Path(evenload.__file__).resolve().parents[1])
        environment = {"PYTHONPATH": os.pathsep.join([folder, home])}
        for i in range(rounds + 1):
            say(f"fresh processes, round {i} of {rounds}")
            for name, took in seconds.items():
                before, start = os.times(), time.perf_counter()
                fresh(WARM[name], environment, folder)
                wall, after = time.perf_counter() - start, os.times()
                if i:  # the first fills Numba's cache on disk and the system's file cache
                    took.append((wall, sum(after[2:4]) - sum(before[2:4])))
    return seconds


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    bare = statistics.median(result["seconds"][BARE])
    rows = []
    for name, seconds in result["seconds"].items():
        median = statistics.median(seconds)
        spread = f"{number(1000 * min(seconds))} - {number(1000 * max(seconds))}"
        rows.append((name, number(1000 * median), spread, f"{1000 * (median - bare):.0f}"))
    cold_rows = [(name, f"{found['cpu']:.1f}", str(found["compilations"]))
                 for name, found in result["cold"].items()]  # fmt: skip
    return "\n\n".join([
        f"Whole processes, start to exit, Numba's cache warm; medians of {result['rounds']}. "
        "A first plan is 58 x 256 -> 288 slots on 32 GPUs unless it says otherwise.",
        table(("fresh process that runs", "ms", "min - max", "beyond a bare Python"), rows),
        "The first time of all, from an empty cache: CPU seconds of the whole process, most of "
        "them compiling, and how many functions Numba compiles. The replay is of 6 windows.",
        table(("first call from an empty cache", "CPU s", "compilations"), cold_rows),
    ])  # fmt: skip
