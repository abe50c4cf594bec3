"""Ranks of different environments plan the same bytes, and one that does not finds out itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from evenload.engines.common.selftest import EXPECTED

HERE = Path(__file__).parent
ALIKE = {
    "one thread": {"EVENLOAD_NUM_THREADS": "1"},
    "two threads": {"EVENLOAD_NUM_THREADS": "2", "PYTHONHASHSEED": "1"},
    "seven threads": {"EVENLOAD_NUM_THREADS": "7", "PYTHONHASHSEED": "4242"},
    "another language and time": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    "no language": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONHASHSEED": "0"},
    "optimised": {"PYTHONOPTIMIZE": "2", "OMP_NUM_THREADS": "1"},
    "threads of libraries": {"OMP_NUM_THREADS": "16", "NUMBA_NUM_THREADS": "1"},
    "no assembly of NumPy's": {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3", "MKL_CBWR": "COMPATIBLE"},
}


def start(environment, *arguments, script="rank_plans.py"):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / script), *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outputs(ranks):
    """Wait for every rank; what each of them printed."""
    said = {}
    for name, process in ranks.items():
        out, errors = process.communicate(timeout=600)
        assert process.returncode == 0, f"{name}: {errors}"
        said[name] = out.strip()
    return said


def test_eight_ranks_of_different_environments_plan_the_same_bytes():
    said = outputs({name: start(environment) for name, environment in ALIKE.items()})
    assert len(said) == 8
    assert len(set(said.values())) == 1, said


DIGEST = "from evenload.engines.common.selftest import plans_digest; print(plans_digest())"


def test_the_self_test_sees_a_rank_that_plans_otherwise():
    # Without its compiler Numba computes small integers as NumPy does, which wraps around.
    environment = {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DIGEST],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    said = outputs({"plain": start({}, "small"), "other": start(environment, "small")})
    assert (said["plain"] == said["other"]) == (done.stdout.strip() == EXPECTED)
