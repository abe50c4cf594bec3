"""Files as people have them: read right, or refused with advice that works."""

import gzip
import json
import pickle
import re
import shlex
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from command import PRICED, fails, run
from corpus import CASES, TABLES, Case
from load_files import complains

from evenload.io import (
    FileFormatError,
    read_anything,
    read_load,
    read_placement_file,
    read_trace,
)
from evenload.io.base import PlacementShape

REFUSED = [case for case in CASES if case.refused]
READ = [case for case in CASES if not case.refused]
NAME = {"ids": lambda case: case.name}


def put(folder, case: Case, content=None):
    path = folder / case.name
    content = case.content if content is None else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def loads(trace):
    """All windows as they were recorded; [L, E] where the file has no windows."""
    windows = np.stack([trace.read(t) for t in range(len(trace))])
    return windows if trace.over_time else windows[0]


def reads(path, case, load, **options):
    trace = read_trace(path, **options)
    assert loads(trace).tolist() == load
    return trace


@pytest.mark.parametrize("case", READ, **NAME)
def test_read_right(tmp_path, case):
    path = put(tmp_path, case)
    trace = reads(path, case, case.load)
    assert (trace.layers and trace.layers.ids) == case.ids
    assert trace.notes == tuple(note.format(path=path) for note in case.notes)
    assert loads(pickle.loads(pickle.dumps(trace))).tolist() == case.load


@pytest.mark.parametrize("case", REFUSED, **NAME)
def test_refused_and_the_advice_works(tmp_path, case):
    path = put(tmp_path, case)
    complains(path, "{path}" + case.refused)
    if case.after is not None:
        reads(put(tmp_path, case, case.mended), case, case.after, **case.options)
    assert case.after is not None or case.gpus is not None


@pytest.mark.parametrize("case", [case for case in CASES if case.gpus], **NAME)
def test_read_as_a_placement(tmp_path, case):
    path = put(tmp_path, case)
    shape = PlacementShape(num_gpus=2)
    name, file = read_anything(path, shape, layout="placement")
    assert name == "table-placement"
    rows = file.placement.physical_to_logical.reshape(len(case.gpus), 2, -1)
    assert rows.tolist() == case.gpus
    assert (file.layers and file.layers.ids) == case.ids
    out = tmp_path / "out.json"
    result = run("convert", path, out, "--as", "placement", "--gpus", 2)
    assert result.exit_code == 0, result.stderr
    assert read_placement_file(out).placement == file.placement


@pytest.mark.parametrize("case", [case for case in TABLES if case.refused], **NAME)
def test_every_command_refuses_alike(tmp_path, case):
    path = put(tmp_path, case)
    why = f"{path}{case.refused}"
    fails("plan", path, "--gpus", 1, error=why)
    fails("inspect", path, error=why)
    fails("convert", path, tmp_path / "out.npz", error=why)


def test_options_reach_the_readers(tmp_path):
    long = tmp_path / "x.csv"
    long.write_text("0,0,10\n0,1,20\n1,0,5\n1,1,7\n")
    out = tmp_path / "out.npz"
    assert run("convert", long, out, "--as", "long").exit_code == 0
    assert read_load(out).load.tolist() == [[10, 20], [5, 7]]
    other = tmp_path / "x.json"
    other.write_text('{"a": [[1, 2]], "b": [[3, 4]]}')
    assert json.loads(run("inspect", other, "--key", "b", "--json").stdout)["kind"] == "loads"
    route = tmp_path / "x.jsonl"
    route.write_text('{"layer": 0, "topk_ids": [0, 1]}\n' * 6)
    words = ("--window-tokens", 2, "--policy", "never", "--json")
    result = run("replay", route, "--gpus", 2, *words, *PRICED)
    assert json.loads(result.stdout)["trace"]["shape"] == [3, 1, 2]
    fails("plan", long, "--gpus", 1, "--key", "x", error="--key (key=) is for files of format "
          "vllm-ascend-load, json, npz, and this is csv; leave it out")  # fmt: skip
    fails("plan", long, "--gpus", 1, "--as", "tall", error="--as (layout=) is 'tall'; use one of "
          "loads, long, placement")  # fmt: skip
    fails("plan", long, "--gpus", 1, "--as", "placement", error="--as (layout=) is placement, and "
          "loads are wanted here; `evenload convert IN OUT --as placement` makes a placement's "
          "file of it")  # fmt: skip


# ---- what a text cannot show ----

PATTERN = np.zeros((2, 3, 4), np.int64)  # omni-infer's placement patterns [ranks, layers, experts]
for _layer in range(3):
    PATTERN[[0, 1, 0, 1], _layer, np.roll(np.arange(4), _layer)] = 1
WHY_MASK = (
    "{path}: all numbers are 0 or 1: a placement or a mask, not loads; a placement is read by --as "
    "placement; if they are tokens, --as loads (layout='loads')"
)


def test_patterns_of_zeros_and_ones(tmp_path):
    path, out = tmp_path / "x.npy", tmp_path / "out.json"
    np.save(path, PATTERN)
    complains(path, WHY_MASK)
    for command in (("inspect", path), ("plan", path, "--gpus", 2), ("replay", path, "--gpus", 2)):
        fails(*command, error=WHY_MASK.format(path=path))
    assert run("convert", path, out, "--as", "placement").exit_code == 0
    placement = read_placement_file(out).placement
    for layer, row in enumerate(placement.physical_to_logical.reshape(3, 2, 2)):
        for rank, experts in enumerate(row):
            assert experts.tolist() == np.flatnonzero(PATTERN[rank, layer]).tolist()
    assert read_trace(path, layout="loads").shape == (2, 3, 4)


@pytest.mark.parametrize("place", ["gpu", "Rank ID", "device", "node", "host"])
@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_where_experts_are_in_any_table(tmp_path, place, ending):
    rows = [(3, 0, 1), (3, 1, 0), (4, 0, 0), (4, 1, 1)]
    _placed(tmp_path / f"x.{ending}", ["layer", "expert", place], rows, [[1, 0], [0, 1]])


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_what_is_in_slots_in_any_table(tmp_path, ending):
    rows = [(3, 2, 1), (3, 1, 0), (3, 0, 2), (3, 0, 3), (4, 1, 3), (4, 2, 2), (4, 0, 1), (4, 1, 0)]
    names = ["layer", "expert", "slot"]
    _placed(tmp_path / f"x.{ending}", names, rows, [[1, 2, 0, 0], [1, 0, 2, 1]])


def _placed(path, names, rows, expected):
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]))
    elif path.suffix == ".json":
        path.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        pq.write_table(pa.table({n: list(c) for n, c in columns.items()}), path)
    with pytest.raises(FileFormatError, match=r": a placement .*; --as placement reads it as one"):
        read_load(path)
    file = read_anything(path, PlacementShape(num_gpus=2), layout="placement")[1]
    assert file.placement.physical_to_logical.tolist() == expected
    assert file.layers.ids == (3, 4)


@pytest.mark.parametrize("ending", ["npy", "json", "pth"])
def test_patterns_in_any_file(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    if ending == "npy":
        np.save(path, PATTERN)
    elif ending == "json":
        path.write_text(json.dumps(PATTERN.tolist()))
    else:
        torch = pytest.importorskip("torch")
        torch.save(torch.from_numpy(PATTERN), path)
    complains(path, WHY_MASK)
    file = read_anything(path, PlacementShape(), layout="placement")[1]
    assert file.placement.physical_to_logical.shape == (3, 4)
    assert read_trace(path, layout="loads").shape == (2, 3, 4)


def test_patterns_that_are_no_placement(tmp_path):
    path = tmp_path / "x.npy"
    for change, why in (
        ((0, 0, 1, 1), "layer 1 has 2 experts on GPU 0, and layer 0 3; use as many in each layer"),
        ((0, 0, 0, 2), "the array [ranks, layers, experts] has other numbers than 0 and 1; use 1 "
         "where a rank has an expert"),
    ):  # fmt: skip
        array = PATTERN.copy()
        array[change[:3]] = change[3]
        np.save(path, array)
        fails("inspect", path, "--as", "placement", error=f"{path}: {why}")


def test_a_table_of_slots_is_no_load(tmp_path):
    path = tmp_path / "x.npy"
    slots = np.array([[0, 1, 2, 3, 1, 2], [3, 2, 1, 0, 0, 3]])
    np.save(path, slots)
    fails("plan", path, "--gpus", 2, error=f"{path}: each row has every number from 0 to 3: a "
          "placement (the expert in each slot), not loads; --as placement reads it as one; if they "
          "are tokens, --as loads (layout='loads')")  # fmt: skip
    file = read_anything(path, PlacementShape(num_gpus=2), layout="placement")[1]
    assert file.placement.physical_to_logical.tolist() == slots.tolist()


@pytest.mark.parametrize("ending", ["npy", "pth"])
def test_rows_of_an_array_that_are_a_long_table(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    rows = np.array([[0, 0, 10], [0, 1, 20], [1, 0, 5], [1, 1, 7]])
    if ending == "npy":
        np.save(path, rows)
    else:
        torch = pytest.importorskip("torch")
        torch.save(torch.from_numpy(rows), path)
    with pytest.raises(FileFormatError, match="--as long reads it"):
        read_load(path)
    assert read_load(path, layout="long").load.tolist() == [[10, 20], [5, 7]]
    np.save(tmp_path / "y.npy", rows[None])
    complains(tmp_path / "y.npy", "{path}: the array has shape [1, 4, 3]; a long table has rows of "
              "layer, expert, tokens, or window, layer, expert, tokens", layout="long")  # fmt: skip


def test_a_dump_with_wider_counts_than_its_map_has_one_reason(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "expert_distribution_recorder_1.0.pt"
    count = torch.ones(2, 6, dtype=torch.int32)
    record = {"forward_pass_id": 0, "rank": 0, "gatherer_key": "primary",
              "global_physical_count": count}  # fmt: skip
    maps = torch.arange(4).repeat(2, 1)
    torch.save({"records": [record], "last_physical_to_logical_map": maps}, path)
    why = (
        f"{path}: records[0].global_physical_count has shape (2, 6), and "
        "last_physical_to_logical_map (2, 4); both are [layers, slots]"
    )
    fails("plan", path, "--gpus", 2, error=why)
    fails("inspect", path, error=why)
    fails("convert", path, tmp_path / "out.npz", error=why)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_twice_in_an_archive(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for value in (1, 2):
            with archive.open("load.npy", "w") as member:
                np.save(member, np.full((2, 2), value))
    complains(path, "{path}: the archive has load.npy twice; leave one out")


def test_archives_by_key_and_layer(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, counts=[[10, 20], [5, 7]], model="x")
    assert read_load(path).load.tolist() == [[10, 20], [5, 7]]
    np.savez_compressed(path, layer_10=[5, 7], layer_3=[10, 20])
    trace = read_trace(path)
    assert (trace.window(0).tolist(), trace.layers.ids) == ([[10, 20], [5, 7]], (3, 10))
    np.savez(path, layer_0=[[1, 2], [3, 4]], layer_1=[[5, 6], [7, 8]])  # windows of each layer
    assert [w.tolist() for w in read_trace(path)] == [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]


@pytest.mark.parametrize("key", [int, str, "model.layers.{}".format, "layer_{}.x".format])
@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_tensors_by_layer(tmp_path, key, ending):
    torch = pytest.importorskip("torch")
    path = tmp_path / f"x{ending}"
    torch.save({key(n): torch.tensor([n, 2 * n]) for n in (10, 3)}, path)
    if "x" in str(key(0)):
        complains(path, "{path}: no key is known as loads; found: layer_10.x ([2]), layer_3.x "
                  "([2]); use load, or layers by number, or name one by --key (key=)")  # fmt: skip
        assert read_load(path, key="layer_3.x").load.tolist() == [[3, 6]]
        return
    trace = read_trace(path)
    assert (trace.window(0).tolist(), trace.layers.ids) == ([[3, 6], [10, 20]], (3, 10))
    torch.save({"a": torch.ones(2, 2, 2), "b": torch.ones(2)}, path)
    complains(path, "{path}: no key is known as loads; found: a ([2, 2, 2]), b ([2]); name the "
              "one, as --key a (key=)")  # fmt: skip
    assert read_trace(path, key="a").shape == (2, 2, 2)


def test_requests_of_vllm_are_not_taken_for_one_of_them(tmp_path):
    path, topk = tmp_path / "routed.npz", np.array([[[0, 1]], [[2, 3]]])
    np.savez(path, a=topk, b=topk, prompt_tokens=[1, 1])
    complains(path, "{path}: no key is known as loads; found: a ([2, 1, 2]), b ([2, 1, 2]), "
              "prompt_tokens ([2]); name the one, as --key a (key=), or --format "
              "vllm-routed-experts where each is a request of vLLM (format=)")  # fmt: skip
    assert read_trace(path, format="vllm-routed-experts").shape == (2, 1, 4)


@pytest.mark.parametrize("value", [{0: np.array([1, 2]), 1: np.array([3, 4])}, [[1, 2], [3, 4]]])
def test_a_pickle_is_refused_with_a_line_that_converts_it(tmp_path, value):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(FileFormatError) as caught:
        read_load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: this is a pickle, which may run any code when it is read")
    command = shlex.split(said.partition("if you trust it: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert read_load(tmp_path / "x.json").load.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("text", ["[[]]", "[[[]]]", '{"0": []}', "[{}]", '{"layers": {}}'])
def test_nothing_in_json(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=f"^{re.escape(str(path))}: "):
        read_load(path)


def test_packed_json_says_how_to_unpack_it(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b"[[1, 2]]"))
    complains(path, "{path}: it is packed; unpack it: gunzip --keep x.json.gz")


def test_logs_a_file_a_layer_and_by_tokens(tmp_path):
    rng = np.random.default_rng(5)
    topk = np.argsort(rng.random((7, 3, 8)), axis=2)[:, :, :2]
    folder = tmp_path / "log"
    folder.mkdir()
    for layer in range(3):
        lines = [
            {"type": "route", "req_id": f"r{t // 3}", "token_idx": t % 3, "layer": layer + 1,
             "experts": topk[t, layer].tolist()} for t in range(7)
        ]  # fmt: skip
        (folder / f"layer{layer + 1}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for window_tokens, each in ((None, 3), (2, 2), (100, 100)):
        for path in (folder, folder / "*.jsonl"):
            trace = read_trace(path, num_experts=8, window_tokens=window_tokens)
            starts = range(0, 7, each)
            expected = np.zeros((len(starts), 3, 8))
            for t, layer in np.ndindex(7, 3):
                for expert in topk[t, layer]:
                    expected[t // each, layer, expert] += 1
            np.testing.assert_array_equal(loads(trace), expected)
            assert trace.layers.ids == (1, 2, 3)
    assert run("plan", folder, "--gpus", 2, "--experts", 8).exit_code == 0


def test_memory_of_a_load_history(tmp_path):
    import tracemalloc

    loads_ = np.random.default_rng(0).integers(0, 3000, (40, 29, 256))
    path = tmp_path / "expert-load.json"
    history = [{"logical_expert_load": w.tolist()} for w in loads_]
    path.write_text(json.dumps({"load_history": history}))
    tracemalloc.start()
    try:
        trace = read_trace(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(list(trace), loads_)
    assert peak <= 3 * loads_.nbytes + 4 * 2**20  # and what is read of the file at a time
