"""Converting files on the command line."""

import json
import re

import numpy as np
import pytest
from command import PRICED, fails, process, run
from placement_files import LAYERS, PLACEMENT, write

from evenload.io import PlacementFile, read_placement_file, read_trace, write_placement
from evenload.layers import ModelLayers

TRACE = np.random.default_rng(3).integers(0, 1000, (3, 2, 8))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.json"
    write_placement(path, PLACEMENT, solver="greedy", layers=LAYERS)
    return path


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.npz"
    np.savez(path, load=TRACE, layer_ids=[3, 5], num_model_layers=7)
    return path


def test_a_placement_through_every_engine_and_back(tmp_path, own):
    pytest.importorskip("torch")
    pytest.importorskip("yaml")
    steps = [
        ("a.npz", ()),
        ("b.pt", ()),
        ("c.json", ("--to", "sglang", "--gpus", 4, "--nodes", 2)),
        ("d.yaml", ("--gpus", 4, "--nodes", 2, "--layers", "3,5")),
        ("e.json", ("--gpus", 4, "--nodes", 2, "--to", "vllm-ascend")),
        ("f.json", ("--nodes", 2, "--layers", "3,5", "--from", "vllm-ascend")),
    ]
    before = own
    for name, options in steps:
        result = run("convert", before, tmp_path / name, *options)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == ""
        assert f"wrote the placement to {tmp_path / name}" in result.stderr.splitlines()
        before = tmp_path / name
    back = read_placement_file(before)
    assert back.placement == PLACEMENT
    assert back.layers == ModelLayers((3, 5))


def test_an_unknown_ending_is_told_of_as_what_is_likely(tmp_path, own):
    (tmp_path / "x.txt").write_text("1 2")
    assert "is not known as a load; use one of .csv" in run("inspect", tmp_path / "x.txt").stderr
    to_placement = run("convert", tmp_path / "x.txt", tmp_path / "y.json").stderr
    assert "is not known as a placement; use one of .csv" in to_placement


def test_what_is_left_out_is_said(tmp_path, own):
    result = run("convert", own, tmp_path / "x.json", "--to", "sglang")
    assert result.stderr.splitlines()[-1] == (
        "note: left out, since SGLang's file has no place for it: num_gpus=4, num_nodes=2, the "
        "solver"
    )


@pytest.mark.parametrize("ending", [".npz", ".npy", ".parquet"])
def test_loads(tmp_path, trace, ending):
    out = tmp_path / f"out{ending}"
    result = run("convert", trace, out)
    assert result.exit_code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == f"wrote loads of 3 windows, 2 layers, 8 experts to {out}"
    assert [line.split(":")[-1].strip() for line in lines[1:]] == {
        ".npz": [],
        ".npy": ["the model's layer numbers (3 to 5)"],
        ".parquet": ["the model's number of layers"],
    }[ending]
    if ending == ".parquet":
        return
    back = read_trace(out)
    assert [back.window(t).tolist() for t in range(3)] == TRACE.tolist()
    assert back.layers == (LAYERS if ending == ".npz" else None)


def test_one_window_to_text(tmp_path, trace):
    out = tmp_path / "out.csv"
    fails(
        *("convert", trace, out),
        error="a .csv file has one window, and the trace has 3; take one with --window, or use a "
        ".npz, .npy or .parquet file",
    )
    assert not out.exists()
    assert run("convert", trace, out, "--window", -1).exit_code == 0
    assert np.loadtxt(out, delimiter=",").tolist() == TRACE[-1].tolist()
    fails(
        *("convert", trace, out, "--window", 3),
        error="window=3 is not in the trace, which has 3 (0 to 2, or from the end -1 to -3); use 2",
    )
    named = tmp_path / "named.npz"
    assert run("convert", out, named, "--layers", "3,5").exit_code == 0
    assert read_trace(named).layers == ModelLayers((3, 5))


def test_a_recorders_dump_is_both(tmp_path, shared):
    """Its loads are LOADS' to read; its map becomes a placement where one is asked for."""
    pytest.importorskip("torch")
    dump = shared / "formats" / "sglang_per_pass_expert_distribution_recorder_1700000000.0_0.pt"
    out = tmp_path / "map.json"
    result = run("convert", dump, out, "--gpus", 3)
    assert result.exit_code == 0, result.stderr
    assert read_placement_file(out).placement.num_slots == 6


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--to", "other"], "--to other is not a format that is written; use csv, npy, npz, "
                            "parquet "
         "for loads, evenload, evenload-npz, sglang, tensorrt-llm, vllm-ascend for a placement"),
        (["--from", "sglang"], "{own}: no key 'physical_to_logical_map'; keys found: format, "
         "version, evenload, num_gpus, num_nodes, slots_per_gpu, num_experts, solver, load_digest, "
         "num_model_layers, layer_ids, physical_to_logical"),
        (["--window", 1], "--window takes one of the windows of loads, and this is a placement"),
        (["--gpus", 2], "{own}: the file has num_gpus=4, and num_gpus=2 was given; use 4, or leave "
         "it out"),
        (["--gpus", 0], "num_gpus=0 is less than 1; use 1 or more"),
        (["--layers", "3-4"], "{own}: the placement has no layer 4 of the model; it has 3 to 5; "
         "name those alone, or put experts in order into the others with `evenload convert --fill` "
         "(fill=True)"),
        (["--fill"], "--fill is for the layers that --layers names; give both, or neither"),
        (["--layers", "3-"], "--layers 3-: '3-' is not a layer; use numbers and ranges, e.g. 3-60 "
                             "or "
         "1,3,5"),
        (["--layers", "5,3"], "layer ids (5, 3): 3 follows 5; use numbers that rise from 0"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, own, options, error):
    out = tmp_path / "out.json"
    fails("convert", own, out, *options, error=error.replace("{own}", str(own)))
    assert not out.exists()


def test_what_neither_loads_nor_placements_are_written_to(tmp_path, own):
    fails(
        *("convert", own, tmp_path / "x.txt"),
        error=f"{tmp_path}/x.txt: a file with the ending '.txt' is of no format that is written; "
        "use .csv, .npy, .npz, .parquet for loads, .json, .npz, .pt, .yaml, .yml for a placement",
    )


def test_loads_do_not_become_a_placement(tmp_path, trace):
    result = run("convert", trace, tmp_path / "x.yaml")
    assert result.exit_code == 2
    assert re.search(r"not known as a load; use one of \.csv, \.npy, \.npz", result.stderr)


def test_a_file_is_not_overwritten_half_way(tmp_path, trace):
    """Bad numbers in a late window show only when others are on the disk."""
    bad = TRACE.astype(float)
    bad[2, 0, 0] = np.nan
    np.savez(trace, load=bad)
    out = tmp_path / "out.npy"
    out.write_text("before")
    result = process("convert", trace, out)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: window 2: load[0, 0]=nan is not a finite number >= 0; use 0 or more\n"
    )
    assert out.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.npy", "trace.npz"]


def test_onto_itself_as_a_program(tmp_path, trace):
    result = process("convert", trace, trace)
    assert (result.returncode, result.stdout) == (0, "")
    assert read_trace(trace).layers == LAYERS
    assert np.load(trace)["load"].tolist() == TRACE.tolist()


def test_a_damaged_file_is_a_sentence_not_a_traceback(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"physical_to_logical_map": [[0, 1], [0')
    result = process("convert", path, tmp_path / "y.npz", "--gpus", 2)
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {path}, line 1, column 40: this is not JSON, or it is cut off (Expecting ',' "
        "delimiter)\n"
    )


# ---- other commands take engines' placements ---------------------------------------------------


def test_plan_writes_for_an_engine_and_goes_on_from_it(tmp_path, trace):
    pytest.importorskip("torch")
    out, then = tmp_path / "plan.pt", tmp_path / "next.json"
    planned = ("plan", trace, "--gpus", 4, "--nodes", 2, "--slots", 12)
    result = run(*planned, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert "note: left out, since SGLang's file has no place for it: num_gpus=4" in result.stderr
    assert read_placement_file(out, num_gpus=4).placement.num_layers == 7
    again = run(
        *planned, "--current", out, "--max-moves", 0, "-o", then, "--output-format", "sglang"
    )
    assert again.exit_code == 0, again.stderr
    assert "moves from current" in again.stdout
    rows = json.loads(then.read_text())["physical_to_logical_map"]
    assert rows == read_placement_file(out, num_gpus=4).placement.physical_to_logical.tolist()
    shown = run("evaluate", trace, out, "--gpus", 4, "--nodes", 2, "--json")
    assert shown.exit_code == 0, shown.stderr
    report = json.loads(shown.stdout)
    assert report["cluster"]["num_nodes"] == 2
    assert len(report["placements"][-1]["balancedness"]["per_layer"]) == 2


def test_evaluate_has_to_be_told_the_gpus(tmp_path, trace):
    path, _ = write(tmp_path, "sglang", PlacementFile(PLACEMENT, layers=LAYERS))
    fails(
        *("evaluate", trace, path),
        error=f"{path}: the file does not say on how many GPUs the 12 slots of a layer are; give "
        "--gpus (num_gpus=), and --nodes (num_nodes=) where there are several",
    )


@pytest.mark.parametrize(
    ("command", "option", "of"),
    [("plan", "--output-format", "--output"), ("plan", "--current-format", "--current"),
     ("replay", "--start-format", "--start")],
)  # fmt: skip
def test_a_format_of_nothing(trace, command, option, of):
    error = f"{option} is of {of}; give both, or neither"
    priced = PRICED if command == "replay" else ()
    fails(command, trace, "--gpus", 4, option, "sglang", *priced, error=error)


def test_replay_starts_from_an_engines_placement(tmp_path, trace):
    path, _ = write(tmp_path, "vllm-ascend", PlacementFile(PLACEMENT))
    result = run("replay", trace, "--gpus", 4, "--nodes", 2, "--slots", 12, "--policy", "never",
                 *PRICED, "--start", path, "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    load = TRACE[1].astype(float)
    reached = json.loads(result.stdout)["replays"][0]["balancedness"]
    assert reached is not None
    assert PLACEMENT.balancedness(load).shape == (2,)
