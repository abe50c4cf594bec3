"""Placement files made to take memory or time: refused with one sentence before they do."""

import io
import json
import pickle
import re
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from placement_files import PLACEMENT, text_of

from evenload.io import FileFormatError, PlacementFile, max_bytes, read_placement_file

MOST_BYTES, MOST_SECONDS = 2**27, 20.0


def refused(path, message, **how):
    """The file must be refused in a sentence with `message`, with little memory and time."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(FileFormatError, match=re.escape(message)) as caught:
            read_placement_file(path, num_gpus=how.pop("num_gpus", 2), **how)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < MOST_SECONDS
    assert str(caught.value).startswith(str(path))


def head(**changes):
    value = json.loads(text_of("evenload", PlacementFile(PLACEMENT)))
    return json.dumps(value | {"layer_ids": [3, 5]} | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (head(num_gpus=10**12), "num_gpus=1000000000000 is more than the 12 slots of a layer"),
        (head(num_experts=10**12), "num_experts=1000000000000 is more than the 12 slots"),
        (head(num_nodes=10**18), "num_gpus=4 is not a multiple of num_nodes=1"),
        (head(num_model_layers=10**15), "the model's layer 1000000000000000 is past 65536"),
        (head(layer_ids=[1, 10**15]), "the model's layer 1000000000000000 is past 65536"),
        (head(layer_ids=[1]), "layer_ids has 1 numbers, and there are 2 layers"),
        (head(layer_ids=[2, 1]), "1 follows 2; use numbers that rise from 0"),
        (
            head(physical_to_logical=[[2**62] * 12]),
            "is not an expert; 12 slots hold 0 to 11 at most",
        ),
        (head(physical_to_logical=[[10**30] * 12]), "has dtype object; use whole numbers"),
        (head(solver=[1]), "solver is [1]; use a text, or leave it out"),
        ('{"physical_to_logical_map": ' + "[" * 100_000, "this is not JSON"),
        ('{"physical_to_logical_map": [[0, 1' + "0" * 5000 + "]]}", "this is not JSON"),
        ('{"physical_to_logical_map": [[0.5, 1]]}', "has dtype float64; use whole numbers"),
        (
            head(physical_to_logical=[[*range(8), 0, 0, 0, -1]] * 2),
            "[0, 11]=-1 is not an expert; use",
        ),
        ('{"physical_to_logical_map": []}', "the placement has shape [0]; use [layers, slots]"),
        ('{"moe_layer_count": 9, "layer_list": []}', "no list 'layer_list'; found: "),
        (
            '{"layer_list": [{"layer_id": 1000000000000}]}',
            "layer_id is [1000000000000]; use each of 0 to 0 once",
        ),
    ],
)
def test_json(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    refused(path, message, num_gpus=None)


def test_text_of_no_placements_size(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as stream:
        stream.write(b'{"physical_to_logical_map": [')
        stream.truncate(2**25 + 1)
    refused(path, "the text takes 33554433 bytes, more than the 33554432 that are held at once")
    with max_bytes(2**25 + 1):  # as it says
        refused(path, "this is not JSON")


BOMB = "a: &a [0, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 1: anchors (&name) and tags (!name) are not read"),
        ("x: *a\n", "line 1: "),
        ("initial_global_assignments: " + "[" * 50_000, "line 1: "),
        ("a: " * 1, "no initial_global_assignments with a list of experts"),
        ("- " * 50_000 + "1", "line 1: it is nested deeper than 3"),
        ("num_slots: 1\nnum_slots: 2\n", "line 2: the key num_slots is there twice"),
        (
            "initial_global_assignments:\n  3: [0, 1]\n  3: [1, 0]\n",
            "line 3: the key 3 is there twice",
        ),
        ("? [1, 2]\n: 3\n", "line 1: a key is not a plain word or number"),
        ("!!python/object/apply:os.system ['true']", "line 1: anchors (&name) and tags"),
        ("--- 1\n--- 2\n", "line 2: a second document starts; use one"),
        ("", "the file is empty (0 bytes)"),
        ("# nothing\n", "the file holds no value"),
        (
            "initial_global_assignments: {3: [0, 1]}\nnum_slots: 3\n",
            "the layers have 2 slots, and num_slots=3; use that for num_slots",
        ),
        (
            "initial_global_assignments: {3: [0, 1], 4: [0]}\n",
            "differs by layer: 2 in layer 3; 1 in layer 4; use as many",
        ),
        ("initial_global_assignments: {x: [0, 1]}\n", "has the key 'x'; use a layer's number"),
        ("initial_global_assignments: {-1: [0, 1]}\n", "layer id=-1 is less than 0; use 0"),
        ("initial_global_assignments: {99999999: [0, 1]}\n", "layer 99999999 is past 65536"),
        ("initial_global_assignments: {3: [0, '1']}\n", "layer 3 has '1'; use the number of an"),
        ("initial_global_assignments: {3: [0, 0x1]}\n", "layer 3 has '0x1'; use the number"),
        ("initial_global_assignments: {3: 5}\n", "layer 3 is '5'; use the experts of its slots"),
        ("a: [1,\x00 2]", "this is not YAML"),
    ],
)
def test_yaml(tmp_path, text, message):
    pytest.importorskip("yaml")
    path = tmp_path / "x.yaml"
    path.write_text(text)
    refused(path, message)


def test_a_large_yaml_takes_little_time(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "x.yaml"
    row = ", ".join(["0"] * 10_000)
    rows = "".join(f"  {layer}: [{row}]\n" for layer in range(30))
    path.write_text(f"initial_global_assignments:\n{rows}")
    started = time.perf_counter()
    assert read_placement_file(path, num_gpus=1).placement.num_slots == 10_000
    assert time.perf_counter() - started < MOST_SECONDS


# ---- archives --------------------------------------------------------------------------------


def test_an_archive_that_unpacks_to_much(tmp_path):
    path = tmp_path / "x.npz"
    header = io.BytesIO()
    claims = {"descr": "<i8", "fortran_order": False, "shape": (2**10, 2**20)}
    np.lib.format.write_array_header_1_0(header, claims)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("about.npy", b"")
        with archive.open("physical_to_logical.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(33):
                member.write(bytes(2**24))
    refused(path, "bytes, more than the 536871936 that are read")


def test_an_archive_that_claims_much(tmp_path):
    path = tmp_path / "x.npz"
    header = io.BytesIO()
    claims = {"descr": "<i8", "fortran_order": False, "shape": (2**30, 2**30)}
    np.lib.format.write_array_header_1_0(header, claims)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("physical_to_logical.npy", header.getvalue())
        archive.writestr("about.npy", b"")
    refused(path, "the array is cut off")


# ---- pickles ---------------------------------------------------------------------------------


def pickled(path, value):
    """Put any pickle where torch.save puts its own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


class Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_pickle_is_never_run(tmp_path):
    pytest.importorskip("torch")
    path, target = tmp_path / "x.pt", tmp_path / "ran"
    pickled(path, {"physical_to_logical_map": Call(open, str(target), "w")})
    refused(path, str(path))
    assert not target.exists()


def test_a_pickle_that_makes_many_bytes(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    pickled(path, {"physical_to_logical_map": Call(bytearray, 10**11)})
    refused(path, "tensors and plain values")


def test_a_list_in_a_pickle_that_names_one_list_many_times(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    row = [0] * 1000
    torch.save({"physical_to_logical_map": [[row] * 1000] * 1000}, path)
    refused(path, "physical_to_logical_map is a list; save a tensor")


def test_a_tensor_that_is_larger_than_its_numbers(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    torch.save({"physical_to_logical_map": torch.zeros(1, dtype=torch.int8).expand(10**12)}, path)
    refused(path, "claims 1000000000000 numbers (1000000000000,), and the file has 1 bytes")


def test_what_older_torch_wrote(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    torch.save({"physical_to_logical_map": torch.zeros(1)}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    refused(
        path, "this is not a file that torch.save wrote (torch 1.6 or newer): it is a Python pic"
    )


def test_a_compressed_pickle(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    refused(path, "archive/data.pkl is compressed or larger than the file")
