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


def run(folder, processes, rounds):
    """Run a process for each rank; their exit codes, outputs and errors."""
    port = str(free_port())
    errors = [folder / f"{rank}.txt" for rank in range(len(processes))]
    running = []
    for rank, more in enumerate(processes):
        settings = [json.dumps(both[rank]) for both in rounds]
        with errors[rank].open("w") as file:  # a pipe could fill up while the other is waited for
            running.append(
                Popen(
                    [sys.executable, SCRIPT, str(rank), str(len(processes)), port, *settings],
                    env={**os.environ, **more}, stdout=PIPE, stderr=file, text=True,
                )
            )  # fmt: skip
    try:
        texts = [process.communicate(timeout=600)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    return list(zip(codes, texts, [error.read_text() for error in errors], strict=True))


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each rank printed in each round; a process is as slow to start as ten rounds."""
    ended = run(tmp_path_factory.mktemp("ranks"), PROCESSES, ROUNDS)
    for code, _, error in ended:
        assert code == 0, error
    return list(zip(*(text.split("\nROUND ")[1:] for _, text, _ in ended), strict=True))


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


def test_a_rank_without_evenload_keeps_the_others_from_starting(tmp_path):
    without = {"SGLANG_PLUGINS": "none"}
    (_, has, error), (_, _, lacks) = run(
        tmp_path, [{"EVENLOAD_AGREE_TIMEOUT": "10"}, without], [({}, {})]
    )
    assert not maps(has)
    assert "RuntimeError: within 10 s evenload did not start on 1 of 2 ranks (rank 1)" in error
    assert "which are on --node-rank 1; install evenload on every node" in error
    assert "KeyError: 'evenload'" in lacks  # what SGLang does there at its first rebalance
