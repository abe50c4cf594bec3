"""Reordering a checkpoint on the command line, and what else knows its order."""

import json
import sys

import numpy as np
import pytest
from checkpoints import content, load, make, permuted
from command import fails, process, run

from evenload.checkpoint import ORDER_FILE, read_order
from evenload.cluster import Cluster
from evenload.io import read_load, read_placement, write_placement
from evenload.layers import ModelLayers
from evenload.placement import Placement

LOADS = np.random.default_rng(5).integers(1, 1000, (6, 2, 8))
LAYERS = ModelLayers([1, 2])


@pytest.fixture
def source(tmp_path):
    np.savez(tmp_path / "loads.npz", load=LOADS)
    return make(tmp_path / "model", "glm4_moe")


@pytest.fixture
def reordered(tmp_path, source):
    out = tmp_path / "new"
    result = run("reorder", source, "--loads", tmp_path / "loads.npz", "--gpus", 4, "-o", out)
    assert result.exit_code == 0, result.stderr
    return out


def test_planning_at_once_and_undoing(tmp_path, source, reordered):
    order = read_order(reordered)
    assert (order.num_gpus, order.model_type, order.layers.ids) == (4, "glm4_moe", (1, 2))
    assert order.load_digest is not None
    wanted = permuted(load(source), "glm4_moe", order.experts)
    for name, tensor in load(reordered).items():
        np.testing.assert_array_equal(tensor, wanted[name])
    result = run("reorder", reordered, "--undo", "-o", tmp_path / "back")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"wrote the checkpoint to {tmp_path / 'back'}\n"
    assert content(tmp_path / "back") == content(source)


def test_the_table_tells_of_windows_too(tmp_path, source):
    how = ("--loads", tmp_path / "loads.npz", "--gpus", 4)
    result = run("reorder", source, *how, "-o", tmp_path / "new")
    assert "balancedness of single windows, on average: 0." in result.stdout
    assert "reordered" in result.stdout
    result = run("reorder", source, *how, "--window", 2, "-o", tmp_path / "one")
    assert "single windows" not in result.stdout
    for options in (("--dispatch", "copy"), ("--effort", "fast")):
        out = tmp_path / options[1]
        assert run("reorder", source, *how, *options, "-o", out).exit_code == 0


def test_a_placement_of_any_format(tmp_path, source):
    rows = np.array([[7, 1, 2, 3, 4, 5, 6, 0], [0, 1, 2, 3, 4, 5, 7, 6]])
    place = Placement(rows, Cluster(4, slots_per_gpu=2), 8)
    write_placement(tmp_path / "place.json", place)
    write_placement(tmp_path / "sglang.json", place, format="sglang", layers=ModelLayers([1, 2], 3))
    run("reorder", source, tmp_path / "place.json", "-o", tmp_path / "a")
    result = run("reorder", source, tmp_path / "sglang.json", "--gpus", 4, "-o", tmp_path / "b")
    assert result.exit_code == 0, result.stderr
    found = [read_order(tmp_path / name).experts.tolist() for name in "ab"]
    assert found[0] == found[1] == [[1, 7, 2, 3, 4, 5, 0, 6], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_usage(tmp_path, source):
    out, loads = tmp_path / "new", tmp_path / "loads.npz"
    one = "give one of PLACEMENT, --loads and --undo: they are three ways to order"
    fails("reorder", source, "-o", out, error=one)
    fails("reorder", source, loads, "--undo", "-o", out, error=one)
    fails(
        "reorder", source, "--loads", loads, "-o", out,
        error="--loads are planned for the --gpus; give both, or neither",
    )  # fmt: skip
    fails(
        "reorder", source, "--undo", "--effort", "fast", "-o", out,
        error="--effort is for --loads; give both, or neither",
    )  # fmt: skip
    fails(
        "reorder", source, "--undo", "-o", out,
        error=f"{source}: it has no {ORDER_FILE}, and was not reordered, or lost it; put that file "
        "back, or leave --undo out",
    )  # fmt: skip
    fails(
        "reorder", source, "--loads", loads, "--gpus", 3, "-o", out,
        error="num_experts=8 is not a multiple of num_gpus=3; use 6 or 9",
    )  # fmt: skip
    assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the file size")
def test_a_disk_that_is_full_is_one_sentence(tmp_path, source):
    """A process that may write no large file stands for a disk without space."""
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    place = Placement([[1, 0, *range(2, 8)]] * 2, Cluster(8, slots_per_gpu=1), 8)
    write_placement(tmp_path / "place.json", place)
    out, before = tmp_path / "new", sorted(tmp_path.iterdir())
    command = ("reorder", source, tmp_path / "place.json", "-o", out)
    result = process(*command, preexec_fn=limit)
    assert (result.returncode, result.stdout) == (2, "")
    (told,) = result.stderr.splitlines()
    assert told.startswith(f"error: {out}")
    assert told.endswith("file too large")
    assert sorted(tmp_path.iterdir()) == before


# ---- what else knows the order -------------------------------------------------------------------


def test_inspect_tells_of_an_order(reordered):
    for path in (reordered, reordered / ORDER_FILE):
        result = run("inspect", path)
        assert result.exit_code == 0, result.stderr
        assert "an order of experts, 2 layers, 8 experts" in result.stdout
        assert "glm4_moe" in result.stdout
    told = json.loads(run("inspect", reordered, "--json").stdout)
    order = read_order(reordered)
    assert told["kind"] == "order"
    assert told["layers"]["ids"] == [1, 2]
    assert told["moved_experts"] == (order.experts != np.arange(8)).sum(axis=1).tolist()


def test_loads_go_there_and_back(tmp_path, reordered):
    order = read_order(reordered)
    there, back = tmp_path / "there.npz", tmp_path / "back.npz"
    for given, made, option in (
        (tmp_path / "loads.npz", there, "--to-order"),
        (there, back, "--from-order"),
    ):
        result = run("convert", given, made, option, reordered)
        assert result.exit_code == 0, result.stderr
    np.testing.assert_array_equal(read_load(back).load, LOADS.sum(axis=0))
    np.testing.assert_array_equal(read_load(there).load, order.renumbered(LOADS.sum(axis=0), None))


def test_placements_go_there_and_back(tmp_path, reordered):
    place = Placement([[0, 1, 2, 3, 4, 5, 6, 7, 0, 1]] * 2, Cluster(2, slots_per_gpu=5), 8)
    write_placement(tmp_path / "place.json", place, layers=LAYERS)
    there, back = tmp_path / "there.json", tmp_path / "back.json"
    run("convert", tmp_path / "place.json", there, "--to-order", reordered / ORDER_FILE)
    run("convert", there, back, "--from-order", reordered / ORDER_FILE)
    assert read_placement(back) == place
    found = json.loads(
        run("evaluate", tmp_path / "loads.npz", there, "--to-order", reordered, "--json").stdout
    )
    first = json.loads(
        run("evaluate", tmp_path / "loads.npz", tmp_path / "place.json", "--json").stdout
    )
    assert found["placements"][1]["balancedness"] == first["placements"][1]["balancedness"]
    assert found["placements"][0]["balancedness"] != first["placements"][0]["balancedness"]


@pytest.mark.parametrize("phases", [False, True])
def test_plan_takes_loads_of_the_reordered_model(tmp_path, reordered, phases):
    if phases:
        np.savez(tmp_path / "loads.npz", prefill=LOADS * 15, decode=LOADS[..., ::-1])
    run("convert", tmp_path / "loads.npz", tmp_path / "there.npz", "--to-order", reordered)
    how = ("--gpus", 4, "--slots", 12, "--json")
    first = json.loads(run("plan", tmp_path / "loads.npz", *how).stdout)
    back = run("plan", tmp_path / "there.npz", *how, "--from-order", reordered)
    assert json.loads(back.stdout)["physical_to_logical"] == first["physical_to_logical"]


def test_redundancy_on_top_of_an_order(tmp_path, reordered):
    """A plan with redundant experts for the reordered model is as good as one for the first."""
    how = ("--gpus", 4, "--slots", 12, "--json")
    first = json.loads(run("plan", tmp_path / "loads.npz", *how).stdout)
    there = json.loads(run("plan", tmp_path / "loads.npz", *how, "--to-order", reordered).stdout)
    means = [told["placements"][1]["balancedness"]["mean"] for told in (first, there)]
    assert means[0] == pytest.approx(means[1], abs=0.01)
