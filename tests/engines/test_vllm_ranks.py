"""Ranks of one group, each a process with the real vLLM: they share a map, or none moves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evenload

HERE = Path(__file__).parent
ROUNDS = [
    ("well", "well", "well"),
    ("well", "other", "well"),
    ("well", "failed", "well"),
    ("failed", "failed", "failed"),
]


def run(folder, rounds, dead=None, **environment):
    """Run a process for each rank; what each said in each round, and its log of that round.

    The rank that is `dead` before the last round ends says nothing of that.
    """
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "vllm_rank.py"), str(rank),
             str(len(rounds[0])), str(folder / "store"), *(hows[rank] for hows in rounds)],
            env={**os.environ, "PYTHONHASHSEED": str(rank), "EVENLOAD_NUM_THREADS": str(rank + 1),
                 **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(len(rounds[0]))
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=500)[0] for rank in ranks]
    parts = [re.findall(r"(.*?)^SAID ([^\n]*)", out, re.MULTILINE | re.DOTALL) for out in outputs]
    if dead is not None:
        parts[dead].append(("", ""))
    assert all(len(part) == len(rounds) for part in parts), outputs
    return [
        ([part[number][1] for part in parts], [part[number][0] for part in parts])
        for number in range(len(rounds))
    ]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """What came of `ROUNDS`; a process is as slow to start as many rounds."""
    return run(tmp_path_factory.mktemp("ranks"), ROUNDS)


def test_ranks_that_all_passed_share_a_plan(rounds):
    maps, _ = rounds[0]
    assert len(set(maps)) == 1
    assert len(maps[0]) == 64


def test_a_rank_whose_self_test_made_other_plans_is_told_of(rounds):
    maps, logs = rounds[1]
    assert len(set(maps)) == 1
    assert len(maps[0]) == 64
    assert "ranks have different policies or options, or their self-tests do" in logs[0]


def test_a_rank_that_fell_back_alone_stops_all_and_none_disagrees(rounds):
    maps, logs = rounds[2]
    assert maps == ["old"] * 3
    assert "ranks have different policies or options" in logs[0]
    assert "the policy of vLLM itself stays" in logs[1]


def test_ranks_that_all_fell_back_share_vllms_own_plan(rounds):
    maps, _ = rounds[3]
    assert len(set(maps)) == 1
    assert len(maps[0]) == 64
    assert maps[0] != rounds[0][0][0]


def test_where_a_rank_never_compares_the_others_raise(tmp_path):
    ((maps, _),) = run(tmp_path, [("well", "absent")], EVENLOAD_AGREE_TIMEOUT="10")
    assert "raised not every rank came to compare its plan within 10 s" in maps[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What came of rounds in which ranks serve already; the last that one does not live through."""
    rounds = [
        ("well", "well", "well"),
        ("serves", "raises", "serves"),
        ("serves", "late", "serves"),
        ("serves", "cut", "serves"),
        ("serves", "serves", "serves"),
        ("serves", "killed", "serves"),
        ("serves", "dies", "serves"),
    ]
    folder = tmp_path_factory.mktemp("serving")
    return run(folder, rounds, dead=1, EVENLOAD_AGREE_TIMEOUT="10")


def test_nothing_raises_once_ranks_serve_and_the_map_that_runs_stays(served):
    for number, why in ((1, "ranks plan differently"), (2, "not every rank came to compare"),
                        (3, "not every rank came to compare"), (5, "the kill switch is on"),
                        (6, "not every rank came")):  # fmt: skip
        maps, logs = served[number]
        assert set(maps) - {""} == {"old"}
        assert why in logs[0]


def test_a_shadow_leaves_vllm_its_own_plan(tmp_path, rounds):
    ((maps, _),) = run(tmp_path, [("well", "well")], EVENLOAD_SHADOW="1")
    assert set(maps) == {rounds[3][0][0]}


def test_ranks_go_on_after_one_was_late_and_one_lost_the_store(served):
    maps, _ = served[4]
    assert len(set(maps)) == 1
    assert len(maps[0]) == 64


def digest(environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE.parent / "plugins" / "rank_plans.py")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    ).stdout


def test_a_rank_on_another_cpu_and_a_read_only_file_system_plans_the_same_bytes(tmp_path):
    copy = tmp_path / "evenload"
    shutil.copytree(
        Path(evenload.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()  # a file, so that nobody can put one there, root neither
    nowhere = str(copy / "__pycache__" / "below")
    homes = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), nowhere)
    other = {"PYTHONPATH": str(tmp_path), "NUMBA_CPU_NAME": "generic", **homes}
    assert digest(other) == digest({})
