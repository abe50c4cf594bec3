"""What a fresh process pays: compiling from an empty cache, and the start from a warm one."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROUNDS = 9
TRIVIAL = "NumPy and one trivial cached kernel"

# Counts what Numba compiles, then runs the program that is given after it.
COUNTED = """
import atexit, json, os, sys, time
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
    with open(os.environ["TOLD"], "w") as file:
        json.dump({"compilations": count.number, "cpu": time.process_time()}, file)
"""

LOAD = """
import numpy as np, evenload
from evenload.synth import synthetic_trace
trace = synthetic_trace(6, seed=0).astype(float)
cluster = evenload.Cluster(32, num_slots=288)
"""

COMMAND = """
import runpy
sys.argv[1:] = {arguments!r}
runpy.run_module("evenload", run_name="__main__", alter_sys=True)
"""

COLD = {
    "solve(load, cluster)": LOAD + "evenload.solve(trace[-1], cluster)",
    "solve(trace, cluster, current=)": LOAD
    + "runs = evenload.Placement.trivial(58, 256, cluster)\n"
    + "evenload.solve(trace, cluster, current=runs)",
    "replay(trace, cluster, 'evenload')": LOAD
    + "from evenload.replay import replay\nreplay(trace, cluster, 'evenload')",
    "evenload warmup": COMMAND.format(arguments=["warmup"]),
}

KERNEL = """
import numba

@numba.njit(cache=True)
def total(array):
    result = 0.0
    for i in range(array.size):
        result += array[i]
    return result
"""


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Return seconds of each start, and compilations of those from an empty cache."""
    return {"cold": _cold(say), "warm": warm(say)}


def _cold(say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Run each program once with a cache of its own; seconds are of the CPU, over all threads."""
    found = {}
    for name, program in COLD.items():
        say(f"empty cache: {name}")
        found[name] = compiled(program)
    return found


def compiled(program: str) -> dict[str, float]:
    """Return CPU seconds and compilations of a program from an empty cache."""
    with TemporaryDirectory() as folder:
        told = Path(folder, "told.json")
        environment = {"NUMBA_CACHE_DIR": folder, "TOLD": str(told)}
        _run([sys.executable, "-c", COUNTED + program], environment)
        result: dict[str, float] = json.loads(told.read_text())
        return result


def warm(say: Callable[[str], None], rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Time whole processes in turn, their caches warm: median of the wall, and of the CPU."""
    with TemporaryDirectory() as folder:
        Path(folder, "trivial.py").write_text(KERNEL, encoding="utf-8")
        loads = Path(folder, "loads.csv")
        np.savetxt(loads, np.random.default_rng(0).integers(1, 1000, (58, 256)), "%d", ",")
        evenload = [sys.executable, "-m", "evenload"]
        first = "import numpy as np, trivial; trivial.total(np.ones(3))"
        programs = {
            TRIVIAL: [sys.executable, "-c", first],
            "evenload --help": [*evenload, "--help"],
            "evenload plan loads.csv": [*evenload, "plan", str(loads), "--gpus", "32",
                                        "--slots", "288"],
        }  # fmt: skip
        environment = {"PYTHONPATH": os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])}
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for i in range(rounds + 1):
            say(f"warm starts, round {i} of {rounds}")
            for name, program in programs.items():
                took = _run(program, environment)
                if i:  # the first fills Numba's cache on disk and the system's file cache
                    seconds[name].append(took)
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in values),
            "cpu": statistics.median(cpu for _, cpu in values),
        }
        for name, values in seconds.items()
    }


def _run(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a process."""
    before, start = os.times(), time.perf_counter()
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - start, os.times()
    if result.returncode:
        raise RuntimeError(f"{command[-1]} failed: {result.stderr[-1000:]}")
    return wall, sum(after[2:4]) - sum(before[2:4])
