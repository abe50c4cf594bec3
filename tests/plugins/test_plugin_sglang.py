"""What SGLang gets, without SGLang: its contract, on plain arrays and tensors."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_stubs import MOST_FUNCTIONS, functions_to_the_solver, put_module
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.plugins import planner, sglang
from evenload.plugins.planner import Planner
from evenload.plugins.settings import Settings
from evenload.plugins.sglang import as_tensors, check_peers, windows_of


@st.composite
def maps(draw):
    """Maps with every expert on a living rank, and -1 on the others."""
    ranks, per_rank = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    alive = draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    num_experts = draw(st.integers(1, sum(alive) * per_rank))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    placed = np.full((draw(st.integers(1, 4)), ranks * per_rank), -1)
    living = np.repeat(alive, per_rank)
    placed[:, living] = np.argsort(rng.random((len(placed), living.sum()))) % num_experts
    return placed, num_experts


@given(maps())
@settings(max_examples=60, deadline=None)
def test_the_three_maps_agree_and_no_replica_is_counted_on_ranks_that_are_gone(map_and_experts):
    placed, num_experts = map_and_experts
    physical, logical, count = as_tensors(placed, num_experts)
    assert {t.dtype for t in (physical, logical, count)} == {torch.int64}
    assert np.array_equal(physical, np.where(placed < 0, 0, placed))
    assert logical.shape == (len(placed), num_experts, count.max())
    for layer, row in enumerate(placed.tolist()):
        for expert in range(num_experts):
            slots = [s for s, e in enumerate(row) if e == expert]
            assert slots
            assert len(slots) == count[layer, expert]
            padded = slots + [-1] * (logical.shape[2] - len(slots))
            assert logical[layer, expert].tolist() == padded


def test_passes_are_added_up_in_windows_of_as_many_used_ones():
    tokens = torch.zeros(10, 2, 4, dtype=torch.int32)
    used = [1, 2, 5, 8]
    for step in used:
        tokens[step] = step
    windows = windows_of(tokens, 2)
    assert windows.dtype == np.int64
    assert windows[:, 0, 0].tolist() == [1 + 2, 5 + 8]
    assert windows_of(tokens, 16).shape == (4, 2, 4)
    assert np.array_equal(windows_of(tokens.double(), 2), windows)
    assert not windows_of(tokens * 0, 16).any()
    assert windows_of(tokens * 0, 16).shape == (1, 2, 4)
    big = torch.full((3, 1, 2), 2**31 - 1, dtype=torch.int32)
    assert windows_of(big, 1).tolist() == [[[3 * (2**31 - 1)] * 2]]
    with pytest.raises(ValueError, match="shape"):
        windows_of(tokens[0], 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_are_added_up_exactly(dtype):
    tokens = (torch.arange(600 * 2 * 4) % 129).reshape(600, 2, 4)
    assert np.array_equal(windows_of(tokens.to(dtype), 2), windows_of(tokens, 2))


class World:
    """An SGLang with one rank, or one among others that say something else."""

    def __init__(self, monkeypatch, current=None, others=(), compares=True, alive=None):
        self.said = []
        peers = SimpleNamespace(exchange=self.exchange, rank=0) if compares else None
        self.others = others
        monkeypatch.setattr(sglang, "running_map", lambda *_: current)
        monkeypatch.setattr(sglang, "living_ranks", lambda _: alive)
        monkeypatch.setattr(sglang, "dispatch_of_engine", lambda: "even")
        monkeypatch.setattr(sglang, "reach", lambda: peers)
        monkeypatch.setattr(sglang, "planner", lambda: Planner("SGLang", Settings()))

    def exchange(self, mine):
        """All say the same of what they remember; the others say what they were told to of maps."""
        if len(mine) != 48:
            return [mine] * (1 + len(self.others))
        self.said.append(mine)
        return [mine, *self.others]


def call(tokens, own=None, slots=24, groups=None, name="evenload"):
    algorithm = sglang.Algorithm(name, "SGLang's")
    return sglang.rebalance_experts(own, tokens, slots, 6, groups, 2, algorithm)


TOKENS = torch.tensor(np.random.default_rng(5).integers(1, 99, (5, 3, 16)), dtype=torch.int32)
LINEAR = np.tile(np.arange(24) % 16, (3, 1))


def test_a_rebalance_is_told_in_one_line(monkeypatch, caplog):
    World(monkeypatch, LINEAR)
    with caplog.at_level(logging.INFO, "sglang.evenload"):
        physical, _, count = call(TOKENS)
    assert physical.shape == (3, 24)
    assert count.sum().item() == 72
    (line,) = caplog.messages
    assert "balancedness 0." in line
    assert " -> " in line
    assert "moves" in line
    assert line.endswith("ms")


@pytest.mark.parametrize("current", [None, LINEAR[:, ::-1].copy()])
@pytest.mark.parametrize(
    "tokens", [TOKENS * 0, -TOKENS, TOKENS.double() * float("nan")], ids=["zero", "minus", "nan"]
)
def test_bad_loads_keep_the_map_that_runs(monkeypatch, caplog, tokens, current):
    World(monkeypatch, current)
    with caplog.at_level(logging.INFO, "sglang.evenload"):
        physical, _, _ = call(tokens)
    assert np.array_equal(physical, LINEAR if current is None else current)
    assert "the old map stays" in caplog.text


def test_ranks_that_differ_keep_the_map_that_runs(monkeypatch, caplog):
    World(monkeypatch, LINEAR, others=[b"x" * 48])
    physical, _, _ = call(TOKENS)
    assert np.array_equal(physical, LINEAR)
    assert "ranks have different loads or old maps" in caplog.text


def test_a_rank_that_cannot_plan_takes_sglangs_own(monkeypatch):
    World(monkeypatch, LINEAR)
    failed = Planner("SGLang", Settings(), failure="no kernels")
    monkeypatch.setattr(sglang, "planner", lambda: failed)
    asked = []
    own = torch.tensor(LINEAR[:, ::-1].copy(), dtype=torch.int32)
    physical, _, _ = call(TOKENS, lambda **said: asked.append(said["algorithm"]) or (own, 0, 0))
    assert np.array_equal(physical, own)
    assert asked == ["SGLang's"]


@pytest.mark.parametrize(
    ("module", "failing"), [(sglang, "windows_of"), (planner, "plan_map")], ids=str
)
def test_a_rank_that_fails_comes_to_the_comparison(monkeypatch, module, failing):
    world = World(monkeypatch, LINEAR, others=[b"y" * 48])

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(module, failing, fail)
    physical, _, _ = call(TOKENS)
    assert len(world.said) == 1
    assert np.array_equal(physical, LINEAR)


@pytest.mark.parametrize(
    ("module", "failing"), [(sglang, "windows_of"), (planner, "plan_map")], ids=str
)
def test_a_rank_that_fails_where_none_compares_stops(monkeypatch, module, failing):
    World(monkeypatch, LINEAR, compares=False)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(MemoryError):
        call(TOKENS)


def test_a_rank_that_is_gone_costs_the_others_no_slot(monkeypatch):
    World(monkeypatch, LINEAR, compares=False, alive=(True, False, True, True))
    physical, logical, count = call(TOKENS)
    assert (physical[:, 6:12] == 0).all()
    assert (count.sum(1) == 18).all()
    assert not ((logical >= 6) & (logical < 12)).any()
    World(monkeypatch, LINEAR, compares=False, alive=(True, False, False, True))
    with pytest.raises(ValueError, match="the 2 living of 4 GPUs have 12 slots for num_experts=16"):
        call(TOKENS)


def test_only_the_hierarchical_name_keeps_groups_on_their_nodes(monkeypatch):
    World(monkeypatch)
    node = np.arange(24) // 12

    def together(physical):
        return all(len(set(node[row // 4 == g])) == 1 for row in physical.numpy() for g in range(4))

    assert together(call(TOKENS, groups=4, name="evenload_hierarchical")[0])
    assert not together(call(TOKENS, groups=4)[0])


def test_slots_that_do_not_divide_over_the_ranks_are_refused(monkeypatch):
    World(monkeypatch)
    says = "num_physical_experts=23 is not a multiple of num_local_physical_experts=6; use 18 or 24"
    with pytest.raises(ValueError, match=says):
        call(TOKENS, slots=23)
    with pytest.raises(ValueError, match=r"shape \(3, 16\); use \[steps, layers, experts\]"):
        call(TOKENS[0])


def test_a_placement_planned_ahead_is_for_vllm(monkeypatch, caplog):
    monkeypatch.setattr(sglang, "compares", lambda: True)
    monkeypatch.setenv("EVENLOAD_PLACEMENT", "absent.json")
    found = sglang.planner.__wrapped__()
    assert "use SGLang's own --init-expert-location" in found.failure
    monkeypatch.setattr(sglang, "compares", lambda: False)
    with pytest.raises(RuntimeError, match="elastic ranks do not compare"):
        sglang.planner.__wrapped__()


def test_the_solver_is_near(monkeypatch):
    World(monkeypatch, LINEAR)
    names = functions_to_the_solver(monkeypatch, lambda: call(TOKENS))
    assert names[-1] == "rebalance_experts"
    assert len(names) <= MOST_FUNCTIONS, names


def test_other_names_pass_untouched(monkeypatch):
    calls = []

    def original(*args, **kwargs):
        calls.append((args, kwargs))
        return "SGLang's"

    assert sglang.compute_algorithm(original, "deepseek", 8, num_nodes=2) == "SGLang's"
    assert calls == [(("deepseek", 8), {"num_nodes": 2})]
    monkeypatch.delenv("EVENLOAD_SGLANG_ELASTIC", raising=False)
    assert sglang.compute_algorithm(original, "elasticity_aware", 8, 2) == "SGLang's"
    monkeypatch.setenv("EVENLOAD_SGLANG_ELASTIC", "1")
    taken = sglang.compute_algorithm(original, "elasticity_aware_hierarchical", 8, 2)
    assert taken == sglang.Algorithm("elasticity_aware_hierarchical", "SGLang's")
    assert taken.hierarchical
    ours = sglang.compute_algorithm(original, raw_algorithm="evenload", num_groups=8, num_nodes=2)
    assert ours == sglang.Algorithm("evenload", "SGLang's")
    assert not ours.hierarchical


# ---- what is found out before the first location -------------------------------------------------


def rebalance(tokens_per_expert, num_physical_experts, num_local_physical_experts, num_groups,
              num_nodes, algorithm):  # fmt: skip
    raise AssertionError


def renamed(counts, num_physical_experts, num_local_physical_experts, num_groups, num_nodes,
            algorithm):  # fmt: skip
    raise AssertionError


def compute(raw_algorithm, num_groups, num_nodes):
    return {"auto": "SGLang's"}[raw_algorithm]


def first_location(model_config, moe_ep_rank):
    return "location"


WELL = {"rebalance_experts": rebalance, "compute_algorithm": compute}
FIRST = {"compute_initial_expert_location_metadata": first_location}


def registered(monkeypatch, algorithms, location, asks_for="evenload"):
    """Register beside an SGLang with these functions; the hooks by function."""
    hooks = {}
    put_module(
        monkeypatch, "sglang.srt.plugins.hook_registry",
        HookRegistry=SimpleNamespace(
            register=lambda target, hook, kind: hooks.update({target.rsplit(".")[-1]: hook})
        ),
        HookType=SimpleNamespace(AROUND="around", BEFORE="before"),
    )  # fmt: skip
    put_module(monkeypatch, "sglang.srt.eplb.eplb_algorithms", **algorithms)
    put_module(monkeypatch, "sglang.srt.eplb.expert_location", **location)
    moe = SimpleNamespace(
        enable_eplb=True, eplb_algorithm=asks_for, elastic_ep_backend=None,
        ep_dispatch_algorithm=None,
    )  # fmt: skip
    put_module(
        monkeypatch, "sglang.srt.runtime_context",
        get_exec=lambda: SimpleNamespace(moe=moe), get_parallel=lambda: SimpleNamespace(nnodes=4),
    )  # fmt: skip
    sglang.register()
    return hooks


def test_three_functions_are_hooked(monkeypatch):
    assert registered(monkeypatch, WELL, FIRST) == {
        "compute_algorithm": sglang.compute_algorithm,
        "rebalance_experts": sglang.rebalance_experts,
        "compute_initial_expert_location_metadata": sglang.before_first_location,
    }


@pytest.mark.parametrize(
    ("algorithms", "says"),
    [
        (
            {**WELL, "rebalance_experts": renamed},
            r"eplb_algorithms.rebalance_experts takes \(counts, .*, and evenload hands on "
            r"\(tokens_per_expert, ",
        ),
        (
            {**WELL, "compute_algorithm": lambda name: name},
            r"compute_algorithm takes \(name\), and evenload hands on \(raw_algorithm\)",
        ),
        ({"compute_algorithm": compute}, "has no eplb_algorithms.rebalance_experts"),
    ],
)
def test_functions_of_other_arguments_are_found_before_serving(monkeypatch, algorithms, says):
    hooks = registered(monkeypatch, algorithms, FIRST)
    assert "rebalance_experts" not in hooks
    with pytest.raises(RuntimeError, match=f"not installed, because .*{says}.*use a release of"):
        hooks["compute_initial_expert_location_metadata"]("config", moe_ep_rank=0)
    hooks = registered(monkeypatch, algorithms, FIRST, asks_for="deepseek")
    assert hooks["compute_initial_expert_location_metadata"]("config", moe_ep_rank=0) is None


def test_where_nothing_can_refuse_to_start_sglangs_own_algorithm_plans(monkeypatch, caplog):
    hooks = registered(monkeypatch, WELL, {})
    assert list(hooks) == ["compute_algorithm"]
    assert hooks["compute_algorithm"](compute, "evenload", 8, num_nodes=2) == "SGLang's"
    says = "has no expert_location.compute_initial_expert_location_metadata"
    assert says in caplog.text


def test_a_rank_without_evenload_is_named_before_serving():
    store = torch.distributed.HashStore()
    for rank in range(24):
        store.set(f"evenload/start/{rank}", "1")
    with pytest.raises(RuntimeError) as caught:
        check_peers(store, 3, 32, 0.2, 4)
    assert str(caught.value).startswith(
        "within 0.2 s evenload did not start on 8 of 32 ranks (rank 24, 25, 26, 27, 28, 29, 30, "
        "31), which are on --node-rank 3; install evenload on every node"
    )
    for rank in range(24, 32):
        store.set(f"evenload/start/{rank}", "1")
    check_peers(store, 3, 32, 0.2, 4)
    check_peers(torch.distributed.HashStore(), 0, 1, 0.0)


def test_ranks_look_for_each_other_before_the_first_location(monkeypatch):
    hooks = registered(monkeypatch, WELL, FIRST)
    asked = []
    monkeypatch.setattr(sglang, "planner", lambda: Planner("SGLang", Settings(agree_timeout=7)))
    monkeypatch.setattr(sglang, "check_peers", lambda *said: asked.append(said))
    first = hooks["compute_initial_expert_location_metadata"]
    first("config", moe_ep_rank=0)
    assert asked == []  # no group: it is alone
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 32)
    c10d = torch.distributed.distributed_c10d
    monkeypatch.setattr(c10d, "_get_default_store", lambda: "store")
    first("config", moe_ep_rank=0)
    assert asked == [("store", 3, 32, 7, 4)]
