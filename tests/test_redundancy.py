"""The fewest slots that reach a wanted balance."""

import json
import subprocess
import sys

import numpy as np
import pytest

from evenload import Cluster, solve
from evenload.redundancy import smallest_redundancy
from evenload.synth import lognormal_load

LOAD = lognormal_load(4, 32, 1.0, seed=0)


def test_no_smaller_number_of_slots_reaches_it():
    found = smallest_redundancy(LOAD, 8, wanted=0.97)
    assert [p.num_slots for p in found.curve] == list(range(32, found.curve[-1].num_slots + 1, 8))
    assert all(p.balancedness < 0.97 for p in found.curve[:-1])
    assert found.curve[-1].balancedness >= 0.97
    assert found.plan.placement.num_slots == found.curve[-1].num_slots
    assert all(p.balancedness <= p.bound * (1 + 1e-9) for p in found.curve)
    alone = solve(LOAD, Cluster(8, num_slots=found.curve[-1].num_slots))
    assert alone.placement == found.plan.placement


def test_it_ends_where_every_gpu_holds_every_expert():
    found = smallest_redundancy([[5.0, 1.0, 1.0]], 2, wanted=1.0)
    assert found.curve[-1].balancedness == 1.0
    assert found.curve[-1].num_slots <= 6


def test_it_tells_what_it_tries():
    told = []
    smallest_redundancy(LOAD, 8, wanted=0.9, say=told.append)
    assert told[0] == "32 slots"


@pytest.mark.parametrize("wanted", [0, 1.5, float("nan"), None])
def test_a_balance_that_is_none(wanted):
    with pytest.raises(ValueError, match=r"^wanted="):
        smallest_redundancy(LOAD, 8, wanted=wanted)


def plan_command(tmp_path, *options):
    np.savetxt(tmp_path / "loads.csv", LOAD, delimiter=",")
    command = [sys.executable, "-m", "evenload", "plan", "loads.csv", "--gpus", "8", *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_the_command_finds_prints_and_draws_it(tmp_path):
    run = plan_command(
        tmp_path, "--redundant", "auto", "--target", "0.97", "--curve", "c.png", "--json"
    )
    assert run.returncode == 0, run.stderr
    curve = json.loads(run.stdout)["redundancy"]["curve"]
    assert curve[-1]["balancedness"] >= 0.97 > curve[-2]["balancedness"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_takes_clusters_of_all_kinds(tmp_path):
    options = ("--redundant", "17", "--speed", "1,1,1,1,2,2,2,2", "--dead", "3", "--json")
    run = plan_command(tmp_path, *options, "--effort", "fast", "--plot", "p.png")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["cluster"]["num_slots"] == 49
    assert sum(e == -1 for e in report["physical_to_logical"][0]) == 6
    assert "NaN" not in run.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--redundant", "x"), "--redundant x is no number"),
        (("--redundant", "3", "--slots", "40"), "--slots and --redundant are two ways"),
        (("--curve", "c.png"), "--curve is drawn for --redundant auto"),
        (("--redundant", "auto", "--dead", "1"), "leave out --slots, --speed and --dead"),
        (("--redundant", "auto", "--target", "1.5"), "wanted=1.5 is outside (0, 1]"),
        (("--speed", "1,b"), "--speed 1,b: not numbers"),
        (("--speed", "1,2"), "speed has 2 entries for num_gpus=8"),
        (("--dead", "9"), "--dead 9 is no GPU; use 0 to 7"),
        (("--topology", "loose"), "use one of: strict, prefer, ignore"),
        (("--effort", "hard"), "use one of: fast, standard, thorough"),
        (("--cross-node-price", "-1"), "cross_node_price=-1.0"),
        (("--nodes", "4", "--groups", "2", "--topology", "strict"), "does not divide"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, options, message):
    run = plan_command(tmp_path, *options)
    assert run.returncode == 2
    assert message in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
