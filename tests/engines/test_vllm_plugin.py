"""Our policy inside the real vLLM: through its loader, its worker and its scheduler."""

from __future__ import annotations

import logging
import os
from types import SimpleNamespace

import pytest
import torch
from vllm import envs, plugins
from vllm.distributed.eplb import async_worker, eplb_state
from vllm.distributed.eplb.migration_scheduler import schedule_migration_batches_for_layers
from vllm.distributed.eplb.policy import EPLB_POLICIES, AbstractEplbPolicy, DefaultEplbPolicy
from vllm.ray.ray_env import get_env_vars_to_copy

from evenload import Cluster, Placement
from evenload.io import write_placement
from evenload.plugins.plan import PlacementMismatchError
from evenload.plugins.vllm import RAY_PREFIXES

L, E, S, R = 6, 64, 80, 16
GENERATOR = torch.Generator().manual_seed(3)
LOAD = torch.randint(1, 100, (L, E), generator=GENERATOR) ** 3
LINEAR = torch.tensor(
    eplb_state.EplbState.build_initial_global_physical_to_logical_map(E, S - E)
).repeat(L, 1)


def load_plugins(monkeypatch):
    monkeypatch.setenv(RAY_PREFIXES, "")  # what registration adds is gone afterwards
    monkeypatch.setitem(EPLB_POLICIES, "default", DefaultEplbPolicy)  # put back afterwards
    monkeypatch.setattr(plugins, "plugins_loaded", False)
    plugins.load_general_plugins()
    return eplb_state.EPLB_POLICIES["default"]


@pytest.fixture
def policy(monkeypatch):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_ON_FAILURE", "raise")
    return load_plugins(monkeypatch)


def worker(policy, load, old, nodes=2, groups=4):
    stats = eplb_state.EplbStats(load, old.shape[1], groups, nodes, R)
    state = SimpleNamespace(eplb_stats=stats)
    return async_worker.run_rebalance_experts(state, SimpleNamespace(policy=policy), old, None)


def test_vllm_is_left_alone_unless_asked(monkeypatch):
    monkeypatch.delenv("EVENLOAD_VLLM", raising=False)
    assert load_plugins(monkeypatch) is DefaultEplbPolicy


def test_vllms_loader_installs_it(policy):
    assert issubclass(policy, AbstractEplbPolicy)
    assert policy.policy.name == "auto"


@pytest.mark.parametrize("cached", [False, True])
def test_the_settings_are_carried_to_the_engines_that_ray_starts(monkeypatch, cached):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_MOVE_COST", "0.001")
    monkeypatch.setenv(RAY_PREFIXES, "")
    ours = {"EVENLOAD_VLLM", "EVENLOAD_MOVE_COST"}
    assert not ours & get_env_vars_to_copy()
    load_plugins(monkeypatch)
    if cached:  # as vLLM does once an engine of this process is ready
        monkeypatch.setattr(envs, "__getattr__", envs.__getattr__)
        envs.enable_envs_cache()
    assert ours | {RAY_PREFIXES} <= get_env_vars_to_copy()
    assert get_env_vars_to_copy() >= {name for name in os.environ if name.startswith("EVENLOAD_")}


def renamed(cls, load, num_replicas, num_groups, num_nodes, num_ranks, old=None):
    raise AssertionError


def test_a_policy_of_other_arguments_stays(monkeypatch, caplog):
    logging.getLogger("vllm").propagate = True
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setattr(DefaultEplbPolicy, "rebalance_experts", classmethod(renamed))
    assert load_plugins(monkeypatch) is DefaultEplbPolicy
    says = "not installed, because DefaultEplbPolicy.rebalance_experts takes (load, num_replicas, "
    assert says in caplog.text


@pytest.mark.parametrize("layers", [L // 2, 1], ids=["a pipeline stage", "a draft model"])
def test_a_plan_for_other_layers_ends_the_profiling_run(monkeypatch, tmp_path, layers):
    path = tmp_path / "placement.json"
    write_placement(path, Placement(LINEAR, Cluster(R, num_slots=S), E))
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_PLACEMENT", str(path))
    policy = load_plugins(monkeypatch)
    placed = worker(policy, LOAD * 0, LINEAR)
    assert torch.equal(placed, LINEAR)
    with pytest.raises(PlacementMismatchError, match="pipeline stage or the draft model"):
        worker(policy, LOAD[:layers] * 0, LINEAR[:layers])


def test_the_worker_gets_a_better_plan_that_moves_less(policy, caplog):
    logging.getLogger("vllm").propagate = True
    ours = LINEAR
    with caplog.at_level(logging.INFO, "vllm.evenload"):
        for _ in range(8):  # an eighth of all slots at a time
            ours = worker(policy, LOAD, ours, nodes=1, groups=1)
    theirs = worker(DefaultEplbPolicy, LOAD, LINEAR, nodes=1, groups=1)
    assert "balancedness" in caplog.text

    def balancedness(placed):
        count = torch.stack([torch.bincount(row, minlength=E) for row in placed])
        share = torch.gather(LOAD / count, 1, placed).reshape(L, R, -1).sum(2)
        return (share.mean(1) / share.max(1).values).mean()

    def moves(placed):
        pairs = zip(placed.reshape(-1, S // R), LINEAR.reshape(-1, S // R), strict=True)
        return sum(len(set(now.tolist()) - set(old.tolist())) for now, old in pairs)

    assert balancedness(ours) >= balancedness(theirs)
    assert moves(ours) < moves(theirs)


def test_a_model_and_its_draft_are_planned_each_by_itself(monkeypatch):
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.setenv("EVENLOAD_HISTORY", "1")
    policy = load_plugins(monkeypatch)
    alone = worker(policy, LOAD, LINEAR), worker(policy, LOAD[-1:], LINEAR[-1:])
    assert [len(placed) for placed in alone] == [L, 1]
    drafted = worker(policy, LOAD[-1:], alone[1])
    again = worker(policy, LOAD, LINEAR), worker(policy, LOAD[-1:], LINEAR[-1:])
    assert all(torch.equal(one, other) for one, other in zip(alone, again, strict=True))
    assert torch.equal(drafted, alone[1])  # what it has is good enough


def test_vllms_maps_and_schedule_take_the_plan(policy):
    placed = worker(policy, LOAD, LINEAR)
    logical, count = eplb_state.compute_logical_maps(placed, E)
    assert (count >= 1).all()
    assert (count.sum(1) == S).all()
    assert ((logical >= 0).sum(2) == count).all()
    layers = schedule_migration_batches_for_layers(S // R, LINEAR.numpy(), placed.numpy())
    for layer, batches in enumerate(layers):
        received = set()
        for batch in batches:
            ends = [rank for flow in batch for rank in (flow.src_rank, flow.dst_rank)]
            assert len(ends) == len(set(ends))
            received |= {(flow.dst_rank, e) for flow in batch for e in flow.expert_ids}
        old = LINEAR[layer].reshape(R, -1).tolist()
        new = placed[layer].reshape(R, -1).tolist()
        assert received == {(r, e) for r in range(R) for e in set(new[r]) - set(old[r])}


def test_the_profiling_run_moves_nothing(policy):
    assert torch.equal(worker(policy, LOAD * 0, LINEAR), LINEAR)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_elastic_ranks(policy, dtype):
    load, old = LOAD.to(dtype), LINEAR.clone()
    old[:, -10:] = -1  # reconfigure_physical_expert_slots leaves new ranks' slots so
    assert (worker(policy, load, old) >= 0).all()
    fewer = policy.rebalance_experts(load, S - 10, 4, 2, R - 2, LINEAR)
    assert fewer.shape == (L, S - 10)
    assert (eplb_state.compute_logical_maps(fewer, E)[1] >= 1).all()


def test_the_state_commits_the_plan(policy, monkeypatch):
    monkeypatch.setattr(eplb_state, "PIN_MEMORY", False)  # needs a GPU
    placed = worker(policy, LOAD, LINEAR)
    state = SimpleNamespace(
        physical_to_logical_map=LINEAR.clone(),
        logical_to_physical_map=torch.full((L, E, S - E + 1), -1),
        logical_replica_count=torch.zeros(L, E, dtype=torch.int64),
    )
    eplb_state._commit_eplb_maps(state, placed)
    assert torch.equal(state.physical_to_logical_map, placed)
    assert (state.logical_replica_count.sum(1) == S).all()
