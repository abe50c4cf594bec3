"""Placement files of damaged bytes and strange structure: one sentence, whatever they hold."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_files import ENDINGS, LAYERS, PLACEMENT, name_of, write

from evenload.io import FileFormatError, PlacementFile, PlacementShape, read_anything
from evenload.io import read_placement_file as read

FILE = PlacementFile(PLACEMENT, "", "greedy", "sha256:0", LAYERS)
KINDS = sorted(ENDINGS)
relaxed = settings(deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("yaml")
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def valid(folder):
    return {kind: write(folder, kind, FILE)[0].read_bytes() for kind in KINDS}


def survives(path, kind):
    """Reading gives a placement, or a sentence that names the file."""
    tries = [
        lambda: read(path, num_gpus=4, format=name_of(kind)),
        lambda: read(path, num_gpus=4, num_nodes=2, layers=LAYERS),
        lambda: read(path),
        lambda: read_anything(path, PlacementShape(num_gpus=4)),
    ]
    sentences = []
    for attempt in tries:
        try:
            attempt()
        except FileFormatError as error:
            sentences.append(str(error))
    assert all(str(path) in sentence and len(sentence) < 2000 for sentence in sentences)


@relaxed
@given(st.data(), st.sampled_from(KINDS))
def test_damaged_bytes(folder, valid, data, kind):
    content = bytearray(valid[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        if how == "flip" and content:
            content[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del content[at:]
        elif how == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del content[at : at + data.draw(st.integers(1, 40))]
    path = folder / f"damaged{ENDINGS[kind]}"
    path.write_bytes(content)
    survives(path, kind)


@relaxed
@given(st.binary(max_size=300), st.sampled_from(KINDS))
def test_any_bytes(folder, content, kind):
    path = folder / f"any{ENDINGS[kind]}"
    path.write_bytes(content)
    survives(path, kind)


WORDS = [
    *("format", "version", "num_gpus", "num_nodes", "slots_per_gpu", "slots", "speed", "alive"),
    *("num_experts", "physical_to_logical", "solver", "load_digest", "layer_ids"),
    *("num_model_layers", "physical_to_logical_map", "moe_layer_count", "layer_list", "layer_id"),
    *("device_count", "device_list", "device_id", "device_expert", "num_slots"),
    *("initial_global_assignments", "layer_updates_per_iter", "evenload.placement", "load", ""),
]
NUMBERS = st.integers(-2, 12) | st.sampled_from([2**31, 2**62, -(2**63), 2**64, 10**30])
LEAVES = st.none() | st.booleans() | NUMBERS | st.floats() | st.sampled_from(WORDS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(WORDS) | NUMBERS.map(str), inner, max_size=6)
    ),
    max_leaves=20,
)


def changed(draw, value, depth=0):
    """Return a JSON value with one place in it replaced, dropped or doubled."""
    if not isinstance(value, list | dict) or not value or (depth and draw(st.integers(0, 3)) == 0):
        return draw(VALUES)
    copy = value.copy()
    key = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
    how = draw(st.integers(0, 9))
    if how == 0:
        del copy[key]
    elif how == 1 and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = changed(draw, copy[key], depth + 1)
    return copy


@relaxed
@given(st.data(), st.sampled_from(["evenload", "sglang", "vllm-ascend"]))
def test_strange_json(folder, valid, data, kind):
    value = json.loads(valid[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        value = changed(data.draw, value)
    path = folder / "strange.json"
    path.write_text(json.dumps(value))
    survives(path, kind)


@relaxed
@given(st.data())
def test_strange_yaml(folder, data):
    import yaml

    value = {
        "num_slots": 6,
        "layer_updates_per_iter": 0,
        "initial_global_assignments": {"3": [0, 1, 2, 3, 0, 1], "4": [0, 1, 2, 3, 2, 0]},
    }
    text = yaml.safe_dump(changed(data.draw, value)).replace("'3'", "3").replace("'4'", "4")
    marks = [
        "&a ",
        "*a",
        "!!python/object:os.system ",
        "---\n",
        "{",
        "[",
        "- ",
        ": ",
        "'",
        "\t",
        "%",
    ]
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.sampled_from(marks)) + text[at:]
    path = folder / "strange.yaml"
    path.write_text(text)
    survives(path, "tensorrt-llm")


ARRAYS = st.sampled_from(["i1", "i8", "u8", "f8", "?", "c16", "U3", "O", "M8[s]"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 13), max_size=3).map(
        lambda shape: np.zeros(shape, dtype=dtype)
    )
)


@relaxed
@given(st.data())
def test_strange_archives(folder, data):
    path = folder / "strange.npz"
    about = changed(data.draw, json.loads(json.dumps({
        "format": "evenload.placement", "version": 1, "num_gpus": 4, "num_nodes": 2,
        "slots_per_gpu": 3, "num_experts": 8, "layer_ids": [3, 5], "num_model_layers": 7,
    })))  # fmt: skip
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    arrays = {
        "physical_to_logical": data.draw(ARRAYS | st.just(PLACEMENT.physical_to_logical)),
        "about": data.draw(ARRAYS | st.just(text)),
        "load": data.draw(ARRAYS),
    }
    keys = data.draw(st.sets(st.sampled_from(sorted(arrays)), min_size=1))
    np.savez(path, allow_pickle=True, **{key: arrays[key] for key in keys})
    survives(path, "evenload-npz")


@relaxed
@given(st.data())
def test_strange_tensors(folder, data):
    torch = pytest.importorskip("torch")
    dtype = data.draw(st.sampled_from([torch.int64, torch.uint8, torch.bool, torch.bfloat16]))
    shape = data.draw(st.lists(st.integers(0, 7), max_size=3))
    tensors = st.just(torch.zeros(shape, dtype=dtype)) | st.just(torch.eye(3).to_sparse())
    keys = st.sampled_from(["physical_to_logical_map", "last_physical_to_logical_map", "x"])
    value = data.draw(st.dictionaries(keys, tensors | VALUES, max_size=3) | tensors | VALUES)
    path = folder / "strange.pt"
    torch.save(value, path)
    survives(path, "sglang-pt")
