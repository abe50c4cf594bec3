"""A placement that was planned ahead, in place of a plan at each rebalance."""

import logging

import numpy as np
import pytest
import torch
from engine_stubs import stub_vllm

from evenload import Cluster, Placement, solve
from evenload.engines.common.options import read_options
from evenload.engines.common.plan_map import Request, plan_map
from evenload.engines.common.static_plan import static_plan
from evenload.engines.vllm.plugin import register
from evenload.io import write_placement

LOAD = np.random.default_rng(3).integers(1, 90, (3, 16)) ** 2
CLUSTER = Cluster(4, slots_per_gpu=6)
LINEAR = np.tile(np.arange(24) % 16, (3, 1))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "placement.json"
    write_placement(path, solve(LOAD.astype(float), CLUSTER).placement)
    return path


def options(file):
    return read_options({"EVENLOAD_PLACEMENT": str(file)})


def ranks(placed):
    return [[sorted(gpu) for gpu in row.reshape(4, 6).tolist()] for row in placed]


@pytest.mark.parametrize("load", [LOAD, LOAD[::-1], 0 * LOAD])
def test_every_rebalance_returns_it(file, load):
    planned = plan_map(Request(load, LINEAR, 24, 1, 1, 4), options(file))
    wanted = static_plan(str(file)).placement
    assert ranks(planned.map) == ranks(wanted.physical_to_logical)
    assert planned.moves == wanted.moves_from(Placement(LINEAR, CLUSTER, 16)).sum() > 0
    again = plan_map(Request(load, planned.map, 24, 1, 1, 4), options(file))
    assert again.moves == 0
    assert (again.map == planned.map).all()


def test_one_of_another_shape_keeps_what_runs(file):
    with pytest.raises(ValueError, match=r"is for \(layers, slots, experts, GPUs\) = "):
        plan_map(Request(LOAD, None, 32, 1, 1, 4), options(file))


def test_ranks_with_other_files_are_told_apart(file, tmp_path):
    other = tmp_path / "other.json"
    write_placement(other, Placement(LINEAR, CLUSTER, 16))
    same = tmp_path / "same.json"
    same.write_bytes(file.read_bytes())
    assert options(file).fingerprint == options(same).fingerprint != options(other).fingerprint


def test_it_is_read_once_and_serves_vllm(file, monkeypatch, caplog):
    policies = stub_vllm(monkeypatch)
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_PLACEMENT", str(file))
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        register()
    assert caplog.records[-1].getMessage().startswith(f"evenload: placement {file} plans for vLLM")
    wanted = static_plan(str(file)).placement.physical_to_logical
    file.write_text("gone")
    placed = policies["default"].rebalance_experts(
        torch.tensor(LOAD), 24, 1, 1, 4, torch.tensor(LINEAR)
    )
    assert ranks(placed.numpy()) == ranks(wanted)


@pytest.mark.parametrize("text", ["", "{}", None])
def test_a_file_that_is_none_is_told_at_registration(tmp_path, monkeypatch, caplog, text):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    policies = stub_vllm(monkeypatch)
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_PLACEMENT", str(path))
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        register()
    assert "the policy of vLLM itself stays, since" in caplog.records[-1].getMessage()
    assert str(path) in caplog.records[-1].getMessage()
    assert policies["default"].policy.name.startswith("vLLM's")
