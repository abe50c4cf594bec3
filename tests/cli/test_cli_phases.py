"""Files that tell prefill from decode, on the command line."""

import json

import numpy as np
import pytest
from command import PRICED, fails, run

from evenload.io import load_digest, read_load, read_placement_file, read_trace
from evenload.synth import two_phase_trace

PHASES = two_phase_trace(5, 2, 8, seed=2, tokens=4096)
PHASES["decode"][1] = 0
PLACE = ("--gpus", 4, "--slots", 12)
TOGETHER = "note: the phases prefill and decode are taken together; --phase decode takes one"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, **PHASES)
    return path


def test_one_plan_for_both_phases(file):
    result = run("plan", file, *PLACE)
    assert result.exit_code == 0, result.stderr
    assert "solver: incremental (it plans for several phases together)" in result.stdout
    assert TOGETHER not in result.stderr
    plain = json.loads(run("plan", file, *PLACE, "--json").stdout)["phases"]
    assert list(plain) == ["prefill", "decode"]
    for name, of in plain.items():
        assert of["weight"] == 0.5
        mean = f"{np.floor(of['balancedness']['mean'] * 1e5) / 1e5:.5f}"
        assert f"{name}: balancedness {mean} (worst layer " in result.stdout
    heavier = json.loads(
        run("plan", file, *PLACE, "--phase-weight", "prefill=1,decode=9", "--json").stdout
    )
    assert heavier["phases"]["decode"]["weight"] == 0.9
    assert heavier["phases"]["decode"]["straggler_time"] <= plain["decode"]["straggler_time"]


def test_the_window_after_of_both_phases(tmp_path, file):
    result = run("plan", file, *PLACE, "--next", "--json", "-o", tmp_path / "out.json")
    assert list(json.loads(result.stdout)["phases"]) == ["prefill", "decode"]
    only = json.loads(run("plan", file, *PLACE, "--window", 1, "--json").stdout)
    assert "phases" not in only  # that window has prompts alone


def test_one_phase_alone(tmp_path, file):
    out = tmp_path / "out.json"
    result = run("plan", file, *PLACE, "--phase", "decode", "-o", out)
    assert "1 of 5 windows have no token of the phase 'decode' and are left out" in result.stderr
    assert "two.npz (sum of 4 windows)" in result.stdout
    decode = PHASES["decode"].sum(axis=0)
    assert read_placement_file(out).load_digest == load_digest(decode.astype(float))
    judged = run("evaluate", file, out, "--phase", "decode")
    assert "made for these very loads" in judged.stdout
    assert TOGETHER in run("evaluate", file, out).stderr


def test_replays_and_inspections(file):
    shown = run("inspect", file)
    assert "phases" in shown.stdout
    assert TOGETHER in shown.stderr
    parts = json.loads(run("inspect", file, "--json").stdout)["phases"]
    assert sum(parts.values()) == pytest.approx(1.0)
    assert "4 windows" in run("inspect", file, "--phase", "decode").stdout
    how = ("--gpus", 4, *PRICED, "--policy", "never", "--oracle", "none")
    both = run("replay", file, *how)
    assert both.exit_code == 0, both.stderr
    assert TOGETHER in both.stderr
    assert TOGETHER not in run("replay", file, *how, "--phase", "prefill").stderr


def test_conversions_keep_the_phases(tmp_path, file):
    for name, options in (
        ("x.parquet", ()),
        ("x.npz", ("--layers", "3-4")),
        ("w.npz", ("--window", "2")),
    ):
        out = tmp_path / name
        assert run("convert", file, out, *options).exit_code == 0
        trace = read_trace(out)
        for phase, load in PHASES.items():
            wanted = load[2:3] if options[:1] == ("--window",) else load
            found = [trace.phases[phase].read(t) for t in range(len(trace))]
            np.testing.assert_array_equal(np.stack(found), wanted)
    assert run("convert", file, tmp_path / "d.npy", "--phase", "decode").exit_code == 0
    decode = read_load(tmp_path / "d.npy").load
    np.testing.assert_array_equal(decode, PHASES["decode"].sum(axis=0))


def test_what_is_refused(tmp_path, file):
    np.savez(tmp_path / "one.npz", load=PHASES["decode"][:1])
    one = tmp_path / "one.npz"
    fails("plan", file, *PLACE, "--phase", "warm",
          error=f"{file}: phase='warm' is not in the trace, which has prefill and decode; use one "
          "of them")  # fmt: skip
    fails("plan", one, *PLACE, "--phase", "decode",
          error=f"{one}: phase='decode': the file does not tell phases apart; leave it "
          "out")  # fmt: skip
    fails("plan", one, *PLACE, "--phase-weight", "decode=2",
          error="--phase-weight is for a plan for several phases, and this is of one load; leave "
          "it out")  # fmt: skip
    fails("plan", file, *PLACE, "--phase-weight", "decode=x",
          error="--phase-weight decode=x: 'decode=x' is not a phase with its number; use e.g. "
          "prefill=1,decode=2")  # fmt: skip
    fails("plan", file, *PLACE, "--phase-weight", "warm=2",
          error="phase_weight has 'warm', and load no such phase; use 'prefill', 'decode'"
          )  # fmt: skip
    fails("plan", file, *PLACE, "--solver", "joint",
          error="solver='joint' plans for one load, and there are several phases; use solver "
          "'incremental' or 'auto', or the load of one phase")  # fmt: skip
    placement = tmp_path / "p.json"
    run("plan", one, *PLACE, "-o", placement)
    fails("inspect", placement, "--phase", "decode",
          error="--phase takes loads of one phase, and this is a placement; leave it out"
          )  # fmt: skip
