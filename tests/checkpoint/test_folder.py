"""What is refused of a checkpoint, in one sentence with the cure."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from checkpoints import CONFIGS, MOE, make, moe_layers, save, tensors_of
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.checkpoint import open_checkpoint
from evenload.checkpoint.families import FAMILIES, model_of
from evenload.checkpoint.tensors import read_shard
from evenload.io import FileFormatError


@pytest.mark.parametrize("kind", CONFIGS)
def test_layers_with_experts_are_those_of_the_config(tmp_path, kind):
    checkpoint = open_checkpoint(make(tmp_path / "model", kind))
    assert checkpoint.layers == tuple(moe_layers(kind))
    model = checkpoint.model
    assert (model.num_experts, model.num_layers) == (8, 3)
    assert model.num_groups == CONFIGS[kind].get("n_group", 1)
    assert model.drafts == ((3,) if kind == "deepseek_v3" else ())


def test_layers_of_published_models():
    def layers(kind, **config):
        return model_of({"model_type": kind, **config}).layers

    v3 = {"n_routed_experts": 256, "num_hidden_layers": 61, "first_k_dense_replace": 3}
    assert layers("deepseek_v3", **v3, moe_layer_freq=1, n_group=8) == tuple(range(3, 61))
    v2 = {"n_routed_experts": 160, "num_hidden_layers": 60, "first_k_dense_replace": 1}
    assert layers("deepseek_v2", **v2, n_group=8) == tuple(range(1, 60))
    sparse = {"num_experts": 60, "num_hidden_layers": 6, "decoder_sparse_step": 2}
    assert layers("qwen2_moe", **sparse, mlp_only_layers=[3]) == (1, 5)
    every = {"n_routed_experts": 8, "num_hidden_layers": 6, "moe_layer_freq": 2}
    assert layers("deepseek_v2", **every, first_k_dense_replace=1) == (2, 4)


def test_a_draft_layer_that_is_not_there_is_no_fault(tmp_path):
    tensors = {n: t for n, t in tensors_of("deepseek_v3").items() if "layers.3." not in n}
    checkpoint = open_checkpoint(save(tmp_path / "model", "deepseek_v3", tensors))
    assert checkpoint.layers == (1, 2)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ([], "config.json holds list"),
        ({"model_type": "llama"}, "'llama' of config.json is none.*deepseek_v2, "),
        ({"num_hidden_layers": 0}, "num_hidden_layers of config.json=0 is less than 1"),
        ({"num_local_experts": "8"}, "num_experts of config.json='8' is not an integer"),
        ({"num_local_experts": None}, "num_experts of config.json=None"),
        ({"n_group": 3}, "n_group of config.json=3 does not divide num_experts=8"),
        ({"first_k_dense_replace": 3}, "no layer with experts"),
        ({"mlp_only_layers": 3}, "mlp_only_layers of config.json is 3"),
        ({"moe_layer_freq": [0, 1]}, r"moe_layer_freq=\[0, 1\] is not an integer"),
    ],
)
def test_configs_that_are_not_understood(config, match):
    known = {"model_type": "mixtral", "num_hidden_layers": 3, "num_local_experts": 8}
    with pytest.raises(ValueError, match=match):
        model_of(known | config if isinstance(config, dict) else config)


UNKNOWN = "is not understood, and may belong to the experts of a"
A = np.zeros((8, 8), "u2")


@pytest.mark.parametrize(
    ("kind", "name", "tensor", "match"),
    [
        ("mixtral", "model.layers.0.block_sparse_moe.gate.qweight", None, None),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.0.w4.weight", A, UNKNOWN),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.0.w1.unheard_of", A, UNKNOWN),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.01.w1.weight", A, UNKNOWN),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.8.w1.weight", A, "of expert 8, and"),
        ("mixtral", "model.layers.5.block_sparse_moe.experts.0.w1.weight", A, UNKNOWN),
        ("mixtral", "lora.experts.0", A, UNKNOWN),
        ("mixtral", "model.layers.0.router_bias", A, UNKNOWN),
        ("qwen3_moe", "model.layers.1.mlp.gate.weight", A, UNKNOWN),
        ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_qweight", A, UNKNOWN),
        ("gpt_oss", "model.layers.0.mlp.experts.0.gate_proj.weight", A, UNKNOWN),
        ("gpt_oss", "model.layers.0.mlp.experts.down_proj_scales", A[:4], r"has shape \[4, 8\]"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight", A[:4], r"has shape \[4, 8\]"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w1.weight", A[:1], "differs in"),
        (
            "mixtral",
            "model.layers.1.block_sparse_moe.experts.2.w1.bias",
            A,
            "of 1 experts, and not",
        ),
    ],
)
def test_tensors_that_are_not_understood(tmp_path, kind, name, tensor, match):
    if tensor is None:  # a quantised router is packed along the experts
        tensor, match = A, UNKNOWN
    source = save(tmp_path / "model", kind, tensors_of(kind) | {name: tensor})
    with pytest.raises(FileFormatError, match=match) as refused:
        open_checkpoint(source)
    assert "; use " in str(refused.value) or "; reorder " in str(refused.value)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_a_layer_without_router_or_experts(tmp_path, kind):
    for gone in (("gate.", "router."), ("experts.",)):
        kept = {
            name: tensor
            for name, tensor in tensors_of(kind).items()
            if not (name.startswith("model.layers.1.") and any(part in name for part in gone))
        }
        source = save(tmp_path / gone[0], kind, kept)
        with pytest.raises(FileFormatError, match=r"layer 1 has no .* or no experts"):
            open_checkpoint(source)


def test_files_that_are_missing_or_cut_off(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    shard = source / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    for size in (0, 7, 8, 100, len(whole) - 1):
        shard.write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match=r"model-00002.*fetch it again"):
            open_checkpoint(source)
    shard.write_bytes(whole + b"x")
    with pytest.raises(FileFormatError, match="or changed; fetch it again"):
        open_checkpoint(source)
    shard.unlink()
    with pytest.raises(FileFormatError, match=r"1 of the 3 files .* are missing: model-00002"):
        open_checkpoint(source)
    (source / "model.safetensors.index.json").unlink()
    with pytest.raises(FileFormatError, match=r"2 \.safetensors files and 0 files that end in"):
        open_checkpoint(source)
    for path in source.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(FileFormatError, match=r"no \.safetensors file, and no others"):
        open_checkpoint(source)
    (source / "config.json").unlink()
    with pytest.raises(FileFormatError, match=r"has no config\.json"):
        open_checkpoint(source)
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "model" / "tokenizer.json")


def test_an_index_that_tells_something_else(tmp_path):
    source = make(tmp_path / "model", "mixtral")
    path = source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = next(iter(index["weight_map"]))
    for change, match in (
        ({first: "../other.safetensors"}, "use files of its folder"),
        ({first: 3}, "use files of its folder"),
        ({first: "model-00001-of-00003.safetensors"}, "differ over .*the file has"),
        ({"more": "model-00003-of-00003.safetensors"}, "differ over more: the file has it not"),
    ):
        path.write_text(json.dumps({"weight_map": index["weight_map"] | change}))
        with pytest.raises(FileFormatError, match=match):
            open_checkpoint(source)
    path.write_text("[]")
    with pytest.raises(FileFormatError, match="no weight_map"):
        open_checkpoint(source)


def test_experts_that_a_quantisation_treats_alone(tmp_path):
    def ignoring(*experts):
        names = [f"model.layers.0.block_sparse_moe.experts.{e}.w1" for e in experts]
        return {"quantization_config": {"ignore": names}}

    open_checkpoint(make(tmp_path / "all", "mixtral", **ignoring(*range(8))))
    source = make(tmp_path / "some", "mixtral", **ignoring(0, 3))
    with pytest.raises(FileFormatError, match="for 2 of 8 experts, and their numbers would change"):
        open_checkpoint(source)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}',
        b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}',
        b'{"a": {"dtype": "U8", "shape": [-2], "data_offsets": [0, 2]}}',
        b'{"a": {"dtype": "U8", "shape": [true], "data_offsets": [0, 1]}}',
        b'{"a": {"dtype": 3, "shape": [2], "data_offsets": [0, 2]}}',
        b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 0]}}',
        b'{"a": {}, "a": {}}',
        b"\xff",
        b"[" * 5000,
    ],
)
def test_headers_of_no_such_file(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(FileFormatError, match=r"x\.safetensors: "):
        read_shard(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_bytes_are_refused_or_read(tmp_path_factory, noise, at):
    folder = tmp_path_factory.getbasetemp() / "noise"
    if not folder.exists():
        make(folder, "mixtral", shards=1)
    whole = (folder / "model.safetensors").read_bytes()
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with suppress(FileFormatError):
        read_shard(path)


def test_every_family_has_a_fixture():
    assert set(FAMILIES) - set(CONFIGS) == {"kimi_k2"}  # deepseek_v3 by another name
    assert set(MOE) <= set(CONFIGS)
