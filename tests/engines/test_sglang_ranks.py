"""Ranks of SGLang in processes of their own, with environments that differ."""

import json
import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from sglang_world import free_port

SCRIPT = Path(__file__).with_name("sglang_rank.py")
PROCESSES = [
    {"EVENLOAD_NUM_THREADS": "1", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
    {"EVENLOAD_NUM_THREADS": "3", "PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"},
]
ROUNDS = [
    ({}, {}),
    ({}, {"EVENLOAD_MAX_MOVES": "1"}),
    ({}, {"EVENLOAD_SOLVER": "no-such-solver"}),
]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each rank printed in each round; a process is as slow to start as ten rounds."""
    port = str(free_port())
    folder = tmp_path_factory.mktemp("ranks")
    errors = [folder / f"{rank}.txt" for rank in range(len(PROCESSES))]
    running = []
    for rank, more in enumerate(PROCESSES):
        settings = [json.dumps(both[rank]) for both in ROUNDS]
        with errors[rank].open("w") as file:  # a pipe could fill up while the other is waited for
            running.append(
                Popen(
                    [sys.executable, SCRIPT, str(rank), str(len(PROCESSES)), port, *settings],
                    env={**os.environ, **more}, stdout=PIPE, stderr=file, text=True,
                )
            )  # fmt: skip
    try:
        texts = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, error in zip(running, errors, strict=True):
        assert process.returncode == 0, error.read_text()
    return list(zip(*(text.split("\nROUND ")[1:] for text in texts), strict=True))


def maps(text):
    return [line for line in text.splitlines() if line.startswith("map")]


def test_ranks_with_other_threads_and_hash_seeds_come_to_the_same_bytes(printed):
    one, other = map(maps, printed[0])
    assert one == other
    assert len(one) == 2
    assert all(" new " in line for line in one)


@pytest.mark.parametrize("number", [1, 2], ids=["options", "self-test"])
def test_ranks_that_would_differ_keep_the_map_that_runs(printed, number):
    one, other = map(maps, printed[number])
    assert one == other
    assert len(one) == 2
    assert all(" kept " in line for line in one)
    assert "ranks have different policies or options" in printed[number][0]
