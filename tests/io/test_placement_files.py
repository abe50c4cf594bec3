"""Placement files, and how any file is written: whole or not at all."""

import json
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from evenload import Cluster, Placement
from evenload.io import (
    FileFormatError,
    find_output,
    load_digest,
    read_placement,
    read_placement_file,
    replace_file,
    write_placement,
)

LOAD = np.random.default_rng(7).integers(0, 1000, (2, 8))
CLUSTER = Cluster(4, 2, slots_per_gpu=3)
PLACEMENT = Placement(np.stack([np.r_[0:8, 0:4], np.r_[7, 7, 0:8, 1, 1]]), CLUSTER, 8)


def test_placement_round_trip(tmp_path):
    path = tmp_path / "p.json"
    write_placement(path, PLACEMENT, solver="greedy", load=LOAD)
    assert read_placement(path) == PLACEMENT
    file = read_placement_file(path)
    assert (file.solver, file.load_digest) == ("greedy", load_digest(LOAD.astype(float)))
    value = json.loads(path.read_text())
    assert value["format"] == "evenload.placement"
    assert value["physical_to_logical"] == PLACEMENT.physical_to_logical.tolist()


@pytest.mark.parametrize(
    ("cluster", "keys"),
    [
        (Cluster(4, 2, num_slots=13), {"slots"}),
        (Cluster(4, 2, slots_per_gpu=3, speed=[1, 0.1, 1 / 3, 7]), {"slots_per_gpu", "speed"}),
        (Cluster(4, slots_per_gpu=4, alive=[True, False, True, True]), {"slots_per_gpu", "alive"}),
        (
            Cluster(4, 4, slots=[4, 9, 3, 3], speed=[1, 2, 3, 4], alive=[True, False, True, True]),
            {"slots", "speed", "alive"},
        ),
        (Cluster(4, slots_per_gpu=3, speed=[5, 5, 5, 5]), {"slots_per_gpu"}),
    ],
)
def test_round_trip_of_gpus_that_differ(tmp_path, cluster, keys):
    path = tmp_path / "p.json"
    placement = Placement.trivial(2, 8, cluster)
    write_placement(path, placement, load=LOAD)
    assert read_placement(path) == placement
    assert read_placement(path).cluster == cluster
    found = json.loads(path.read_text()).keys() & {"slots_per_gpu", "slots", "speed", "alive"}
    assert found == keys


def test_digest_tells_shape_and_values_apart():
    load = LOAD.astype(float)
    assert load_digest(load) == load_digest(np.asfortranarray(load))
    assert len({load_digest(a) for a in (load, load + 1, load.reshape(8, 2))}) == 3


def changed(path: Path, **changes) -> Path:
    write_placement(path, PLACEMENT)
    value = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not None}
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": "other"},
            'this is not a placement file: no "format": "evenload.placement"; keys found: format, '
            "version, evenload, num_gpus, num_nodes, slots_per_gpu, num_experts, "
            "physical_to_logical",
        ),
        (
            {"version": 2},
            "a placement file of version 2, and this evenload reads version 1; use the evenload "
            "that "
            "wrote it, or a newer one",
        ),
        ({"num_gpus": None}, "the placement file has no key num_gpus"),
        ({"slots_per_gpu": None}, "the placement file has no key slots_per_gpu or slots"),
        (
            {"slots": [3, 3, 3, 3]},
            "slots_per_gpu, num_slots, slots: slots_per_gpu and slots given; give exactly one",
        ),
        ({"speed": [1, 2]}, "speed has 2 entries for num_gpus=4; use 4"),
        ({"speed": [1, 2, 0, 1]}, "speed[2]=0.0 is not finite and above 0; use e.g. 1.0"),
        ({"alive": [1, 1, 1, 0]}, "alive[0]=1 is not a bool; use True or False"),
        (
            {"alive": [True, True, True, False]},
            "physical_to_logical[0, 9]=1 is on a GPU that is not alive; use -1 there",
        ),
        (
            {"physical_to_logical": [[0, 1], [1]]},
            "the number of slots differs by layer: 2 in layer 0; 1 in layer 1; use as many in each "
            "layer, or a file for each number of slots",
        ),
        ({"num_gpus": 3}, "num_gpus=3 is not a multiple of num_nodes=2; use 2 or 4"),
        (
            {"num_experts": 9},
            "physical_to_logical: expert 8 has no slot in layer 0; give every expert at least one",
        ),
    ],
)
def test_placement_complaints(tmp_path, changes, message):
    path = changed(tmp_path / "p.json", **changes)
    with pytest.raises(FileFormatError, match=f"^{re.escape(f'{path}: {message}')}$"):
        read_placement(path)


def test_placement_file_that_is_a_list(tmp_path):
    (tmp_path / "p.json").write_text("[1]")
    with pytest.raises(FileFormatError, match=r"this is not a placement file.*keys found: list$"):
        read_placement(tmp_path / "p.json")


def test_placement_ending(tmp_path):
    message = "not known as a placement; use one of .json"
    with pytest.raises(FileFormatError, match=message):
        find_output(tmp_path / "p.txt")
    with pytest.raises(FileFormatError, match=message):
        write_placement(tmp_path / "p.txt", PLACEMENT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_nothing_half_written(tmp_path, error):
    path = tmp_path / "x.json"
    path.write_text("before")

    def write_half():
        with replace_file(path) as stream:
            stream.write(b"half")
            stream.flush()
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "none" / "x.json"
    with pytest.raises(FileNotFoundError) as caught:
        write_placement(path, PLACEMENT)
    assert caught.value.filename == str(path)


def test_writing_to_a_folder(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_placement(tmp_path / "x.json", PLACEMENT)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of POSIX")
def test_writing_keeps_links_and_modes(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    with replace_file(link) as stream:
        stream.write(b"after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="devices of POSIX")
def test_writing_to_a_device_leaves_it_one():
    with replace_file("/dev/null") as stream:
        stream.write(b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
