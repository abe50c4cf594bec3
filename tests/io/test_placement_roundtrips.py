"""A placement comes back the same through any format that can hold it, and through two of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_files import (
    CLUSTER,
    ENDINGS,
    LAYERS,
    PLACEMENT,
    model_layers,
    placements,
    read,
    write,
)

from evenload import Cluster, Placement
from evenload.io import FileFormatError, PlacementFile, read_placement_file
from evenload.layers import ModelLayers

OWN = ("evenload", "evenload-npz")
FULL = PlacementFile(PLACEMENT, "", "greedy", "sha256:" + "0" * 64, LAYERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("placements")


@settings(deadline=None)  # torch is loaded in the first
@given(st.data(), st.sampled_from(sorted(ENDINGS)), st.sampled_from(sorted(ENDINGS)))
def test_any_two_formats_one_after_the_other(folder, data, first, second):
    if "sglang-pt" in (first, second):
        pytest.importorskip("torch")
    twice = data.draw(st.booleans()) and "vllm-ascend" not in (first, second)
    placement = data.draw(placements(twice=twice))
    layers = data.draw(st.none() | model_layers(placement.num_layers))
    file = PlacementFile(placement, layers=layers)
    once = read(write(folder, first, file)[0], file)
    assert once.placement == placement
    if layers is not None:
        assert once.layers.ids == layers.ids
    again = read(write(folder, second, replace(once, layers=layers))[0], file)
    assert again.placement == placement


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("layers", [None, LAYERS, ModelLayers((0, 1))])
def test_our_own_formats_keep_all_there_is(tmp_path, kind, layers):
    file = replace(FULL, layers=layers)
    path, left_out = write(tmp_path, kind, file)
    assert left_out == ()
    back = read_placement_file(path)
    assert vars(back) == vars(replace(file, source=str(path)))


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize(
    "cluster",
    [
        Cluster(4, 2, num_slots=13),
        Cluster(4, 2, slots_per_gpu=3, speed=[1, 0.1, 1 / 3, 7]),
        Cluster(4, 4, slots=[4, 9, 3, 3], speed=[1, 2, 3, 4], alive=[True, False, True, True]),
    ],
)
def test_our_own_formats_keep_gpus_that_differ(tmp_path, kind, cluster):
    file = PlacementFile(Placement.trivial(2, 8, cluster))
    assert read_placement_file(write(tmp_path, kind, file)[0]).placement == file.placement


@pytest.mark.parametrize("kind", sorted(ENDINGS))
def test_the_same_placement_gives_the_same_bytes(tmp_path, kind, monkeypatch):
    pytest.importorskip("torch")
    first = write(tmp_path, kind, FULL)[0].read_bytes()
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    assert write(tmp_path, kind, FULL)[0].read_bytes() == first


def test_a_file_of_version_1_without_layers_is_read(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(
        '{"format": "evenload.placement", "version": 1, "num_gpus": 2, "num_nodes": 1, '
        '"slots_per_gpu": 1, "num_experts": 2, "physical_to_logical": [[1, 0]]}'
    )
    file = read_placement_file(path)
    assert file.placement == Placement([[1, 0]], Cluster(2, slots_per_gpu=1), 2)
    assert file.layers is None


def test_layers_that_a_file_does_not_name_are_named_by_the_caller(tmp_path):
    path, _ = write(tmp_path, "vllm-ascend", PlacementFile(PLACEMENT))
    assert read_placement_file(path, layers=LAYERS).layers == LAYERS
    with pytest.raises(FileFormatError, match=r"has 2 layers, and 3 are named \(0 to 2\); name 2$"):
        read_placement_file(path, layers=ModelLayers(range(3)))


def test_layers_that_a_file_has_too_are_left_out_with_a_note(tmp_path):
    path, _ = write(tmp_path, "sglang", FULL)
    every = read_placement_file(path, num_gpus=4)
    assert every.layers == ModelLayers(range(7), 7)
    dense = np.tile(np.arange(12) % 8, (5, 1))
    assert every.placement.physical_to_logical[[0, 1, 2, 4, 6]].tolist() == dense.tolist()
    picked = read_placement_file(path, num_gpus=4, layers=ModelLayers((3, 5)))
    assert picked.layers == LAYERS
    assert picked.placement == Placement(PLACEMENT.physical_to_logical, Cluster(4, 1, 3), 8)
    assert picked.notes[-1] == (
        f"{path}: 5 of 7 layers are left out (model layers 0, 1, 2, 4, 6): the others are asked for"
    )
    with pytest.raises(FileFormatError, match=r"has no layer 7 of the model; it has 0 to 6; "):
        read_placement_file(path, num_gpus=4, layers=ModelLayers((3, 7)))


@pytest.mark.parametrize("kind", [*OWN, "vllm-ascend"])
def test_what_the_file_says_has_to_agree_unless_it_is_only_for_those_that_do_not(tmp_path, kind):
    path, _ = write(tmp_path, kind, PlacementFile(PLACEMENT))
    message = "the file has num_gpus=4, and num_gpus=2 was given; use 4, or leave it out"
    with pytest.raises(FileFormatError, match=message):
        read_placement_file(path, num_gpus=2)
    believed = read_placement_file(path, num_gpus=2, num_nodes=2, agree=False).placement
    assert believed == PLACEMENT
    assert believed.cluster == CLUSTER
