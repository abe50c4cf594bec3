"""What a fresh process pays before its first plan."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.tables import number, table

TITLE = "Cold start"

PROGRAMS = {
    "Python, nothing imported": "pass",
    "import numpy": "import numpy",
    "import evenload": "import evenload",
    "Numba alone: one trivial cached kernel": """
import numpy as np, trivial
trivial.total(np.ones(3))
""",
    "first plan, greedy": """
import numpy as np, evenload
load = np.random.default_rng(0).lognormal(size=(58, 256))
evenload.solve(load, evenload.Cluster(32, num_slots=288), solver="greedy")
""",
    "first plan, auto": """
import numpy as np, evenload
load = np.random.default_rng(0).lognormal(size=(58, 256))
evenload.solve(load, evenload.Cluster(32, num_slots=288))
""",
    "first plan, auto, 96 GPUs": """
import numpy as np, evenload
load = np.random.default_rng(0).lognormal(size=(58, 256))
evenload.solve(load, evenload.Cluster(96, num_slots=288))
""",
}


# What a first plan cannot go below as long as Numba loads the kernels.
TRIVIAL = """
import numba

@numba.njit(cache=True)
def total(array):
    result = 0.0
    for i in range(array.size):
        result += array[i]
    return result
"""


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Time each program in fresh processes, one of each in turn; Numba's cache is warm."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    rounds = 3 if quick else 10
    with TemporaryDirectory() as folder:
        Path(folder, "trivial.py").write_text(TRIVIAL, encoding="utf-8")
        for program in PROGRAMS.values():
            _run(program, folder)  # fills Numba's cache on disk and the system's file cache
        for i in range(rounds):
            say(f"fresh processes, round {i + 1} of {rounds}")
            for name, program in PROGRAMS.items():
                seconds[name].append(_run(program, folder))
    return {"rounds": rounds, "seconds": seconds}


def _run(program: str, folder: str) -> float:
    environment = os.environ | {"PYTHONPATH": folder}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    return time.perf_counter() - start


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    bare = statistics.median(result["seconds"]["Python, nothing imported"])
    rows = []
    for name, seconds in result["seconds"].items():
        median = statistics.median(seconds)
        spread = f"{number(1000 * min(seconds))} - {number(1000 * max(seconds))}"
        rows.append((name, number(1000 * median), spread, f"{1000 * (median - bare):.0f}"))
    head = ("fresh process that runs", "ms", "min - max", "beyond a bare Python")
    return (
        f"Whole processes, start to exit, Numba's cache warm; medians of {result['rounds']}. "
        "A first plan is 58 x 256 -> 288 slots on 32 GPUs unless it says otherwise.\n\n"
        + table(head, rows)
    )
