"""Recordings of engines on the command line."""

import json

import numpy as np
import pytest
from command import PRICED, fails, run
from recordings import dump_stat

from evenload.io import FORMATS, read_placement_file

RNG = np.random.default_rng(2)
E = 16


@pytest.fixture
def dump(tmp_path):
    pytest.importorskip("torch")
    counts = RNG.integers(1, 99, (6, 3, E))
    counts[:, 0] = 0
    return dump_stat(tmp_path / "expert_distribution_recorder_17.5.pt", counts)


@pytest.fixture
def requests(tmp_path):
    np.save(tmp_path / "r.npy", np.argsort(RNG.random((40, 2, E)), axis=2)[:, :, :4])
    return tmp_path / "r.npy"


def test_plans_what_an_engine_recorded(tmp_path, dump):
    for loads in (dump, tmp_path, tmp_path / "*.pt"):
        given = ("plan", loads, "--gpus", 4, "-o", tmp_path / "plan.json")
        folded = run(*given, "--output-format", "sglang")  # notes of three kinds: no --slots either
        (note,) = (line for line in folded.stderr.splitlines() if line.startswith("note: "))
        given = ("plan", loads, "--gpus", 4, "--slots", 20, "-o", tmp_path / "plan.json")
        assert "more; --verbose shows all)" in note
        result = run(*given, "--verbose")
        assert result.exit_code == 0, result.stderr
        assert "left out as dense ones: 0" in result.stderr
        assert read_placement_file(tmp_path / "plan.json").layers.ids == (1, 2)


def test_plans_a_recording_for_what_comes_next(dump):
    result = run("plan", dump, "--gpus", 4, "--slots", 20, "--next", "--json")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["physical_to_logical"]) == 2


@pytest.mark.parametrize("nodes", [1, 2])
def test_plans_and_evaluates_requests(tmp_path, requests, nodes):
    name = ["--format", "vllm-routed-experts"]
    out = tmp_path / "plan.json"
    result = run("plan", requests, "--gpus", 4, "--nodes", nodes, "--slots", 20, "-o", out, *name)
    assert result.exit_code == 0, result.stderr
    result = run("evaluate", requests, out, *name)
    assert result.exit_code == 0, result.stderr
    assert "2 layers x 16 experts" in " ".join(result.stdout.split())


def test_replays_and_sweeps_a_recording(tmp_path, dump):
    name = ["--format", "sglang-recorder"]
    result = run("replay", dump, "--gpus", 4, "--slots", 20, *PRICED, "--policy", "once", *name)
    assert result.exit_code == 0, result.stderr
    out = tmp_path / "x.csv"
    result = run("sweep", dump, "--gpus", 4, "--slots", 20, *PRICED, "--policy", "once", "-o", out,
                 *name, "--workers", 2)  # fmt: skip
    assert result.exit_code == 0, result.stderr


def test_unknown_format(dump):
    names = ", ".join(f.name for f in FORMATS if "read_load" in f.can)
    fails(
        *["plan", dump, "--gpus", 4, "--format", "vllm"],
        error=f"format='vllm' is not known for a load to be read; use one of {names}",
    )


def test_the_help_names_every_format_of_loads():
    shown = "".join(run("plan", "--help").stdout.split())  # lines break at hyphens
    for known in FORMATS:
        if "read_load" in known.can:
            assert known.name in shown
