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
    {"PYTHONHASHSEED": "3", "LC_ALL": "C", "OMP_NUM_THREADS": "1"},
    {"PYTHONHASHSEED": "4", "OMP_NUM_THREADS": "1"},
]
ALL, WITHOUT_1, WITHOUT_3 = [0, 1, 2, 3], [0, 2, 3], [0, 1, 2]
THREE = {"seeds": [0, 1, 2]}
FAILS = {"EVENLOAD_SOLVER": "no-such-solver"}


def elastic(*alive, **more):
    """Elastic ranks, which see these alive at each rebalance."""
    seeds = list(range(len(alive)))
    return {"EVENLOAD_SGLANG_ELASTIC": "1", "alive": alive, "seeds": seeds, **more}


ROUNDS = {  # what all ranks are told, and some
    "well": ({}, {}),
    "options": ({}, {1: {"EVENLOAD_MAX_MOVES": "1"}}),
    "self-test": ({}, {1: FAILS}),
    "all fail": (FAILS, {}),
    "shadow": ({"EVENLOAD_SHADOW": "1"}, {}),
    "canary": ({"EVENLOAD_CANARY": "1,3"}, {}),
    "raises": (THREE, {2: {"does": "raises"}}),
    "differs": (THREE, {2: {"does": "differs"}}),
    "late": ({**THREE, "waits": 10}, {1: {"does": "late"}}),
    "killed": (THREE, {3: {"does": "killed", "EVENLOAD_KILL_SWITCH": "evenload.off"}}),
    "pauses": (THREE, {2: {"does": "pauses"}}),
    "rolls back": ({"EVENLOAD_START_SHARE": "1", "seeds": [0, 1, 0, 1, 0, 1]}, {}),
    "elastic": (elastic(ALL, WITHOUT_1), {}),
    "views": (elastic(ALL, ALL, ALL), {3: {"alive": [ALL, WITHOUT_1, ALL]}}),
    "joins": (elastic(WITHOUT_1, WITHOUT_1, ALL, ALL, steps=4, joins=2), {}),
    "dies": (elastic(ALL, ALL, WITHOUT_3, waits=10), {3: {"does": "dies"}}),
}


def run(folder, processes, rounds):
    """Run a process for each rank; their exit codes, outputs and errors."""
    port = str(free_port())
    errors = [folder / f"{rank}.txt" for rank in range(len(processes))]
    running = []
    for rank, more in enumerate(processes):
        settings = [json.dumps(everyone | some.get(rank, {})) for everyone, some in rounds]
        with errors[rank].open("w") as file:  # a pipe could fill up while the other is waited for
            running.append(
                Popen(
                    [sys.executable, SCRIPT, str(rank), str(len(processes)), port, *settings],
                    env={**os.environ, **more}, cwd=folder, stdout=PIPE, stderr=file, text=True,
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
    ended = run(tmp_path_factory.mktemp("ranks"), PROCESSES, ROUNDS.values())
    for rank, (code, _, error) in enumerate(ended):
        assert code == (rank == 3), error  # it dies in the last round
    texts = zip(*(text.split("\nROUND ")[1:] for _, text, _ in ended), strict=True)
    return dict(zip(ROUNDS, texts, strict=True))


def maps(texts):
    """What became of the map at each rebalance and its layers, which all who came to it share."""
    said = {}
    for text in texts:
        for line in text.splitlines():
            if line.startswith("map "):
                _, number, *became = line.split()
                said.setdefault(number, []).append(became)
    assert all(became == each[0] for each in said.values() for became in each), said
    return [each[0] for each in said.values()]


def words(texts):
    return [became[0] for became in maps(texts)]


def test_ranks_with_other_threads_and_hash_seeds_come_to_the_same_bytes(printed):
    assert words(printed["well"]) == ["new", "new"]


@pytest.mark.parametrize("name", ["options", "self-test"])
def test_ranks_that_would_differ_keep_the_map_that_runs(printed, name):
    assert words(printed[name]) == ["kept", "kept"]
    assert "ranks have different policies or options" in printed[name][0]


def test_a_shadow_leaves_sglang_its_own_plan_and_a_canary_but_its_layers(printed):
    own, ours = maps(printed["all fail"])[0], maps(printed["well"])[0]
    assert own != ours
    assert maps(printed["shadow"])[0] == own
    assert "shadow: ours would be" in printed["shadow"][0]
    canary = maps(printed["canary"])[0]
    of = [ours if layer in (1, 3) else own for layer in range(5)]
    assert canary[1:] == [row[1 + layer] for layer, row in enumerate(of)]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("raises", "ranks plan differently from the same load"),
        ("differs", "ranks have different loads or old maps"),
        ("late", "not every rank came to compare its plan within 10 s (rank 1 did not)"),
        ("killed", "the kill switch is on"),
        ("views", "ranks do not see the same ranks alive: rank 0, 1, 2, 3; or rank 0, 2, 3"),
    ],
)
def test_what_happens_to_one_rank_keeps_the_map_on_all_and_all_go_on(printed, name, why):
    assert words(printed[name]) == ["new", "kept", "new"]
    assert why in printed[name][0]


def test_a_rank_that_pauses_pauses_all(printed):
    assert words(printed["pauses"]) == ["new", "kept", "kept"]
    assert "paused: another rank paused" in printed["pauses"][0]


def test_loads_that_come_and_go_end_in_a_pause_on_all(printed):
    became = words(printed["rolls back"])
    assert became[0] == "new"
    assert became[-1] == "kept"
    assert "the map before would have been better" in printed["rolls back"][0]


def test_elastic_survivors_share_a_map(printed):
    assert words(printed["elastic"]) == ["new", "new"]
    assert len([line for line in printed["elastic"][1].splitlines() if "map" in line]) == 1


def test_a_rank_that_joins_plans_what_the_others_plan_over_what_all_have_seen(printed):
    assert words(printed["joins"]) == ["new"] * 4
    told = [line for line in printed["joins"][0].splitlines() if line.startswith("evenload (")]
    assert ["2 windows" in line for line in told] == [False, True, False, True]


def test_a_rank_that_dies_between_ballots_leaves_the_map_and_the_others_go_on(printed):
    assert words(printed["dies"]) == ["new", "kept", "new"]
    assert (
        "not every rank came to compare its plan within 10 s (rank 3 did not)"
        in (printed["dies"][0])
    )


def test_a_rank_without_evenload_keeps_the_others_from_starting(tmp_path):
    without = {"SGLANG_PLUGINS": "none"}
    (_, has, error), (_, _, lacks) = run(
        tmp_path, [{"EVENLOAD_AGREE_TIMEOUT": "10"}, without], [({}, {})]
    )
    assert not maps([has])
    assert "RuntimeError: within 10 s evenload did not start on 1 of 2 ranks (rank 1)" in error
    assert "which are on --node-rank 1; install evenload on every node" in error
    assert "KeyError: 'evenload'" in lacks  # what SGLang does there at its first rebalance
