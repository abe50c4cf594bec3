"""Ranks of one group, each a process with the real vLLM: they share a map, or none moves.

What of vLLM runs, and what stands in for a GPU, is said in `vllm_world`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from vllm_world import E, K

import evenload
from evenload import Cluster, Placement
from evenload.io import read_placement, write_placement

HERE = Path(__file__).parent
R, L = 4, 6
START = [[slot % E for slot in range(R * K)]] * L


def fresh(*hows, settings=None, **more):
    """A round in which all ranks start anew, well but for those that are said."""
    return {"hows": [*hows, *["well"] * (R - len(hows))], "settings": settings or {}, **more}


def serving(*hows, **more):
    """A round in which they serve on."""
    return {"hows": [*hows, *["well"] * (R - len(hows))], **more}


def rounds_of(placement):
    """All rounds by name, in their order; a process is as slow to start as many of them."""
    quick = {"EVENLOAD_START_SHARE": "1", "EVENLOAD_HISTORY": "1"}
    verified = {"EVENLOAD_VERIFY": "all", "EVENLOAD_START_SHARE": "1"}
    return {
        "well": fresh(),
        "raises": serving("well", "raises"),
        "all raise": serving(*["raises"] * R, load=2),
        "lost": serving("well", "lost", load=3),
        "cut": serving("well", "cut", load=3),
        "differs": serving("well", "well", "differs", load=4),
        "late": serving("well", "late", load=5),
        "killed": serving("well", "killed", load=6),
        "again": serving(load=7),
        "joins": serving("well", "well", "well", "joins", load=7),  # the others saw that twice
        "after": serving(load=8),
        "other": fresh("well", "other"),
        "one fell back": fresh("well", "failed"),
        "all fell back": fresh(*["failed"] * R),
        "shadow": fresh(settings={"EVENLOAD_SHADOW": "1"}),
        "canary": fresh(settings={"EVENLOAD_CANARY": "0,3"}),
        "ahead": fresh(settings={"EVENLOAD_PLACEMENT": str(placement)}),
        "stages": fresh(layers=L // 2, stages=2),
        "stages ahead": fresh(
            settings={"EVENLOAD_PLACEMENT": str(placement)}, layers=L // 2, stages=2
        ),
        "worse": fresh(settings=quick),
        "worse again": serving(load=1),
        "paused": serving(load=0),
        "still paused": serving(load=1),
        "verified": fresh(settings=verified),
        "spoilt": serving(load=1, spoilt=True),
        "stopped": serving(load=2),
        "verified at once": fresh(settings=verified, sync=True),
        "spoilt at once": serving(load=1, spoilt=True),
        "serves": fresh(),
        "dies": serving("well", "dies", load=1),
    }


def run(folder, rounds, **environment):
    """Run a process for each rank; what each said in each round, with its `log` of that round."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "vllm_rank.py"), str(rank),
             str(len(rounds[0]["hows"])), str(folder / "store"), json.dumps(rounds)],
            env={**os.environ, "PYTHONHASHSEED": str(rank), "EVENLOAD_NUM_THREADS": str(rank + 1),
                 "EVENLOAD_AGREE_TIMEOUT": "10", **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(len(rounds[0]["hows"]))
    ]  # fmt: skip
    try:
        outputs = [rank.communicate(timeout=500)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    parts = [re.findall(r"(.*?)^SAID ([^\n]*)", out, re.MULTILINE | re.DOTALL) for out in outputs]
    said = [[{"log": log, **json.loads(text)} for log, text in part] for part in parts]
    return said, outputs


@pytest.fixture(scope="module")
def placement(tmp_path_factory):
    """A file with a placement of all layers: each slot has the expert of that three before."""
    path = tmp_path_factory.mktemp("placement") / "placement.json"
    rolled = [row[-3:] + row[:-3] for row in START]
    write_placement(path, Placement(rolled, Cluster(R, slots_per_gpu=K), E))
    return path


@pytest.fixture(scope="module")
def said(tmp_path_factory, placement):
    """What each rank said, by round; of the last, what those said that live."""
    rounds = rounds_of(placement)
    ranks, outputs = run(tmp_path_factory.mktemp("ranks"), list(rounds.values()))
    assert [len(rank) for rank in ranks] == [len(rounds) - (n == 1) for n in range(R)], outputs
    return {name: [rank[n] for rank in ranks if n < len(rank)] for n, name in enumerate(rounds)}


def map_of(ranks, size=R):
    """Return the map of a round: all have it, their weights are there, and their thread lives."""
    assert [rank["raised"] for rank in ranks] == [""] * size, [rank["log"] for rank in ranks]
    assert all(rank["right"] and rank["alive"] for rank in ranks)
    assert all(rank["map"] == ranks[0]["map"] for rank in ranks)
    return ranks[0]["map"]


def test_ranks_share_a_plan_and_its_experts_move(said):
    assert map_of(said["well"]) != START
    assert "async loop error" not in "".join(rank["log"] for rank in said["well"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("raises", "ranks plan differently"),
        ("all raise", "the old map stays: MemoryError: no room"),
        ("lost", "not every rank came to compare"),
        ("cut", "not every rank came to compare"),
        ("differs", "ranks plan differently from the same load, policy and options"),
        ("late", "not every rank came to compare its plan within 10 s"),
        ("killed", "the kill switch is on"),
    ],
)
def test_once_ranks_serve_no_failure_ends_a_thread_and_the_map_that_runs_stays(said, name, why):
    assert map_of(said[name]) == map_of(said["well"])
    assert f"the old map stays: {why.removeprefix('the old map stays: ')}" in said[name][0]["log"]


def test_they_plan_again_from_all_windows_that_they_saw(said):
    assert map_of(said["again"]) != map_of(said["killed"])
    assert ", 9 windows" in said["again"][0]["log"]


def test_after_a_join_all_plan_from_the_windows_that_all_have(said):
    assert map_of(said["joins"]) != map_of(said["again"])
    assert "windows" not in said["joins"][0]["log"].split("evenload (auto)")[1]
    map_of(said["after"])
    assert ", 2 windows" in said["after"][0]["log"]


def test_a_rank_whose_self_test_made_other_plans_is_told_of(said):
    assert map_of(said["other"]) == map_of(said["well"])
    log = said["other"][0]["log"]
    assert "ranks have different policies or options, or their self-tests do" in log


def test_a_rank_that_fell_back_alone_stops_all_and_none_disagrees(said):
    assert map_of(said["one fell back"]) == START
    assert "ranks have different policies or options" in said["one fell back"][0]["log"]
    assert "the policy of vLLM itself stays" in said["one fell back"][1]["log"]


def test_ranks_that_all_fell_back_share_vllms_own_plan(said):
    assert map_of(said["all fell back"]) not in (START, map_of(said["well"]))


def test_a_shadow_leaves_vllm_its_own_plan(said):
    assert map_of(said["shadow"]) == map_of(said["all fell back"])
    assert "shadow: ours would be balancedness" in said["shadow"][0]["log"]


def test_a_canary_has_our_plan_in_its_layers_only(said):
    ours, theirs = map_of(said["well"]), map_of(said["all fell back"])
    wanted = [ours[layer] if layer in (0, 3) else theirs[layer] for layer in range(L)]
    assert map_of(said["canary"]) == wanted
    assert "canary: " in said["canary"][0]["log"]


def test_a_placement_planned_ahead_is_what_runs(said, placement):
    wanted = read_placement(placement).physical_to_logical.reshape(L, R, K)
    ran = np.reshape(map_of(said["ahead"]), (L, R, K))
    assert (np.sort(ran) == np.sort(wanted)).all()  # what stays on a rank keeps its slot


def test_each_stage_plans_and_compares_by_itself(said):
    ranks = said["stages"]
    one, other = map_of(ranks[:2], 2), map_of(ranks[2:], 2)
    assert len(one) == len(other) == L // 2
    assert one != other
    assert all("balancedness" in rank["log"] for rank in (ranks[0], ranks[2]))


def test_a_stage_with_fewer_layers_than_the_placement_does_not_start(said):
    for rank in said["stages ahead"]:
        assert rank["raised"].startswith("PlacementMismatchError")
        assert "balances each pipeline stage or the draft model by itself" in rank["raised"]


def test_after_two_worse_rebalances_in_a_row_all_pause(said):
    assert map_of(said["worse again"]) not in (START, map_of(said["worse"]))
    for name in ("paused", "still paused"):
        assert map_of(said[name]) == map_of(said["worse again"])
        assert "paused: after 2 rebalances in a row the map" in said[name][0]["log"]


@pytest.mark.parametrize("name", ["verified", "verified at once"])
def test_a_move_of_vllm_keeps_the_bytes(said, name):
    assert map_of(said[name]) != START
    log = said[name][0]["log"]
    assert "experts have the same bytes after the move, layers [0, 1, 2, 3, 4, 5]" in log


@pytest.mark.parametrize("name", ["spoilt", "spoilt at once"])
def test_a_flipped_bit_is_told(said, name):
    assert [rank["right"] for rank in said[name]] == [True, False, True, True]
    for rank in said[name][:2]:
        assert re.search(
            r"evenload: a rebalance did not keep the experts' weights: layer 3: expert .*"
            r" and now slot \d+ \(rank 1\) holds no expert's weights", rank["log"],
        )  # fmt: skip


def test_a_flipped_bit_pauses_all_ranks(said):
    before = said["spoilt"]
    for now, rank in zip(said["stopped"], before, strict=True):
        assert now["map"] == rank["map"]
        assert now["alive"]
    assert "paused: a rebalance did not keep the experts' weights" in said["stopped"][0]["log"]


def test_where_one_is_killed_while_it_plans_the_others_keep_their_map(said):
    """vLLM's own all-reduce fails then, and ends the engine: nothing of ours can mend that."""
    assert len(said["dies"]) == R - 1
    for rank in said["dies"]:
        assert rank["map"] == map_of(said["serves"])
        assert rank["right"]
        assert rank["raised"]
    assert "not every rank came to compare its plan within 10 s" in said["dies"][0]["log"]


def test_where_a_rank_never_compares_the_others_raise(tmp_path):
    ranks, _ = run(tmp_path, [{"hows": ["well", "absent"], "settings": {}}])
    assert "not every rank came to compare its plan within 10 s" in ranks[0][0]["raised"]


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
