"""`plan` and `evaluate` with the time of experts."""

import json

import numpy as np
import pytest
from command import fails, run

from evenload import Cluster, solve
from evenload.cost import ExpertTime
from evenload.io import read_placement_file
from evenload.seconds import least_seconds

CURVE = "tokens,seconds\n1,3e-6\n100,3e-6\n200,6e-6\n"


@pytest.fixture
def files(tmp_path):
    """Loads of gpt-oss-20b's shape but for the layers, and a curve."""
    load = np.random.default_rng(0).integers(1, 1000, (24, 32))
    np.save(tmp_path / "loads.npy", load)
    (tmp_path / "curve.csv").write_text(CURVE)
    return tmp_path, load


def test_a_plan_by_a_curve_and_what_it_takes(files):
    folder, load = files
    loads, curve, out = folder / "loads.npy", folder / "curve.csv", folder / "placement.json"
    where = ("--gpus", 8, "--slots", 40)
    batches = ("--expert-time", curve, "--tokens-per-batch", 64)
    result = run("plan", loads, *where, *batches, "--top-k", 2, "-o", out)
    how = {"expert_time": ExpertTime.read(curve), "tokens_per_batch": 64, "top_k": 2}
    plan = solve(load, Cluster(8, num_slots=40), **how)
    assert read_placement_file(out).placement == plan.placement
    for row in ("seconds per batch, mean", "their bound, mean"):
        assert row in result.stdout
    assert "Every layer waits for its slowest GPU; with incremental a batch takes" in result.stdout
    assert "times of experts: " in result.stderr
    told = json.loads(run("evaluate", loads, out, *batches, "--top-k", 2, "--json").stdout)
    assert told["placements"][1]["seconds"]["per_layer"] == plan.seconds.tolist()
    bound = told["placements"][1]["seconds_bound"]["per_layer"]
    assert bound == least_seconds(plan.problem).tolist()
    plain = json.loads(run("evaluate", loads, out, "--json").stdout)
    assert plain["placements"][1]["seconds"] is None


def test_hardware_and_the_model_of_the_loads_shape_are_enough(files):
    folder, load = files
    how = {"expert_time": ExpertTime.preset("h100-ib", "gpt-oss-20b"), "top_k": 4}
    seconds = solve(load, Cluster(8, num_slots=40), tokens_per_batch=64, **how).seconds.tolist()
    where = ("plan", folder / "loads.npy", "--gpus", 8, "--slots", 40, "--tokens-per-batch", 64)
    for option in ("--hardware", "--expert-time"):
        for model in ((), ("--model", "gpt-oss-20b")):
            told = json.loads(run(*where, option, "h100-ib", *model, "--json").stdout)
            assert told["placements"][-1]["seconds"]["per_layer"] == seconds


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--expert-time", "h100-ib"),
         "--expert-time is for batches of --tokens-per-batch; give both, or neither"),
        (("--top-k", 2), "--top-k is of the tokens of --tokens-per-batch; give both, or neither"),
        (("--tokens-per-batch", 64),
         "--tokens-per-batch is for seconds of --expert-time; give both, or neither"),
        (("--tokens-per-batch", 64, "--expert-time", "h900"),
         "expert_time='h900' names no curve; use a .csv file, or hardware and model as "
         "h100-ib:qwen3-30b-a3b"),
        (("--tokens-per-batch", 64, "--hardware", "h100-ib", "--model", "mixtral-8x7b"),
         "model='mixtral-8x7b' has 32 layers x 8 experts, and the load 24 x 32; use gpt-oss-20b, "
         "or tokens_per_second and expert_bytes of your own"),
        (("--tokens-per-batch", 0, "--expert-time", "h100-ib"),
         "tokens_per_batch=0 is less than 1; use 1 or more"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(files, options, error):
    loads = files[0] / "loads.npy"
    fails("plan", loads, "--gpus", 8, "--slots", 40, *options, error=error)


def test_one_replica_of_each_active_expert(files):
    folder, load = files
    loads, out = folder / "loads.npy", folder / "placement.json"
    batches = ("--dispatch", "one", "--tokens-per-batch", 16)
    result = run("plan", loads, "--gpus", 8, "--slots", 40, *batches, "-o", out)
    plan = solve(load, Cluster(8, num_slots=40), dispatch="one", tokens_per_batch=16, top_k=4)
    assert read_placement_file(out).placement == plan.placement
    for row in ("active experts, mean", "their bound, mean", "dispatch one"):
        assert row in result.stdout
    told = json.loads(run("evaluate", loads, out, *batches, "--json").stdout)
    assert told["placements"][1]["active"]["per_layer"] == plan.active.tolist()
    assert told["placements"][1]["active_bound"]["per_layer"] == plan.active_bound.tolist()
    assert told["placements"][1]["seconds"] is None
    timed = (*batches, "--expert-time", "h100-ib")
    told = json.loads(run("evaluate", loads, out, *timed, "--json").stdout)
    seconds, bound = (told["placements"][1][name]["mean"] for name in ("seconds", "seconds_bound"))
    assert 0.0 < bound <= seconds
    plain = json.loads(run("evaluate", loads, out, "--json").stdout)
    assert plain["placements"][1]["active"] is None
    fails(
        *("plan", loads, "--gpus", 8, "--dispatch", "one"),
        error="dispatch='one' needs to know what a batch has; give tokens_per_batch",
    )
