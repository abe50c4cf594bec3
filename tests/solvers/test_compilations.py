"""How much a first plan compiles, and that the next process compiles nothing."""

from programs import compilations

SCRIPT = """
count("import", lambda: __import__("evenload.replay"))
import numpy as np
from evenload import Cluster, CostModel, solve
from evenload.replay import replay

cost = CostModel(1e6, 45e6, 450e9, 50e9)

trace = np.random.default_rng(0).lognormal(0, 1, (6, 3, 24)) * 1000
cluster = Cluster(4, slots_per_gpu=7)
plan = count("solve", lambda: solve(trace[0], cluster))
count("current", lambda: solve(trace[:4], cluster, current=plan.placement))
count("replay", lambda: replay(trace, cluster, "evenload", cost=cost))
"""

MOST = {"import": 0, "solve": 71, "current": 28, "replay": 6}


def test_first_plans_compile_so_much_and_the_next_process_nothing(tmp_path):
    _, first = compilations(SCRIPT, tmp_path)
    counts = {name: len(compiled) for name, compiled in first.items()}
    assert all(counts[name] <= most for name, most in MOST.items()), counts
    assert counts["solve"] > 0
    assert not any(compilations(SCRIPT, tmp_path)[1].values())
