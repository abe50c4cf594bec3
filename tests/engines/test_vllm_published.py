"""vLLM's own unit tests, run against our policy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
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
    passed = set(re.findall(r"^PASSED \S+::(\S+)", done.stdout, re.MULTILINE))
    failed = set(re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", done.stdout, re.MULTILINE))
    return passed, failed, done.stdout + done.stderr


@pytest.mark.parametrize("solver", ["auto", "joint"])
def test_all_but_the_greedys_slots(published, solver):
    passed, failed, output = run(published, solver, "test_eplb_algo.py")
    assert failed <= {GOLDEN, DUPLICATE}, output
    assert len(passed) >= 13, output


def test_the_greedys_slots_too(published):
    passed, failed, output = run(published, "greedy", "test_eplb_algo.py")
    assert not failed, output
    assert {GOLDEN, DUPLICATE} <= passed, output


def test_the_migration_schedulers_own(published):
    passed, failed, output = run(published, "auto", "test_eplb_migration_scheduler.py")
    assert not failed, output
    assert passed, output
