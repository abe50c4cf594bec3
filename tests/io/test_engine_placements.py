"""Engines' placement files: what is written to the letter, what is read, what is refused."""

import json
import re

import numpy as np
import pytest
from placement_files import LAYERS, PLACEMENT, text_of, write

from evenload import Cluster, Placement
from evenload.io import (
    ClusterMissingError,
    FileFormatError,
    PlacementFile,
    read_load,
    read_placement_file,
    read_trace,
    write_placement,
)
from evenload.layers import ModelLayers

SMALL = Placement([[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 2, 0]], Cluster(3, slots_per_gpu=2), 4)
MOE = ModelLayers((3, 4), 5)
ENGINES = ("sglang", "tensorrt-llm", "vllm-ascend")
GONE = Placement.trivial(1, 4, Cluster(3, slots_per_gpu=2, alive=[True, False, True]))
UNEVEN = Placement.trivial(1, 4, Cluster(3, num_slots=7))


# ---- written ---------------------------------------------------------------------------------


def test_sglang_text():
    assert text_of("sglang", PlacementFile(SMALL)) == (
        '{"physical_to_logical_map": [\n[0,1,2,3,0,1],\n[0,1,2,3,2,0]\n]}\n'
    )
    filled = json.loads(text_of("sglang", PlacementFile(SMALL, layers=ModelLayers((1, 3), 5))))
    assert filled == {
        "physical_to_logical_map": [
            [0, 1, 2, 3, 0, 1],
            [0, 1, 2, 3, 0, 1],
            [0, 1, 2, 3, 0, 1],
            [0, 1, 2, 3, 2, 0],
            [0, 1, 2, 3, 0, 1],
        ]
    }


def test_sglang_tensor(tmp_path):
    torch = pytest.importorskip("torch")
    path, _ = write(tmp_path, "sglang-pt", PlacementFile(SMALL))
    value = torch.load(path, weights_only=True)
    assert list(value) == ["physical_to_logical_map"]
    assert value["physical_to_logical_map"].dtype == torch.int64
    assert value["physical_to_logical_map"].tolist() == SMALL.physical_to_logical.tolist()


def test_tensorrt_llm_text():
    text = text_of("tensorrt-llm", PlacementFile(SMALL, layers=MOE), ".yaml")
    assert text == (
        "num_slots: 6\nlayer_updates_per_iter: 0\ninitial_global_assignments:\n"
        "  3: [0, 1, 2, 3, 0, 1]\n  4: [0, 1, 2, 3, 2, 0]\n"
    )
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text) == {
        "num_slots": 6,
        "layer_updates_per_iter": 0,
        "initial_global_assignments": {3: [0, 1, 2, 3, 0, 1], 4: [0, 1, 2, 3, 2, 0]},
    }


def test_vllm_ascend_text():
    one = Placement([[7, 2, 0, 3, 5, 6, 1, 4, 7, 2]], Cluster(2, slots_per_gpu=5), 8)
    assert text_of("vllm-ascend", PlacementFile(one)) == (
        '{"moe_layer_count": 1, "layer_list": [\n{"layer_id": 0, "device_count": 2, "device_list": '
        '[{"device_id": 0, "device_expert": [7, 2, 0, 3, 5]}, '
        '{"device_id": 1, "device_expert": [6, 1, 4, 7, 2]}]}\n]}\n'
    )


UNNAMED = "which of the model's layers these are is not known: written as layers 0 to 1"
FULL = PlacementFile(PLACEMENT, "", "greedy", "sha256:0", LAYERS)


@pytest.mark.parametrize(
    ("kind", "file", "notes"),
    [
        ("sglang", PlacementFile(SMALL), [UNNAMED, "{SGLang}: num_gpus=3"]),
        ("tensorrt-llm", PlacementFile(SMALL), [UNNAMED, "{TensorRT-LLM}: num_gpus=3"]),
        ("vllm-ascend", PlacementFile(PLACEMENT), ["{vllm-ascend}: num_nodes=2"]),
        ("vllm-ascend", PlacementFile(Placement.trivial(1, 2, Cluster(2, slots_per_gpu=1))), []),
        (
            "sglang",
            FULL,
            ["{SGLang}: num_gpus=4, num_nodes=2, the solver, the loads' digest"],
        ),
        (
            "sglang",
            PlacementFile(SMALL, layers=ModelLayers((1, 3))),
            [
                "the model's number of layers is not known: written as 4, up to the last with "
                "experts",
                "{SGLang}: num_gpus=3",
            ],
        ),
        (
            "tensorrt-llm",
            FULL,
            [
                "{TensorRT-LLM}: num_gpus=4, num_nodes=2, the model's number of layers, the "
                "solver, the loads' digest"
            ],
        ),
        (
            "vllm-ascend",
            FULL,
            [
                "{vllm-ascend}: num_nodes=2, the model's layer numbers, the model's number of "
                "layers, the solver, the loads' digest"
            ],
        ),
    ],
)
def test_what_is_left_out_is_said(tmp_path, kind, file, notes):
    expected = [
        re.sub(r"\{(.*)\}", r"left out, since \1's file has no place for it", n) for n in notes
    ]
    assert list(write(tmp_path, kind, file)[1]) == expected


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (
            GONE,
            "has an expert in every slot, and GPU 1 of this placement is gone; plan for the living "
            "GPUs alone",
        ),
        (
            UNEVEN,
            "has as many slots on each GPU, and this placement from 2 to 3; plan with slots that "
            "are a multiple of num_gpus=3",
        ),
    ],
)
def test_what_engines_cannot_have_is_not_written(tmp_path, kind, placement, message):
    with pytest.raises(ValueError, match=f"^[-A-Za-z]+ {re.escape(message)}$"):
        write(tmp_path, kind, PlacementFile(placement))
    assert list(tmp_path.iterdir()) == []


def test_vllm_ascend_is_not_given_an_expert_twice_on_a_device(tmp_path):
    twice = Placement([[0, 1, 0, 1], [0, 0, 1, 1]], Cluster(2, slots_per_gpu=2), 2)
    message = (
        "vllm-ascend refuses an expert twice on one device, and this placement has 2 such slots, "
        "the first in layer 1; plan with fewer slots, or with another solver"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write(tmp_path, "vllm-ascend", PlacementFile(twice))
    assert list(tmp_path.iterdir()) == []


def test_sglang_reads_two_endings_alone(tmp_path):
    with pytest.raises(FileFormatError, match=r"x\.txt: SGLang reads a placement from \.json and"):
        write_placement(tmp_path / "x.txt", SMALL, format="sglang")
    assert list(tmp_path.iterdir()) == []


def test_layers_of_another_number(tmp_path):
    with pytest.raises(ValueError, match=r"names 2 layers, and the placement has 1; name 1$"):
        write_placement(tmp_path / "p.json", UNEVEN, layers=MOE)


# ---- read ------------------------------------------------------------------------------------


def test_literal_files(shared):
    def of(name, **how):
        return read_placement_file(shared / "formats" / name, **how)

    sglang = of("sglang_init_mapping.json", num_gpus=3)
    assert (sglang.placement, sglang.layers) == (SMALL, ModelLayers((0, 1), 2))
    pytest.importorskip("yaml")
    tensorrt = of("trtllm_moe_load_balancer.yaml", num_gpus=3)
    assert (tensorrt.placement, tensorrt.layers) == (SMALL, ModelLayers((3, 4)))
    ascend = of("ascend_expert_map.json")
    assert ascend.placement.cluster == Cluster(2, slots_per_gpu=5)
    assert ascend.placement.physical_to_logical.tolist() == [[7, 2, 0, 3, 5, 6, 1, 4, 7, 2]]


@pytest.mark.parametrize("mode", ["per_pass", "per_token"])
def test_the_map_in_a_recorders_dump(shared, mode):
    pytest.importorskip("torch")
    name = f"sglang_{mode}_expert_distribution_recorder_1700000000.0_0.pt"
    assert read_placement_file(shared / "formats" / name, num_gpus=3).placement == SMALL


def test_a_dump_without_a_map(shared):
    pytest.importorskip("torch")
    path = shared / "formats" / "sglang_stat_expert_distribution_recorder_1700000000.0.pt"
    with pytest.raises(FileFormatError, match="no key 'physical_to_logical_map'; keys found: rank"):
        read_placement_file(path, num_gpus=3)


@pytest.mark.parametrize("kind", ["sglang", "sglang-pt", "tensorrt-llm"])
def test_the_number_of_gpus_has_to_be_said(tmp_path, kind):
    pytest.importorskip("torch")
    path, _ = write(tmp_path, kind, PlacementFile(SMALL))
    message = (
        f"{path}: the file does not say on how many GPUs the 6 slots of a layer are; give --gpus "
        "(num_gpus=), and --nodes (num_nodes=) where there are several"
    )
    with pytest.raises(ClusterMissingError, match=f"^{re.escape(message)}$"):
        read_placement_file(path)
    with pytest.raises(FileFormatError, match=r"num_gpus=4 does not divide .*=6; use 3 or 6$"):
        read_placement_file(path, num_gpus=4)
    with pytest.raises(FileFormatError, match=r"num_gpus=3 is not a multiple of num_nodes=2"):
        read_placement_file(path, num_gpus=3, num_nodes=2)
    with pytest.raises(ValueError, match=r"^num_gpus=0 is less than 1; use 1 or more$"):
        read_placement_file(path, num_gpus=0)
    taken = read_placement_file(path, num_gpus=3)
    note = "the number of experts is not in the file; taken as the largest expert number + 1 = 4"
    assert taken.notes == (f"{path}: {note}",)
    assert read_placement_file(path, num_gpus=3, num_experts=4).notes == ()
    with pytest.raises(FileFormatError, match=r"expert 4 has no slot in layer 0"):
        read_placement_file(path, num_gpus=3, num_experts=5)


def test_vllm_ascend_in_any_order_and_indented(tmp_path):
    path = tmp_path / "map.json"
    value = json.loads(text_of("vllm-ascend", PlacementFile(PLACEMENT)))
    value["layer_list"].reverse()
    for layer in value["layer_list"]:
        layer["device_list"].reverse()
    path.write_text(json.dumps(value, indent=4))
    assert read_placement_file(path, num_nodes=2).placement == PLACEMENT


def test_vllm_ascend_devices_that_differ(tmp_path):
    path = tmp_path / "map.json"
    devices = [{"device_id": 0, "device_expert": [0, 1, 2]}, {"device_id": 1, "device_expert": [2]}]
    layer = {"layer_id": 0, "device_count": 2, "device_list": devices}
    path.write_text(json.dumps({"moe_layer_count": 1, "layer_list": [layer]}))
    placement = read_placement_file(path).placement
    assert placement == Placement([[0, 1, 2, 2]], Cluster(2, slots=[3, 1]), 3)
    other = layer | {
        "layer_id": 1,
        "device_list": [devices[1] | {"device_id": 0}, devices[0] | {"device_id": 1}],
    }
    path.write_text(json.dumps({"moe_layer_count": 2, "layer_list": [layer, other]}))
    with pytest.raises(
        FileFormatError,
        match=r"layer 1 has 1 slots on device 0, and layer 0 3; use as many in each layer$",
    ):
        read_placement_file(path)


def test_tensorrt_llm_of_other_keys_and_orders(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "b.yml"
    path.write_text(
        "# made by hand\ninitial_global_assignments: {60: [1, 0], 4: [0, 1]}\nother: x\n"
    )
    file = read_placement_file(path, num_gpus=2)
    assert file.layers == ModelLayers((4, 60))
    assert file.placement.physical_to_logical.tolist() == [[0, 1], [1, 0]]
    assert file.notes[-1] == f"{path}: not read: other"


# ---- SGLang's loads as JSON -------------------------------------------------------------------


def test_logical_count(shared, tmp_path):
    file = read_load(shared / "formats" / "sglang_init_logical_count.json")
    assert file.load.tolist() == [[10, 5, 1, 0], [3, 3, 9, 1]]
    assert (file.format, file.layers) == ("sglang-logical-count", ModelLayers((0, 1), 2))
    steps = np.array([[[0, 0], [1, 2], [0, 0]], [[0, 0], [3, 0], [1, 1]]])
    path = tmp_path / "count.json"
    path.write_text(json.dumps({"logical_count": steps.tolist()}))
    trace = read_trace(path)
    assert trace.layers == ModelLayers((1, 2), 3)
    assert trace.shape == (2, 2, 2)
    assert trace.window(1).tolist() == [[3, 0], [1, 1]]
    assert trace.notes == (
        f"{path}: 1 of 3 layers have no tokens, as dense layers have; they are left out",
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"logical_count": [[0, 0]]}, "logical_count is all zero; no token was counted"),
        (
            {"logical_count": [1, 2]},
            "logical_count has shape [2]; use [layers][experts] or",
        ),
        ({"logical_count": [[1], [1, 2]]}, "logical_count[1] has shape [2], and logical_count[0]"),
        ({"logical_count": {}}, "logical_count is {}; use a number"),
    ],
)
def test_logical_count_that_is_none(tmp_path, value, message):
    path = tmp_path / "count.json"
    path.write_text(json.dumps(value))
    with pytest.raises(FileFormatError, match=f"^{re.escape(f'{path}: {message}')}"):
        read_load(path)
