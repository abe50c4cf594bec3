"""How much a first plan compiles, and that the next process compiles nothing."""

import json
import os
import subprocess
import sys

SCRIPT = """
import json
import numpy as np
from numba.core import event

compiled, counts = [], {}

class Listener(event.Listener):
    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        compiled.append(f"{function.__module__}.{function.__qualname__}")

    def on_end(self, event):
        pass

event.register("numba:compile", Listener())

def count(name, run):
    compiled.clear()
    result = run()
    counts[name] = list(compiled)
    return result

from evenload import Cluster, CostModel, solve
from evenload.replay import replay

cost = CostModel(1e6, 45e6, 450e9, 50e9)

trace = np.random.default_rng(0).lognormal(0, 1, (6, 3, 24)) * 1000
cluster = Cluster(4, slots_per_gpu=7)
count("import", lambda: None)
plan = count("solve", lambda: solve(trace[0], cluster))
count("current", lambda: solve(trace[:4], cluster, current=plan.placement))
count("replay", lambda: replay(trace, cluster, "evenload", cost=cost))
print(json.dumps(counts))
"""

MOST = {"import": 0, "solve": 71, "current": 28, "replay": 6}


def run(folder):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_first_plans_compile_so_much_and_the_next_process_nothing(tmp_path):
    first = run(tmp_path)
    for name, compiled in first.items():
        ours = [kernel for kernel in compiled if kernel.startswith("evenload.")]
        assert len(ours) == len(set(ours)), name
    counts = {name: len(compiled) for name, compiled in first.items()}
    assert all(counts[name] <= most for name, most in MOST.items()), counts
    assert counts["solve"] > 0
    assert not any(run(tmp_path).values())
