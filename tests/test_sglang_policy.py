"""What evenload answers SGLang, without SGLang: its contract, on plain arrays and tensors."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement, solve
from evenload.engines.common.options import default_options, read_options
from evenload.engines.common.settle import Settled
from evenload.engines.sglang.plugin import engine, hooks, policy, rebalance
from evenload.engines.sglang.plugin.policy import Question, answer
from evenload.engines.sglang.plugin.windows import windows_of

OPTIONS = default_options()


@st.composite
def questions(draw):
    ranks = draw(st.integers(2, 6))
    per_rank = draw(st.integers(1, 4))
    alive = draw(st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    num_experts = draw(st.integers(1, sum(alive) * per_rank))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, windows = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    load = rng.integers(0, 50, (windows, layers, num_experts))
    load *= rng.integers(0, 2, (1, layers, 1))  # some layers are dense
    current = None
    if draw(st.booleans()):
        current = np.argsort(rng.random((layers, ranks * per_rank))) % num_experts
    nodes = draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([1, 2])) if num_experts % 2 == 0 else 1
    given_alive = None if all(alive) and draw(st.booleans()) else tuple(alive)
    return Question(load, ranks * per_rank, per_rank, nodes, groups, current, given_alive)


@given(questions())
@settings(max_examples=60, deadline=None)
def test_every_expert_is_on_a_living_rank_and_the_three_maps_agree(question):
    before = None if question.current is None else question.current.copy()
    found = answer(question, OPTIONS)
    again = answer(question, OPTIONS)
    num_experts = question.windows.shape[2]
    physical, logical, count = rebalance.as_tensors(found.map, num_experts)
    assert found.map.tobytes() == again.map.tobytes()
    assert before is None or np.array_equal(before, question.current)
    assert {t.dtype for t in (physical, logical, count)} == {torch.int64}
    living = question.cluster.living_slot
    assert (found.map[:, ~living] == -1).all()
    assert (physical[:, torch.tensor(~living)] == 0).all()
    assert logical.shape[2] == count.max()
    for layer, row in enumerate(physical.tolist()):
        for expert in range(num_experts):
            slots = [s for s, e in enumerate(row) if e == expert and living[s]]
            assert slots
            assert len(slots) == count[layer, expert]
            padded = slots + [-1] * (logical.shape[2] - len(slots))
            assert logical[layer, expert].tolist() == padded


@given(questions())
@settings(max_examples=60, deadline=None)
def test_layers_without_load_keep_what_runs(question):
    found = answer(question, OPTIONS)
    idle = ~question.windows.any(axis=(0, 2))
    assert np.array_equal(found.map[idle], question.kept[idle])
    if question.current is not None and question.alive is None:
        assert np.array_equal(found.map[idle], question.current[idle])


@given(questions())
@settings(max_examples=60, deadline=None)
def test_an_expert_that_stays_on_its_rank_stays_in_its_slot(question):
    found = answer(question, OPTIONS)
    K = question.slots_per_rank
    if question.current is None:
        return
    for new, old in zip(found.map, question.current, strict=True):
        for rank in np.flatnonzero(question.cluster.alive):
            here = slice(rank * K, rank * K + K)
            for expert in set(new[here]) & set(old[here]):
                both = (new[here] == expert) & (old[here] == expert)
                stay = min((new[here] == expert).sum(), (old[here] == expert).sum())
                assert both.sum() == stay


def test_each_window_counts_as_its_tokens_say(monkeypatch):
    seen = []
    solve = policy.solve_problem
    monkeypatch.setattr(
        policy, "solve_problem", lambda problem, *a, **k: seen.append(problem) or solve(problem)
    )
    windows = np.array([[[9, 1, 2]], [[1, 1, 2]], [[2, 2, 0]]])
    answer(Question(windows, 4, 2), OPTIONS)
    (problem,) = seen
    assert problem.load.tolist() == [[12, 4, 4]]
    assert problem.sample_weight.tolist() == [0.6, 0.2, 0.2]
    assert problem.samples[2].tolist() == [[0.5, 0.5, 0.0]]


def test_a_plan_moves_little_once_it_is_good():
    rng = np.random.default_rng(1)
    windows = np.stack([rng.poisson(rng.pareto(1.5, (4, 32)) * 100 + 5)] * 4)
    first = answer(Question(windows, 40, 5), OPTIONS)
    assert np.isnan(first.before)
    again = answer(Question(windows, 40, 5, current=first.map), OPTIONS)
    assert again.moves <= 4
    assert again.after >= again.before - 0.01
    linear = np.tile(np.arange(40) % 32, (4, 1))
    moved = answer(Question(windows, 40, 5, current=linear), OPTIONS)
    assert moved.after > moved.before
    place = Placement(moved.map, Cluster(8, slots_per_gpu=5), 32)
    old = Placement(linear, Cluster(8, slots_per_gpu=5), 32)
    assert moved.moves == place.moves_from(old).sum()


def test_groups_stay_on_their_nodes():
    windows = np.random.default_rng(2).integers(1, 99, (3, 2, 16))
    found = answer(Question(windows, 24, 6, 2, 4), OPTIONS)
    node = np.arange(24) // 12
    for row in found.map:
        assert all(len(set(node[row // 4 == group])) == 1 for group in range(4))


def test_a_dead_rank_costs_the_others_no_slot():
    windows = np.random.default_rng(3).integers(1, 99, (2, 2, 16))
    linear = np.tile(np.arange(24) % 16, (2, 1))
    found = answer(Question(windows, 24, 6, 1, 1, linear, (True, False, True, True)), OPTIONS)
    assert (found.map[:, 6:12] == -1).all()
    assert (found.map[:, 12:] >= 0).all()
    with pytest.raises(ValueError, match="the 2 living of 4 GPUs have 12 slots for num_experts=16"):
        Question(windows, 24, 6, 1, 1, linear, (True, False, False, True))


def test_options_reach_the_solver_and_limits_wait_for_a_map():
    windows = np.random.default_rng(4).integers(1, 99, (2, 2, 16))
    linear = np.tile(np.arange(24) % 16, (2, 1))
    none = read_options({"EVENLOAD_MAX_TOTAL_MOVES": "0"})
    assert answer(Question(windows, 24, 6, current=linear), none).moves == 0
    assert answer(Question(windows, 24, 6), none).after > 0.9
    greedy = read_options({"EVENLOAD_SOLVER": "greedy"})
    found = answer(Question(windows, 24, 6, current=linear), greedy)
    plan = solve(windows.sum(axis=0), Cluster(4, slots_per_gpu=6), solver="greedy")
    assert found.after == plan.balancedness.mean()


def test_passes_are_added_up_in_windows_of_as_many_used_ones():
    tokens = torch.zeros(10, 2, 4, dtype=torch.int32)
    used = [1, 2, 5, 8]
    for step in used:
        tokens[step] = step
    windows = windows_of(tokens, 2)
    assert windows.dtype == np.int64
    assert windows[:, 0, 0].tolist() == [1 + 2, 5 + 8]
    assert windows_of(tokens).shape == (4, 2, 4)
    assert np.array_equal(windows_of(tokens.double(), 2), windows)
    assert not windows_of(tokens * 0).any()
    assert windows_of(tokens * 0).shape == (1, 2, 4)
    big = torch.full((3, 1, 2), 2**31 - 1, dtype=torch.int32)
    assert windows_of(big, 1).tolist() == [[[3 * (2**31 - 1)] * 2]]
    with pytest.raises(ValueError, match="shape"):
        windows_of(tokens[0])


class World:
    """An SGLang with one rank, or one among others that say something else."""

    def __init__(self, monkeypatch, current=None, others=(), compares=True):
        monkeypatch.setattr(engine, "running_map", lambda *_: current)
        monkeypatch.setattr(engine, "living_ranks", lambda _: None)
        monkeypatch.setattr(engine, "compares", lambda: compares)
        monkeypatch.setattr(engine, "gather", lambda said: [said, *others])
        monkeypatch.setattr(engine, "is_first", lambda: True)
        monkeypatch.setattr(rebalance, "readiness", lambda: Settled(OPTIONS))


def call(tokens, own=None):
    return rebalance.Call(tokens, 24, 6, 1, 1, own)


TOKENS = torch.tensor(np.random.default_rng(5).integers(1, 99, (5, 3, 16)), dtype=torch.int32)
LINEAR = np.tile(np.arange(24) % 16, (3, 1))


def test_a_rebalance_is_told_in_one_line(monkeypatch, caplog):
    World(monkeypatch, LINEAR)
    with caplog.at_level(logging.INFO, "sglang.evenload"):
        physical, _, count = rebalance.rebalance(call(TOKENS))
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
        physical, _, _ = rebalance.rebalance(call(tokens))
    assert np.array_equal(physical, LINEAR if current is None else current)
    assert "the old map stays" in caplog.text


def test_ranks_that_differ_keep_the_map_that_runs(monkeypatch, caplog):
    World(monkeypatch, LINEAR, others=[b"x" * 48])
    physical, _, _ = rebalance.rebalance(call(TOKENS))
    assert np.array_equal(physical, LINEAR)
    assert "ranks have different loads or old maps" in caplog.text


def test_a_rank_that_cannot_plan_takes_sglangs_own(monkeypatch):
    World(monkeypatch, LINEAR)
    monkeypatch.setattr(rebalance, "readiness", lambda: Settled(OPTIONS, "no kernels"))
    own = torch.tensor(LINEAR[:, ::-1].copy(), dtype=torch.int32)
    physical, _, _ = rebalance.rebalance(call(TOKENS, lambda: (own, None, None)))
    assert np.array_equal(physical, own)


@pytest.mark.parametrize("failing", ["windows_of", "answer"])
def test_a_rank_that_fails_comes_to_the_comparison(monkeypatch, failing):
    said = []
    World(monkeypatch, LINEAR)
    monkeypatch.setattr(engine, "gather", lambda mine: said.append(mine) or [mine, b"y" * 48])

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(rebalance, failing, fail)
    physical, _, _ = rebalance.rebalance(call(TOKENS))
    assert len(said) == 1
    assert np.array_equal(physical, LINEAR)


def test_a_rank_that_fails_where_none_compares_stops(monkeypatch):
    World(monkeypatch, LINEAR, compares=False)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(rebalance, "answer", fail)
    with pytest.raises(MemoryError):
        rebalance.rebalance(call(TOKENS))


def test_other_names_pass_untouched(monkeypatch):
    calls = []

    def original(*args, **kwargs):
        calls.append((args, kwargs))
        return "SGLang's"

    assert hooks.compute_algorithm(original, "deepseek", 8, num_nodes=2) == "SGLang's"
    assert calls == [(("deepseek", 8), {"num_nodes": 2})]
    monkeypatch.delenv("EVENLOAD_SGLANG_ELASTIC", raising=False)
    assert hooks.compute_algorithm(original, "elasticity_aware", 8, 2) == "SGLang's"
    monkeypatch.setenv("EVENLOAD_SGLANG_ELASTIC", "1")
    taken = hooks.compute_algorithm(original, "elasticity_aware_hierarchical", 8, 2)
    assert taken == hooks.Algorithm("elasticity_aware_hierarchical", True, "SGLang's")
    ours = hooks.compute_algorithm(original, raw_algorithm="evenload", num_groups=8, num_nodes=2)
    assert ours == hooks.Algorithm("evenload", False, "SGLang's")


def test_what_every_process_of_sglang_imports_is_light():
    script = "import sys, evenload.engines.sglang.plugin.hooks as h; " + (
        "h.compute_algorithm(lambda *_: None, 'deepseek', None, 1); "
        "sys.exit(any(m in sys.modules for m in ('numba', 'numpy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
