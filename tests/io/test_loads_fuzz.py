"""Damaged and hostile recordings: one sentence with the file's name, and nothing else."""

import gzip
import random
import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recordings import RNG, dump_iterations, dump_passes, dump_stat, slot_maps

from evenload.io import FileFormatError, read_load

torch = pytest.importorskip("torch")
E = 4


def sglang_stat(path):
    return dump_stat(path.with_suffix(".pt"), RNG.integers(1, 9, (3, 2, E)))


def sglang_passes(path):
    passes = {n: RNG.integers(1, 9, (2, 6)) for n in range(2)}
    return dump_passes(path.with_suffix(".pt"), 0, passes, slot_maps(2, 6, E), tokens=3)


def ascend(path):
    torch.save(torch.ones(2, E), path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def tensorrt(path):
    pytest.importorskip("safetensors")
    counts = {(i, layer): RNG.integers(0, 9, E) for i in (1, 2) for layer in (3, 4)}
    return dump_iterations(path, [counts], E) / "rank0.safetensors"


def parquet(path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = np.indices((3, 2, E)).reshape(3, -1)
    columns = dict(zip(("window", "layer", "expert"), rows, strict=True))
    pq.write_table(pa.table(columns | {"tokens": rows[2] + 1}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def vllm_lines(path):
    path.with_suffix(".jsonl").write_text('{"routed_experts": [[[1, 2], [3, 0]]]}\n[[[0, 1]]]\n')
    return path.with_suffix(".jsonl")


def vllm_archive(path):
    topk = RNG.integers(0, 9, (5, 2, 2))
    np.savez_compressed(path.with_suffix(".npz"), routed_experts=topk, b=topk)
    return path.with_suffix(".npz")


def long_text(path):
    path.with_suffix(".csv").write_text("# x\nstep;layer;expert;n\n1;0;0;5\n1;0;1;7\n2;0;1;9\n")
    return path.with_suffix(".csv")


def wide_text(path):
    path.with_suffix(".tsv").write_text("a\tb\n1\t2\n30\t4.5\n")
    return path.with_suffix(".tsv")


def packed_text(path):
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(b"layer,expert,count\n0,0,5\n0,1,7\n"))
    return path.with_suffix(".csv.gz")


def history(path):
    window = '{"logical_expert_load": [[1, 2], [3, 4]]}'
    path.with_suffix(".json").write_text(f'{{"load_history": [{window}, {window}]}}')
    return path.with_suffix(".json")


def by_layer(path):
    path.with_suffix(".json").write_text('{"layers": {"3": {"cnt": [1, 2]}, "4": {"cnt": [3, 4]}}}')
    return path.with_suffix(".json")


def routes(path):
    line = '{"type": "route", "req_id": "a", "token_idx": 0, "layer": 0, "topk_ids": [1, 3]}\n'
    path.with_suffix(".jsonl").write_text('{"type": "meta", "num_experts": 4}\n' + 3 * line)
    return path.with_suffix(".jsonl")


def layer_tensors(path):
    torch.save({3: torch.ones(E), 4: torch.arange(E)}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def pattern(path):
    np.save(path.with_suffix(".npy"), RNG.integers(0, 3, (2, 2, E)))
    return path.with_suffix(".npy")


def phases_text(path):
    path.with_suffix(".csv").write_text(
        "phase,layer,expert,n\nprefill,0,0,5\nprefill,0,1,7\ndecode,0,0,5\ndecode,0,1,7\n"
    )
    return path.with_suffix(".csv")


def phases_table(path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"phase": ["prefill", "decode"], "layer": [0, 0], "expert": [0, 0], "n": [5, 7]}
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def phases_archive(path):
    load, names = RNG.integers(1, 9, (2, 2, E)), np.array(["prefill", "decode"])
    np.savez_compressed(path.with_suffix(".npz"), load=load, phase=names)
    return path.with_suffix(".npz")


def phases_lines(path):
    lines = (
        '{"routed_experts": [[[1, 2]], [[3, 0]]], "prompt_tokens": 1}\n'
        '{"choices": [{"routed_experts": [[[0, 1]], [[1, 2]]], "token_ids": [1, 2]}], '
        '"usage": {"prompt_tokens": 1}}\n'
    )
    path.with_suffix(".jsonl").write_text(lines)
    return path.with_suffix(".jsonl")


def phases_routes(path):
    lines = (
        '{"type": "request", "req_id": "a", "prompt_tokens": 1}\n'
        '{"req_id": "a", "token_idx": 0, "layer": 0, "topk_ids": [1, 3]}\n'
        '{"req_id": "b", "phase": "decode", "layer": 0, "topk_ids": [1, 3]}\n'
    )
    path.with_suffix(".jsonl").write_text(lines)
    return path.with_suffix(".jsonl")


KINDS = [
    sglang_stat, sglang_passes, ascend, tensorrt, parquet, vllm_lines, vllm_archive, long_text,
    wide_text, packed_text, history, by_layer, routes, layer_tensors, pattern,
    phases_text, phases_table, phases_archive, phases_lines, phases_routes,
]  # fmt: skip


def read(path, **options):
    """Read what may be no recording at all; it may only be refused, with its own name."""
    target = path.parent if path.suffix == ".safetensors" else path
    complaint = None
    try:
        file = read_load(target, **options)
    except ValueError as error:  # a FileFormatError, or one about a number that is no count
        complaint = str(error)
    if complaint is not None:
        assert complaint.startswith(str(target))
        assert "\n" not in complaint
    else:
        assert file.load.ndim == 2
        assert np.isfinite(file.load).all()


def damaged(content, seed):
    """Cut, flip, repeat and overwrite bytes."""
    chance = random.Random(seed)
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(data))
        how = chance.randrange(5)
        if how == 0:
            del data[at : at + chance.choice([1, 4, 100, 10**6])]
        elif how == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif how == 2:
            data[at : at + 4] = chance.choice(
                [b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"]
            )
        elif how == 3:
            data[at:at] = data[at : at + chance.randrange(64)]
        else:
            data[at] = chance.randrange(256)
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes(tmp_path, kind):
    path = kind(tmp_path / "x")
    whole = path.read_bytes()
    for seed in range(300):
        path.write_bytes(damaged(whole, seed))
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_length(tmp_path, kind):
    path = kind(tmp_path / "x")
    whole = path.read_bytes()
    for end in range(0, len(whole), max(len(whole) // 150, 1)):
        path.write_bytes(whole[:end])
        read(path)


def test_what_is_quoted_from_a_file_stays_on_one_line(tmp_path):
    np.savez(tmp_path / "x.npz", **{"a\nb\x1b[31m": np.ones(2)})
    with pytest.raises(FileFormatError, match=r"found: a\\nb\\x1b\[31m \(\[2\]\); use load,"):
        read_load(tmp_path / "x.npz")


TENSORS = st.builds(
    lambda shape, dtype, low: torch.from_numpy(RNG.integers(low, 7, shape)).to(dtype),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from([torch.int32, torch.int64, torch.float32, torch.bool, torch.uint8]),
    st.sampled_from([0, -3]),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | TENSORS
KEYS = st.sampled_from(
    ["logical_count", "records", "last_physical_to_logical_map", "forward_pass_id", "rank",
     "gatherer_key", "global_physical_count", "topk_ids_of_layer", "x"]
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.dictionaries(st.integers(), inner, max_size=2)
        | st.tuples(inner)
    ),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries(
    {"records": st.lists(st.dictionaries(KEYS, PLAIN, max_size=6), max_size=3) | VALUES},
    optional={"last_physical_to_logical_map": VALUES | TENSORS},
)


@settings(max_examples=300, deadline=None)
@given(VALUES | RECORDS | st.fixed_dictionaries({"logical_count": TENSORS | VALUES}))
def test_any_structure_saved_by_torch(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    torch.save(value, path)
    read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "routed_experts",
                    "choices",
                    "outputs",
                    "x",
                    "0",
                    "1",
                    "layers",
                    "layer",
                    "cnt",
                    "expert",
                    "load_history",
                    "logical_expert_load",
                    "topk_ids",
                    "req_id",
                    "type",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON, min_size=1, max_size=3))
@example([[[]]])
@example([[[], {"routed_experts": [0]}]])
def test_any_lines_of_json(tmp_path_factory, values):
    import json

    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    read(path)
    path.with_suffix(".json").write_text(json.dumps(values[0]))
    read(path.with_suffix(".json"))


CELLS = st.sampled_from(
    ["0", "1", "12", "3.5", "-1", "x", "", " ", '"', "#", "layer", "expert", "count", "window",
     "gpu", "0x1", "1_0", "1e9", "\u0664"]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.lists(CELLS, max_size=4), max_size=6), st.sampled_from(",;\t "))
def test_any_cells(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_text("\n".join(map(delimiter.join, rows)) + "\n")
    for options in ({}, {"layout": "long"}, {"layout": "loads"}):
        read(path, **options)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"\x00\r\x00")
def test_any_bytes_with_any_ending(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "anything"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "meta_info.json").write_text('{"num_experts": 4}')
    for name in (
        "x.pt",
        "x.pth",
        "x.parquet",
        "x.jsonl",
        "x.npz",
        "x.csv",
        "x.tsv",
        "x.csv.gz",
        "x.json",
        "x.npy",
        "rank0.safetensors",
    ):
        (folder / name).write_bytes(content)
        read(folder / name)
