"""vLLM's own unit tests, run against our policy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ALGORITHM, SCHEDULER = "test_eplb_algo.py", "test_eplb_migration_scheduler.py"
GOLDEN = "test_basic_rebalance"  # compares slots with the greedy's, one by one
# Wants a hot expert to have more slots than a cold one, where its node has two GPUs and six slots
# for four experts: a third slot of the hot one would be a duplicate.
DUPLICATE = "test_extreme_weight_imbalance"


def run(published, solver, *arguments):
    environment = {
        **os.environ,
        "EVENLOAD_VLLM": "1",
        "EVENLOAD_ON_FAILURE": "raise",
        "EVENLOAD_SOLVER": solver,
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE / 'stubs'}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "published_policy", "-q", "-rA", "-c", os.devnull,
         "--rootdir", str(published), *arguments],
        cwd=published, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    results: dict[str, dict[str, set[str]]] = {"PASSED": {}, "FAILED": {}, "ERROR": {}}
    for word, file, test in re.findall(
        r"^(PASSED|FAILED|ERROR) (\S+?)::(\S+)", done.stdout, re.MULTILINE
    ):
        results[word].setdefault(file, set()).add(test)
    failed = set().union(*results["FAILED"].values(), *results["ERROR"].values())
    return results["PASSED"], failed, done.stdout + done.stderr


def test_all_but_the_greedys_slots_and_the_migration_scheduler_takes_them(published):
    passed, failed, output = run(published, "auto", ALGORITHM, SCHEDULER)
    assert failed <= {GOLDEN, DUPLICATE}, output
    assert len(passed[ALGORITHM]) >= 13, output
    assert passed[SCHEDULER], output


def test_all_but_the_greedys_slots(published):
    passed, failed, output = run(published, "joint", ALGORITHM)
    assert failed <= {GOLDEN, DUPLICATE}, output
    assert len(passed[ALGORITHM]) >= 13, output


def test_the_greedys_slots_too(published):
    passed, failed, output = run(published, "greedy", ALGORITHM)
    assert not failed, output
    assert passed[ALGORITHM] >= {GOLDEN, DUPLICATE}, output
