"""Ranks of SGLang in processes of their own, with environments that differ."""

import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from sglang_world import free_port

SCRIPT = Path(__file__).with_name("sglang_rank.py")


def maps_of(environments):
    """Run a rank for each environment; return what each printed of its maps, and of its log."""
    port = str(free_port())
    running = [
        Popen(
            [sys.executable, SCRIPT, str(rank), str(len(environments)), port],
            env={**os.environ, **more},
            stdout=PIPE,
            text=True,
        )
        for rank, more in enumerate(environments)
    ]
    try:
        printed = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(environments)
    return [[x for x in text.splitlines() if x.startswith("map")] for text in printed], printed


def test_ranks_with_other_threads_and_hash_seeds_come_to_the_same_bytes():
    maps, _ = maps_of(
        [
            {"EVENLOAD_NUM_THREADS": "1", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
            {"EVENLOAD_NUM_THREADS": "3", "PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"},
        ]
    )
    assert maps[0] == maps[1]
    assert all(" new " in line for line in maps[0])


@pytest.mark.parametrize(
    ("different", "why"),
    [
        ({"EVENLOAD_MOVE_COST": "0"}, "ranks have different policies or options"),
        ({"EVENLOAD_SOLVER": "no-such-solver"}, "ranks have different policies or options"),
    ],
    ids=["options", "self-test"],
)
def test_ranks_that_would_differ_keep_the_map_that_runs(different, why):
    maps, printed = maps_of([{}, different])
    assert maps[0] == maps[1]
    assert all(" kept " in line for line in maps[0])
    assert why in printed[0]
