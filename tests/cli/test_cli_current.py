"""Planning from what runs now, and for what comes next, on the command line."""

import json

import numpy as np
import pytest
from command import PRICED, fails, run

from evenload import Cluster, Placement, solve
from evenload.io import read_placement, write_placement
from evenload.synth import synthetic_trace

TRACE = synthetic_trace(8, num_layers=3, num_experts=16, seed=5)
CLUSTER = Cluster(4, slots_per_gpu=6)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.npz"
    np.savez(path, load=TRACE)
    return path


@pytest.fixture
def current(tmp_path):
    path = tmp_path / "current.json"
    write_placement(path, solve(TRACE[0], CLUSTER).placement)
    return path


def test_a_plan_moves_little_from_what_runs_now(tmp_path, trace, current):
    out = tmp_path / "next.json"
    result = run("plan", trace, "--gpus", 4, "--slots", 24, "--window", -1, "--current", current,
                 "--max-moves", 2, "-o", out)  # fmt: skip
    assert result.exit_code == 0
    assert "moves from current" in result.stdout
    assert "solver: incremental" in result.stdout
    moved = read_placement(out).moves_from(read_placement(current))
    assert 0 < moved.max() <= 2


def test_what_runs_now_stays_where_nothing_may_move(tmp_path, trace, current):
    out = tmp_path / "same.json"
    run(
        "plan", trace, "--gpus", 4, "--slots", 24, "--current", current, "--max-moves", 0, "-o", out
    )
    assert read_placement(out) == read_placement(current)


def test_dear_moves_are_fewer(trace, current):
    def moves(price):
        result = run("plan", trace, "--gpus", 4, "--slots", 24, "--window", -1,
                     "--current", current, "--move-cost", price, "--json")  # fmt: skip
        return json.loads(result.stdout)["placements"][-1]["moves_from_current"]["total"]

    assert moves(0) > moves(0.05)


def test_a_trace_is_planned_for_what_comes_next(tmp_path, trace):
    out = tmp_path / "next.json"
    result = run("plan", trace, "--gpus", 4, "--slots", 24, "--next", "-o", out, "--json")
    report = json.loads(result.stdout)
    assert report["load"]["forecast"] is True
    assert read_placement(out) == solve(TRACE, CLUSTER).placement
    assert "(forecast after 8 windows)" in run("plan", trace, "--gpus", 4, "--next").stdout


def test_what_runs_on_other_gpus_is_compared_with_the_trivial_placement(tmp_path, trace):
    more = tmp_path / "more.json"
    write_placement(more, Placement.trivial(3, 16, Cluster(5, slots_per_gpu=5)))
    result = run("plan", trace, "--gpus", 4, "--slots", 24, "--current", more)
    assert result.exit_code == 0
    assert "moves from trivial" in result.stdout


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--max-moves", 3], "--max-moves limits moves from --current; give both, or neither"),
        (["--move-cost", 0.1], "--move-cost limits moves from --current; give both, or neither"),
        (
            ["--next", "--window", 1],
            "--window and --next are two ways to look at a trace; give one of them, or neither",
        ),
    ],
)
def test_options_that_do_not_go_together(trace, options, error):
    fails("plan", trace, "--gpus", 4, *options, error=error)


def test_slots_are_not_looked_for_from_what_runs_now(trace, current):
    error = (
        "--redundant auto looks for the slots to plan anew on; leave out --current, or give --slots"
    )
    fails("plan", trace, "--gpus", 4, "--redundant", "auto", "--current", current, error=error)


def test_one_load_has_no_next_window(tmp_path):
    one = tmp_path / "one.csv"
    np.savetxt(one, TRACE[0], delimiter=",")
    error = (
        f"--next: {one} has one load and no windows; leave --next out, or use a trace [windows, "
        "layers, experts]"
    )
    fails("plan", one, "--gpus", 4, "--next", error=error)


def test_moves_are_priced_and_limited_in_seconds(trace, current):
    def planned(*more):
        result = run("plan", trace, "--gpus", 4, "--slots", 24, "--window", -1, "--current",
                     current, *PRICED, *more)  # fmt: skip
        assert result.exit_code == 0, result.stderr
        return result.stdout

    free = json.loads(planned("--move-cost", 0, "--json"))
    limit = free["transfer_seconds"] / 2
    assert free["move_seconds"] == limit
    held = json.loads(planned("--move-cost", 0, "--max-transfer-seconds", limit, "--json"))
    assert 0 < held["transfer_seconds"] <= limit
    assert "keep what runs: all moves would take" in held["notes"][-1]
    assert "moves take" in planned("--move-cost", 0)
    dear = json.loads(planned("--json"))
    assert dear["transfer_seconds"] < free["transfer_seconds"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--max-transfer-seconds", 1), "--max-transfer-seconds needs the --hardware; give both"),
        (("--model", "gpt-oss-20b"), "--model is for --hardware or --expert-time; give both"),
        (("--hardware", "h100-ib"), "no model of the presets has 3 layers x 16 experts; use"),
        (("--hardware", "h100-ib", "--model", "kimi-k2"), "model='kimi-k2' has 60 layers x 384"),
    ],
)
def test_seconds_that_cannot_be_told(trace, current, options, error):
    result = run("plan", trace, "--gpus", 4, "--slots", 24, "--current", current, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {error}" in result.stderr


def test_a_price_needs_what_runs_now(trace):
    error = (
        "--hardware is for moves from --current or for --tokens-per-batch; give both, or neither"
    )
    slots = ("--gpus", 4, "--slots", 24)
    fails("plan", trace, *slots, "--hardware", "h100-ib", error=error)
