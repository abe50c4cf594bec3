"""The policy that vllm-ascend gets, beside a stand-in: the real one has never run it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from engine_stubs import MOST_FUNCTIONS, functions_to_the_solver, put_module, two_ranks

from evenload import Cluster, Placement
from evenload.io import write_placement
from evenload.plugins import selftest
from evenload.plugins.planner import Planner
from evenload.plugins.settings import PREFIX, Settings
from evenload.plugins.vllm import RAY_PREFIXES, register
from evenload.plugins.vllm_ascend import EvenloadPolicy

SETTINGS = Settings(start_share=1.0, history=1)
PLANNER = Planner("vllm-ascend", SETTINGS)
RNG = np.random.default_rng(9)
L, R, K, E = 4, 8, 5, 32
TABLE = torch.arange(R * K).remainder(E).reshape(1, R, K).repeat(L, 1, 1)
LOAD = torch.tensor(RNG.integers(1, 90, (L, R, K)) ** 3)


@pytest.fixture
def factory(monkeypatch):
    class PolicyFactory:
        @staticmethod
        def generate_policy(policy_type):
            return f"own {policy_type}"

    name = "vllm_ascend.eplb.core.policy.policy_factory"
    put_module(monkeypatch, name, PolicyFactory=PolicyFactory)
    monkeypatch.setenv(RAY_PREFIXES, PREFIX)
    monkeypatch.setenv("EVENLOAD_VLLM_ASCEND", "1")
    return PolicyFactory


def in_two_ranks(monkeypatch, other):
    two_ranks(monkeypatch, other)


def refused(old, new):
    """Tell what vllm-ascend refuses of a layer, as its documentation has it."""
    if set(old.flatten().tolist()) - set(new.flatten().tolist()):
        return "an expert is missing"
    for before, now in zip(old, new, strict=True):
        if now.unique().numel() != now.numel():
            return "an expert is twice on a rank"
        stays = torch.isin(now, before)
        if not torch.equal(now[stays], before[stays]):
            return "a kept expert changes its slot"
    return ""


def test_the_factory_hands_out_evenload_for_every_type(factory):
    register()
    register()
    assert isinstance(factory.generate_policy(2), EvenloadPolicy)
    assert isinstance(factory.generate_policy(0, None), EvenloadPolicy)


def test_a_factory_without_the_function_is_left_alone(factory, caplog):
    del factory.generate_policy
    register()
    assert not hasattr(factory, "generate_policy")
    (line,) = caplog.messages
    says = "not installed, because this release has no PolicyFactory.generate_policy"
    assert says in line


def test_where_vllm_ascend_is_not_there_nothing_happens(monkeypatch, caplog):
    monkeypatch.setenv(RAY_PREFIXES, PREFIX)
    monkeypatch.setenv("EVENLOAD_VLLM_ASCEND", "1")
    register()
    assert "cannot be imported, so it is left alone" in caplog.text


def test_all_ranks_keep_their_own_policies_where_one_failed(factory, monkeypatch):
    register()
    in_two_ranks(monkeypatch, lambda mine: mine)
    assert isinstance(factory.generate_policy(1), EvenloadPolicy)
    in_two_ranks(monkeypatch, lambda mine: b"x" * 16)
    assert factory.generate_policy(1) == "own 1"


def test_ranks_whose_self_tests_plan_otherwise_keep_their_own_policies(factory, monkeypatch):
    register()
    said = []
    in_two_ranks(monkeypatch, lambda mine: said.append(mine) or mine)
    factory.generate_policy(1)
    own, _ = factory.generate_policy.args
    factory.generate_policy = staticmethod(own)
    monkeypatch.setattr(selftest, "self_test", lambda settings: b"other")
    register()
    in_two_ranks(monkeypatch, lambda mine: said[0])
    assert factory.generate_policy(1) == "own 1"


def test_a_rank_that_failed_says_so_to_the_others(factory, monkeypatch):
    monkeypatch.setattr(selftest, "_not_a_plan", lambda *_: "is none")
    register()
    handed = []
    in_two_ranks(monkeypatch, lambda mine: handed.append(mine) or mine)
    assert factory.generate_policy(1) == "own 1"
    assert len(handed) == 1


@pytest.mark.parametrize("windows", [0, 3])
def test_nothing_of_it_is_refused(windows):
    policy = pickle.loads(pickle.dumps(EvenloadPolicy(PLANNER)))
    load = torch.stack([LOAD] * windows) if windows else LOAD
    table = TABLE.clone()
    changed, priority, placed = policy.rebalance_experts(table, load)
    assert changed == 1
    assert sorted(priority.tolist()) == list(range(L))
    assert isinstance(placed, torch.Tensor)
    assert placed.dtype == torch.int64
    assert placed.shape == (L, R, K)
    assert (table == TABLE).all()
    assert [refused(*layer) for layer in zip(TABLE, placed, strict=True)] == [""] * L


def test_the_load_of_all_slots_of_an_expert_counts():
    policy = EvenloadPolicy(PLANNER)
    _, _, placed = policy.rebalance_experts(TABLE.numpy(), LOAD.numpy())
    weight = np.zeros((L, E), np.int64)
    for layer in range(L):
        np.add.at(weight[layer], TABLE[layer].numpy().ravel(), LOAD[layer].numpy().ravel())

    def heaviest(table):
        count = np.stack([np.bincount(row.ravel(), minlength=E) for row in table])
        share = np.take_along_axis(weight / count, table.reshape(L, -1), 1).reshape(L, R, K)
        return share.sum(2).max(1)

    assert (heaviest(placed) < heaviest(TABLE.numpy())).all()


HUGE = (2**31 - 1) // 90**3 * LOAD  # in int32 those of one expert, or of two windows, wrap


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
@pytest.mark.parametrize("windows", [0, 3])
@pytest.mark.parametrize("kind", [torch.Tensor.clone, torch.Tensor.numpy])
def test_sums_are_wider_than_the_load(caplog, dtype, windows, kind):
    policy = EvenloadPolicy(PLANNER)
    load = torch.stack([HUGE] * windows) if windows else HUGE
    assert HUGE.sum(dim=(1, 2)).min() > 2**31
    (_, order, placed), (_, wanted_order, wanted) = (
        policy.rebalance_experts(kind(TABLE), kind(given)) for given in (load.to(dtype), load)
    )
    assert (placed == wanted).all()
    assert (order == wanted_order).all()
    assert (np.asarray(placed) != TABLE.numpy()).any(axis=(1, 2)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("windows", [0, 3])
def test_half_precision_loads_are_planned(dtype, windows):
    small = (LOAD % 128).repeat(windows, 1, 1, 1) if windows else LOAD % 128
    policy = EvenloadPolicy(PLANNER)
    changed, _, placed = policy.rebalance_experts(TABLE, small.to(dtype))
    assert changed == 1
    assert (placed == policy.rebalance_experts(TABLE, small)[2]).all()


def test_a_placement_of_another_shape_keeps_the_table(tmp_path, caplog):
    path = tmp_path / "placement.json"
    write_placement(path, Placement(TABLE[:2].reshape(2, -1), Cluster(R, slots_per_gpu=K), E))
    policy = EvenloadPolicy(Planner("vllm-ascend", Settings(placement=str(path))))
    changed, _, placed = policy.rebalance_experts(TABLE, LOAD)
    assert changed == 0
    assert (placed == TABLE).all()
    assert "the old map stays" in caplog.text


def test_what_is_odd_keeps_its_layer():
    policy = EvenloadPolicy(PLANNER)
    load, table = LOAD.clone(), TABLE.clone()
    load[0] = 0
    load[1, 0, 0] = -1
    table[2, 7, 4] = -1
    changed, priority, placed = policy.rebalance_experts(table, load)
    assert (placed[:3] == table[:3]).all()
    assert priority.tolist()[0] == 3
    assert changed == 1
    assert policy.rebalance_experts(TABLE, LOAD * 0)[0] == 0


def test_it_plans_for_another_number_of_ranks_once():
    policy = EvenloadPolicy(PLANNER)
    for ranks in (7, 10):
        policy.set_new_ep_size(ranks)
        _, _, placed = policy.rebalance_experts(TABLE, LOAD)
        assert placed.shape == (L, ranks, K)
        assert all(row.unique().numel() == E for row in placed)
        assert policy.rebalance_experts(TABLE, LOAD)[2].shape == (L, R, K)


def test_what_cannot_be_planned_keeps_the_table():
    policy = EvenloadPolicy(Planner("vllm-ascend", Settings(solver="best")))
    changed, _, placed = policy.rebalance_experts(TABLE, LOAD)
    assert changed == 0
    assert (placed == TABLE).all()
    table = TABLE.clone()
    table[0, 0, 0] = 99  # more experts than slots
    changed, _, placed = policy.rebalance_experts(table, LOAD)
    assert changed == 0
    assert (placed == table).all()
    policy.set_new_ep_size(5)
    with pytest.raises(ValueError, match="num_slots=25 is fewer than num_experts=32"):
        policy.rebalance_experts(TABLE, LOAD)


def test_the_solver_is_near(monkeypatch):
    policy = EvenloadPolicy(PLANNER)
    names = functions_to_the_solver(monkeypatch, lambda: policy.rebalance_experts(TABLE, LOAD))
    assert names[-1] == "rebalance_experts"
    assert len(names) <= MOST_FUNCTIONS, names
