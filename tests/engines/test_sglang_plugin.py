"""The plug-in inside the real SGLang, through its own loader, hooks and expert location."""

import argparse
import logging

import numpy as np
import pytest
import torch
from sglang_world import EXPERTS, LAYERS, MODEL, RANKS, SLOTS, configured, join, loads

from evenload import Cluster, Placement
from evenload.plugins.sglang import planner, register


@pytest.fixture(scope="module", autouse=True)
def plugins():
    from sglang.srt.plugins import load_plugins

    join()
    load_plugins()


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in ("SGLANG_ELASTIC", "SOLVER", "OPTIONS"):
        monkeypatch.delenv(f"EVENLOAD_{name}", raising=False)
    planner.cache_clear()
    yield
    planner.cache_clear()


class Elastic:
    """SGLang's state of elastic ranks; ranks that may still come have no slots."""

    def __init__(self, monkeypatch, active):
        from sglang.srt.elastic_ep import elastic_ep

        ranks = torch.tensor(active, dtype=torch.int32)
        state = elastic_ep.ElasticEPState(ranks, ranks.clone(), ranks.clone(), RANKS)
        monkeypatch.setattr(elastic_ep.ElasticEPStateManager, "_instance", state)


def call(tokens, name, **changed):
    from sglang.srt.eplb import eplb_algorithms

    groups, nodes = changed.pop("num_groups", 4), 2
    algorithm = eplb_algorithms.compute_algorithm(
        raw_algorithm=name, num_groups=groups, num_nodes=nodes
    )
    return eplb_algorithms.rebalance_experts(
        tokens_per_expert=tokens,
        num_physical_experts=SLOTS,
        num_local_physical_experts=SLOTS // RANKS,
        num_groups=groups,
        num_nodes=nodes,
        algorithm=algorithm,
    )


def check_maps(physical, logical, count):
    """Check what SGLang relies on."""
    assert {t.dtype for t in (physical, logical, count)} == {torch.int64}
    assert physical.shape == (LAYERS, SLOTS)
    assert count.shape == (LAYERS, EXPERTS)
    assert (count.sum(1) == SLOTS).all()
    assert logical.shape == (LAYERS, EXPERTS, count.max())
    for layer in range(LAYERS):
        for expert in range(EXPERTS):
            slots = (physical[layer] == expert).nonzero().flatten().tolist()
            assert logical[layer, expert].tolist() == slots + [-1] * (logical.shape[2] - len(slots))


def balance(physical, tokens):
    placement = Placement(physical, Cluster(RANKS, num_slots=SLOTS), EXPERTS)
    return float(placement.balancedness(tokens.sum(0).double().numpy())[1:].mean())


def test_the_loader_applied_the_hooks():
    from sglang.srt.eplb import eplb_algorithms, expert_location

    for function in (
        eplb_algorithms.compute_algorithm,
        eplb_algorithms.rebalance_experts,
        expert_location.compute_initial_expert_location_metadata,
    ):
        assert hasattr(function, "__wrapped__")


def test_a_function_of_other_arguments_refuses_to_start(monkeypatch):
    from sglang.srt.eplb import eplb_algorithms
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    def renamed(counts, num_physical_experts, num_groups, num_nodes, algorithm):
        raise AssertionError

    taken = []
    monkeypatch.setattr(HookRegistry, "register", lambda *said: taken.append(said))
    monkeypatch.setattr(eplb_algorithms, "rebalance_experts", renamed)
    register()
    names = [target.rsplit(".")[-1] for target, _, _ in taken]
    assert names == ["compute_algorithm", "compute_initial_expert_location_metadata"]
    _, first, kind = taken[-1]
    assert kind is HookType.BEFORE
    with configured(eplb_algorithm="auto"):
        first(MODEL, moe_ep_rank=0)
    says = r"not installed, because eplb_algorithms.rebalance_experts takes \(counts, num_physical_"
    with configured(eplb_algorithm="evenload"), pytest.raises(RuntimeError, match=says):
        first(MODEL, moe_ep_rank=0)


def test_sglang_takes_the_name_on_its_command_line_but_not_for_elastic_ranks():
    from sglang.srt.arg_groups.parallel_hook import handle_elastic_ep
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    said = parser.parse_args(["--model-path", "dummy", "--eplb-algorithm", "evenload"])
    assert said.eplb_algorithm == "evenload"
    arguments = ServerArgs(
        model_path="dummy", enable_eplb=True, eplb_algorithm="evenload",
        elastic_ep_backend="mooncake",
    )  # fmt: skip
    with pytest.raises(AssertionError, match="elasticity_aware"):
        handle_elastic_ep(arguments)


@pytest.mark.parametrize("name", ["evenload", "evenload_hierarchical"])
def test_evenloads_names_plan(name):
    tokens = loads()
    with configured(eplb_algorithm=name):
        maps = call(tokens, name)
        again = call(tokens, name)
    check_maps(*maps)
    assert torch.equal(maps[0], again[0])
    own = call(tokens, "deepseek_hierarchical" if "hier" in name else "deepseek")
    assert balance(maps[0], tokens) >= balance(own[0], tokens) - 0.01
    if name == "evenload_hierarchical":
        node = np.arange(SLOTS) // (SLOTS // 2)
        for row in maps[0].numpy()[1:]:
            assert all(len(set(node[row // 4 == group])) == 1 for group in range(4))


@pytest.mark.parametrize("name", ["deepseek", "deepseek_hierarchical", "elasticity_aware"])
def test_sglangs_own_names_are_its_own(monkeypatch, name):
    from sglang.srt.eplb import eplb_algorithms

    Elastic(monkeypatch, [1] * RANKS)
    tokens = loads()
    algorithm = eplb_algorithms.EplbAlgorithm[name]
    assert eplb_algorithms.compute_algorithm(name, 4, 2) is algorithm
    with configured():
        ours = call(tokens, name)
        own = eplb_algorithms.rebalance_experts.__wrapped__(
            tokens, SLOTS, SLOTS // RANKS, 4, 2, algorithm
        )
    for mine, theirs in zip(ours, own, strict=True):
        assert torch.equal(mine, theirs)
    assert planner.cache_info().currsize == 0
    with pytest.raises(KeyError):
        eplb_algorithms.compute_algorithm("evenlode", 4, 2)


def test_a_rebalance_as_the_manager_does_it_moves_little(caplog):
    from sglang.srt.eplb import expert_location as location

    tokens = loads()
    with configured(eplb_algorithm="evenload"), caplog.at_level(logging.INFO):
        first = location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=0)
        assert planner.cache_info().currsize == 1
        location.set_global_expert_location_metadata(first)
        linear = first.physical_to_logical_map_cpu.clone()
        second = location.ExpertLocationMetadata.init_by_eplb(MODEL, tokens)
        first.update(second, list(range(1, LAYERS)))
        third = location.ExpertLocationMetadata.init_by_eplb(MODEL, loads(seed=0))
    assert torch.equal(first.physical_to_logical_map_cpu[0], linear[0])
    assert balance(second.physical_to_logical_map_cpu, tokens) > balance(linear, tokens)
    cluster = Cluster(RANKS, num_slots=SLOTS)
    before, after = (
        Placement(m.physical_to_logical_map_cpu, cluster, EXPERTS) for m in (second, third)
    )
    assert after.moves_from(before).sum() <= 4
    told = [r.getMessage() for r in caplog.records if r.name == "sglang.evenload"]
    assert "self-test passed" in told[0]
    assert len(told) == 3
    assert all("balancedness" in line and " ms" in line for line in told[1:])


def test_no_load_yet_keeps_what_sglang_started_with():
    from sglang.srt.eplb import expert_location as location

    with configured(eplb_algorithm="evenload"):
        first = location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=0)
        location.set_global_expert_location_metadata(first)
        second = location.ExpertLocationMetadata.init_by_eplb(MODEL, loads() * 0)
    assert torch.equal(first.physical_to_logical_map, second.physical_to_logical_map)


def test_another_algorithm_compiles_nothing():
    from sglang.srt.eplb import expert_location as location

    with configured(eplb_algorithm="auto"):
        location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=0)
    assert planner.cache_info().currsize == 0


def test_a_failed_self_test_takes_sglangs_own(monkeypatch, caplog):
    monkeypatch.setenv("EVENLOAD_SOLVER", "no-such-solver")
    tokens = loads()
    with configured(eplb_algorithm="evenload"), caplog.at_level(logging.INFO):
        maps = call(tokens, "evenload")
    own = call(tokens, "deepseek_hierarchical")  # SGLang's own "auto" here
    check_maps(*maps)
    assert torch.equal(maps[0], own[0])
    assert "no-such-solver" in caplog.text


@pytest.mark.parametrize("name", ["elasticity_aware", "elasticity_aware_hierarchical"])
def test_elastic_ranks_that_are_gone_hold_nothing_of_their_own(monkeypatch, name):
    from sglang.srt.eplb import expert_location as location

    monkeypatch.setenv("EVENLOAD_SGLANG_ELASTIC", "1")
    Elastic(monkeypatch, [1, 0, 1, 1, 0, 0])
    tokens = loads()
    with configured(eplb_algorithm=name, elastic_ep_backend="mooncake"):
        first = location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=0)
        location.set_global_expert_location_metadata(first)
        physical, logical, count = call(tokens, name)
    K = SLOTS // RANKS
    assert (physical[:, K : 2 * K] == 0).all()
    living = torch.cat([physical[:, :K], physical[:, 2 * K :]], dim=1)
    assert all(set(row.tolist()) == set(range(EXPERTS)) for row in living)
    assert (count.sum(1) == SLOTS - K).all()
    assert not ((logical >= K) & (logical < 2 * K)).any()
    slots = (logical >= 0).sum(2)
    assert torch.equal(slots, count)


def test_an_elastic_rank_whose_self_test_fails_takes_sglangs_own(monkeypatch):
    monkeypatch.setenv("EVENLOAD_SGLANG_ELASTIC", "1")
    monkeypatch.setenv("EVENLOAD_SOLVER", "no-such-solver")
    Elastic(monkeypatch, [1] * RANKS)
    tokens = loads()
    with configured(eplb_algorithm="elasticity_aware", elastic_ep_backend="mooncake"):
        ours = call(tokens, "elasticity_aware")
        monkeypatch.delenv("EVENLOAD_SGLANG_ELASTIC")
        own = call(tokens, "elasticity_aware")
    assert torch.equal(ours[0], own[0])
