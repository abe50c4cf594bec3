"""The policy that vLLM gets, beside a stand-in of its table of policies."""

from __future__ import annotations

import gc
import logging
import os

import numpy as np
import pytest
import torch
from engine_stubs import (
    MOST_FUNCTIONS,
    OwnPolicy,
    functions_to_the_solver,
    put_module,
    stub_vllm,
    two_ranks,
)
from numba.core.dispatcher import Dispatcher

from evenload import Cluster, Placement, solve
from evenload.ballots import PART
from evenload.io import write_placement
from evenload.plugins import planner, selftest
from evenload.plugins.plan import PlacementMismatchError, Request, plan_map
from evenload.plugins.settings import Settings
from evenload.plugins.vllm import RAY_PREFIXES, BrokenContractError, register

LOAD = torch.tensor(np.random.default_rng(3).integers(1, 90, (3, 16)) ** 2)
LINEAR = (torch.arange(24) % 16).expand(3, -1)


@pytest.fixture
def policies(monkeypatch):
    return stub_vllm(monkeypatch)


@pytest.fixture
def installed(policies, monkeypatch):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    register()
    return policies["default"]


def test_vllm_is_left_alone_unless_asked(policies, monkeypatch):
    register()
    assert policies == {"default": OwnPolicy}
    monkeypatch.setenv("EVENLOAD_VLLM", "0")
    register()
    assert policies == {"default": OwnPolicy}


def test_an_options_file_can_ask_too(policies, monkeypatch, tmp_path):
    path = tmp_path / "evenload.toml"
    path.write_text('vllm = true\nsolver = "local-search"\n')
    monkeypatch.setenv("EVENLOAD_OPTIONS", str(path))
    register()
    assert policies["default"].policy.name == "local-search"


def test_registering_twice_is_registering_once(policies, monkeypatch, caplog):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        register()
        first = policies["default"]
        register()
    assert policies["default"] is first
    assert [r.getMessage()[:37] for r in caplog.records] == [
        "evenload: solver auto plans for vLLM "
    ]


@pytest.mark.parametrize(
    ("said", "then"),
    [("", "EVENLOAD_"), ("MY_, ,OUR_", "MY_,OUR_,EVENLOAD_"), ("EVENLOAD_, MY_", None)],
)
def test_ray_is_told_to_carry_the_settings(policies, monkeypatch, caplog, said, then):
    monkeypatch.setenv(RAY_PREFIXES, said)
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        register()
        register()
    assert os.environ[RAY_PREFIXES] == then or said
    assert sum(RAY_PREFIXES in line for line in caplog.messages) == (then is not None)


def test_ray_is_told_nothing_unless_asked(policies, monkeypatch):
    monkeypatch.setenv(RAY_PREFIXES, "")
    register()
    assert os.environ[RAY_PREFIXES] == ""


class Renamed(OwnPolicy):
    @classmethod
    def rebalance_experts(
        cls, load, num_replicas, num_groups, num_nodes, num_ranks, old_global_expert_indices=None
    ):
        raise AssertionError


class Longer(OwnPolicy):
    @classmethod
    def rebalance_experts(
        cls, weight, num_replicas, num_groups, num_nodes, num_ranks,
        old_global_expert_indices=None, topology=None,
    ):  # fmt: skip
        raise AssertionError


@pytest.mark.parametrize("place", ["own", "abstract"])
@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Renamed, ".rebalance_experts takes (load, num_replicas, "),
        (Longer, ", old_global_expert_indices, topology), and evenload hands on (weight, "),
        (type("None_", (), {}), "this release has no "),
    ],
)
def test_policies_of_other_arguments_are_left_alone(
    policies, monkeypatch, caplog, place, other, says
):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    if place == "own":
        policies["default"] = other
    else:
        put_module(monkeypatch, "vllm.distributed.eplb.policy", AbstractEplbPolicy=other)
    before = dict(policies)
    register()
    assert policies == before
    (line,) = caplog.messages
    assert line.startswith("evenload: not installed, because ")
    assert says in line
    assert "vLLM's own policy stays" in line


def test_the_contract(installed, caplog):
    load, old = LOAD.clone(), LINEAR.clone()
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        placed = installed.rebalance_experts(load, 24, 1, 1, 4, old)
    assert placed.dtype == torch.int64
    assert placed.device.type == "cpu"
    assert placed.shape == (3, 24)
    assert placed.is_contiguous()
    assert (load == LOAD).all()
    assert (old == LINEAR).all()
    assert all(row.unique().numel() == 16 for row in placed)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("evenload (auto): balancedness 0.")
    assert "moves" in line
    assert "ms" in line
    placed[0, 0] = 5  # nobody else holds it


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loads_are_planned(installed, caplog, dtype):
    load = LOAD.float().clamp(max=255).to(dtype)
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        placed = installed.rebalance_experts(load, 24, 1, 1, 4, LINEAR)
    assert "balancedness" in caplog.text
    alone = plan_map(Request(load.long().numpy()[None], LINEAR.numpy(), 24, 4), Settings())
    assert (placed.numpy() == alone.map).all()


def test_the_profiling_run_keeps_the_map(installed):
    zero = torch.zeros_like(LOAD)
    assert (installed.rebalance_experts(zero, 24, 1, 1, 4, LINEAR) == LINEAR).all()
    assert (installed.rebalance_experts(zero, 24, 1, 1, 4) == LINEAR).all()


def test_ranks_that_come_and_go(installed):
    more = torch.cat([LINEAR, torch.full((3, 6), -1)], dim=1)
    assert (installed.rebalance_experts(LOAD, 30, 1, 1, 5, more) >= 0).all()
    assert installed.rebalance_experts(LOAD, 18, 1, 1, 3, LINEAR).shape == (3, 18)


def test_what_no_policy_could_plan_is_refused_as_vllm_does(installed):
    for error in (AssertionError, ValueError, BrokenContractError):
        with pytest.raises(error, match="num_slots=23 is not a multiple of num_ranks=4"):
            installed.rebalance_experts(LOAD, 23, 1, 1, 4, LINEAR)


def test_a_failed_self_test_leaves_vllms_own_policy(policies, monkeypatch, caplog):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setattr(selftest, "_not_a_plan", lambda *_: "is none")
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        register()
        register()
    (line,) = [r.getMessage() for r in caplog.records]
    assert "the policy of vLLM itself stays, since ValueError: the self-test's plan 0" in line
    assert (policies["default"].rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR) == LINEAR).all()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("EVENLOAD_SOLVER", "best", "solver='best' is unknown"),
        ("EVENLOAD_EFORT", "fast", "EVENLOAD_EFORT is not a setting"),
        ("EVENLOAD_NUM_THREADS", "0", "EVENLOAD_NUM_THREADS='0' is not a positive integer"),
    ],
)
def test_wrong_options_are_found_at_registration(policies, monkeypatch, name, value, says):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_ON_FAILURE", "raise")
    monkeypatch.setenv(name, value)
    if name == "EVENLOAD_NUM_THREADS":
        from evenload import threads

        threads.num_threads.cache_clear()
    with pytest.raises(RuntimeError, match=says):
        register()
    assert policies["default"] is OwnPolicy
    if name == "EVENLOAD_NUM_THREADS":
        monkeypatch.delenv(name)
        threads.num_threads.cache_clear()


def test_ranks_that_agree_get_their_plan(installed, monkeypatch):
    two_ranks(monkeypatch, lambda mine: mine)
    placed = installed.rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR)
    alone = plan_map(Request(LOAD.numpy()[None], LINEAR.numpy(), 24, 4), Settings())
    assert (placed.numpy() == alone.map).all()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda m: b"x" * 16 + m[16:], "plan differently from the same load"),
        (lambda m: b"x" * 16 + m[16:32] + b"x" * 16, "have different policies or options"),
        (lambda m: b"x" * 48, "have different loads or old maps"),
    ],
)
def test_ranks_that_differ_all_keep_the_map(installed, monkeypatch, caplog, other, says):
    two_ranks(monkeypatch, other)
    with caplog.at_level(logging.ERROR, "vllm.evenload"):
        placed = installed.rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR)
    assert (placed == LINEAR).all()
    assert says in caplog.text


def test_a_rank_that_fails_alone_hands_in_another_plan(installed, monkeypatch):
    handed = []
    two_ranks(monkeypatch, lambda mine: handed.append(mine) or mine)
    installed.rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR)

    def fail(request, options):
        raise MemoryError

    monkeypatch.setattr(planner, "plan_map", fail)
    assert (installed.rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR) == LINEAR).all()
    first, second = (ballot for ballot in handed if len(ballot) == 3 * PART)
    assert first[:PART] != second[:PART]
    assert first[2 * PART :] == second[2 * PART :]


def test_where_nobody_compares_a_failure_of_one_rank_is_loud(installed, monkeypatch):
    def fail(request, options):
        raise MemoryError

    monkeypatch.setattr(planner, "plan_map", fail)
    with pytest.raises(MemoryError):
        installed.rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR)


def compiled():
    """Count the compiled versions of all kernels."""
    kernels = [o for o in gc.get_objects() if issubclass(type(o), Dispatcher)]
    return {kernel.__qualname__: len(kernel.overloads) for kernel in kernels
            if kernel.__module__.startswith("evenload.")}  # fmt: skip


def test_nothing_is_compiled_after_registration(installed):
    before = compiled()
    assert sum(before.values()) > 5
    rng = np.random.default_rng(1)
    for E, ranks, slots, nodes, groups, L in (
        (16, 4, 24, 1, 1, 3), (16, 4, 16, 1, 1, 1), (64, 16, 96, 2, 4, 5), (64, 32, 64, 4, 8, 2),
        (32, 32, 32, 1, 1, 4), (12, 4, 8 * 4, 2, 3, 2), (128, 16, 144, 2, 8, 60),
    ):  # fmt: skip
        load = torch.tensor(rng.integers(0, 1000, (L, E)) ** 2)
        old = (torch.arange(slots) % E).expand(L, -1)
        gone = old.clone()
        gone[:, -slots // ranks :] = -1
        for given in (load, load.float(), load.to(torch.int32), load.T.contiguous().T):
            installed.rebalance_experts(given, slots, groups, nodes, ranks, old)
        for map_ in (gone, torch.cat([old, old], dim=1), None, old.to(torch.int32)):
            installed.rebalance_experts(load, slots, groups, nodes, ranks, map_)
    assert compiled() == before


def test_the_solver_is_near(installed, monkeypatch):
    two_ranks(monkeypatch, lambda mine: mine)
    names = functions_to_the_solver(
        monkeypatch, lambda: installed.rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR)
    )
    assert names[-1] == "rebalance_experts"
    assert len(names) <= MOST_FUNCTIONS, names


# ---- a placement that was planned ahead ----------------------------------------------------------


def test_a_file_is_read_once_and_serves_every_rebalance(policies, monkeypatch, caplog, tmp_path):
    path, cluster = tmp_path / "placement.json", Cluster(4, slots_per_gpu=6)
    wanted = solve(LOAD.double().numpy(), cluster).placement
    write_placement(path, wanted)
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_PLACEMENT", str(path))
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        register()
    assert caplog.records[-1].getMessage().startswith(f"evenload: placement {path} plans for vLLM")
    path.write_text("gone")
    placed = policies["default"].rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR)
    assert Placement(placed, cluster, 16).moves_from(wanted).sum() == 0


def test_a_file_for_another_number_of_layers_ends_the_profiling_run(
    policies, monkeypatch, tmp_path
):
    path = tmp_path / "placement.json"
    write_placement(path, solve(LOAD.double().numpy(), Cluster(4, slots_per_gpu=6)).placement)
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_PLACEMENT", str(path))
    register()
    two_ranks(monkeypatch, lambda mine: mine)
    for layers in (LOAD[:1], torch.cat([LOAD, LOAD])):
        old = LINEAR[:1].expand(len(layers), -1)
        with pytest.raises(PlacementMismatchError) as caught:
            policies["default"].rebalance_experts(layers * 0, 24, 1, 1, 4, old)
        said = str(caught.value)
        assert f"(3, 24, 16, 4), and the engine runs ({len(layers)}, 24, 16, 4)" in said
        assert "each pipeline stage or the draft model by itself" in said
        assert said.endswith("plan for those, or unset EVENLOAD_PLACEMENT")
    with pytest.raises(PlacementMismatchError, match=r"runs \(3, 28, 16, 4\); plan for those"):
        policies["default"].rebalance_experts(LOAD * 0, 28, 1, 1, 4, LINEAR)


@pytest.mark.parametrize("text", ["", "{}", None])
def test_a_file_that_is_none_is_told_at_registration(policies, monkeypatch, caplog, tmp_path, text):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_PLACEMENT", str(path))
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        register()
    assert "the policy of vLLM itself stays, since" in caplog.records[-1].getMessage()
    assert str(path) in caplog.records[-1].getMessage()
    assert policies["default"].policy.name.startswith("vLLM's")
    two_ranks(monkeypatch, lambda mine: mine)
    placed = policies["default"].rebalance_experts(LOAD, 24, 1, 1, 4, LINEAR[:, 5:])
    assert (placed == LINEAR).all()
