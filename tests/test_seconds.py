"""What placements take in seconds, against sums over all that may happen and every placement."""

from __future__ import annotations

import re
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from every_placement import every_placement, small_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, CostModel, Placement, solve
from evenload.cost import ExpertTime, TimeTable
from evenload.phases import Phase
from evenload.problem import Problem
from evenload.seconds import (
    gpu_seconds,
    layer_seconds,
    least_seconds,
    replica_seconds,
    tokens_per_second,
    undivided_seconds,
)

BENT = ExpertTime([(1, 3.0), (4, 3.5), (10, 9.0)])
ROOF = ExpertTime([(1, 3.0), (100, 3.0), (200, 6.0)])
STEEP = ExpertTime([(0, 0), (4, 1), (8, 9), (9, 9.1)])  # replicas save time, up to some number
CURVES = (BENT, ROOF, STEEP)


def mean_time(curve, batch, p, parts):
    """The mean time of replicas, over all numbers of tokens; `parts` divides those among them."""
    total = 0.0
    for n in range(batch + 1):
        chance = comb(batch, n) * p**n * (1 - p) ** (batch - n)
        total += chance * sum(float(curve.seconds(part)) for part in parts(n))
    return total


def evenly(replicas):
    return lambda n: [n // replicas + (i < n % replicas) for i in range(replicas)]


def slow_seconds(placement, load, curve, batch, top_k):
    """Seconds of each GPU: replicas share whole tokens evenly, and take turns at what is left."""
    cluster = placement.cluster
    found = np.zeros((placement.num_layers, cluster.num_gpus))
    for layer, row in enumerate(np.asarray(placement.physical_to_logical)):
        for slot, e in enumerate(row):
            if e < 0:
                continue
            count = int((row == e).sum())
            p = min(1.0, top_k * load[layer, e] / load[layer].sum())
            gpu = int(cluster.gpu_of_slot[slot])
            time = mean_time(curve, batch, p, evenly(count)) / count
            found[layer, gpu] += time / cluster.capacity[gpu]
    return found


def random_placement(rng, layers, experts, cluster):
    rows = np.full((layers, cluster.num_slots), -1)
    n = cluster.num_living_slots
    for row in rows:
        every = np.concatenate([np.arange(experts), rng.integers(0, experts, n - experts)])
        row[cluster.living_slot] = rng.permutation(every)
    return Placement(rows, cluster, experts)


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_seconds_are_the_mean_over_all_batches(seed) -> None:
    rng = np.random.default_rng(seed)
    (slots, speed, alive, nodes), experts, _ = small_cluster(rng, 1e9)
    cluster = Cluster(len(slots), nodes, slots=slots, speed=speed, alive=alive)
    placement = random_placement(rng, 2, experts, cluster)
    load = rng.integers(0, 30, (2, experts)) + 1.0
    how = {"tokens_per_batch": int(rng.integers(1, 12)), "top_k": int(rng.integers(1, experts + 1))}
    for curve in CURVES:
        slow = slow_seconds(placement, load, curve, *how.values())
        fast = gpu_seconds(placement, load, curve, **how)
        np.testing.assert_allclose(fast, slow, rtol=1e-3)
        assert layer_seconds(placement, load, curve, **how).tolist() == fast.max(axis=1).tolist()


def test_seconds_are_what_drawn_batches_take() -> None:
    rng = np.random.default_rng(0)
    cluster = Cluster(2, slots_per_gpu=4)
    placement = Placement([[0, 1, 2, 3, 0, 4, 5, 0]], cluster, 6)
    load, batch, top_k = rng.lognormal(2.0, 0.5, (1, 6)), 40, 2
    drawn = rng.binomial(batch, top_k * load[0] / load.sum(), (20_000, 6))
    count = np.asarray(placement.replica_count)[0]
    each = np.stack([
        np.mean([ROOF.seconds((drawn[:, e] + i) // count[e]) for i in range(count[e])], axis=0)
        for e in range(6)
    ])  # fmt: skip
    gpus = np.asarray(placement.physical_to_logical).reshape(2, 4)
    sampled = np.stack([each[held].sum(axis=0) for held in gpus], axis=1)
    wrong = 5 * sampled.std(axis=0) / np.sqrt(len(sampled))
    found = gpu_seconds(placement, load, ROOF, tokens_per_batch=batch, top_k=top_k)[0]
    assert (abs(sampled.mean(axis=0) - found) < wrong + 1e-3 * found).all()


def test_a_replica_that_a_live_split_leaves_idle_takes_no_time() -> None:
    """Expert 0 on both GPUs, of which the first has all it can do."""
    placement = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
    how = {"tokens_per_batch": 6, "top_k": 1}
    live = gpu_seconds(placement, [[4, 2, 6]], BENT, dispatch="live", **how)[0]
    p = np.array([4, 2, 6]) / 12
    alone = [mean_time(BENT, 6, x, lambda n: [n]) for x in p]
    np.testing.assert_allclose(live, [alone[0] + alone[1], alone[2]], rtol=1e-3)
    even = gpu_seconds(placement, [[4, 2, 6]], BENT, **how)[0]
    assert even.sum() > live.sum()


@pytest.mark.parametrize("dispatch", ["nearest", "static", "copy"])
def test_what_seconds_are_not_known_for(dispatch) -> None:
    message = f"^dispatch='{dispatch}' is beyond expert_time; use dispatch 'even' or 'live', or"
    with pytest.raises(ValueError, match=message):
        solve([[1, 2]], Cluster(2, slots_per_gpu=1), dispatch=dispatch, expert_time=ROOF,
              tokens_per_batch=4)  # fmt: skip
    if dispatch != "copy":
        placement = Placement([[0, 1]], Cluster(2, slots_per_gpu=1), 2)
        with pytest.raises(ValueError, match=message):
            gpu_seconds(placement, [[1, 2]], ROOF, tokens_per_batch=4, dispatch=dispatch)


@pytest.mark.parametrize("solver", ["greedy", "iterated-greedy", "local-search", "joint"])
def test_solvers_that_count_tokens(solver) -> None:
    how = {"tokens_per_batch": 4, "solver": solver}
    cluster = Cluster(2, slots_per_gpu=2)
    message = f"expert_time is beyond solver '{solver}'; use solver 'incremental', 'exact' or 'au"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        solve([[1, 2]], cluster, expert_time=ROOF, **how)
    plan = solve([[1, 2]], cluster, expert_time=ExpertTime.linear(1e6), **how)
    assert plan.seconds is not None
    assert plan.solver == solver


# --- bounds and the exact solver, against every placement --------------------------------------


def best_seconds(problem, placements):
    """The least time of the slowest GPU over placements [n, G, E], for each layer."""
    count = placements.sum(axis=1)
    phase = problem.phases[0]
    table = TimeTable.build([problem.expert_time], phase.tokens_per_batch, int(count.max()))
    ticks = table.of(phase.load, top_k=problem.top_k)[0]
    speed = problem.cluster.capacity[list(problem.cluster.living_gpus)]
    best = []
    for layer in range(problem.num_layers):
        each = ticks[count - 1, layer, np.arange(problem.num_experts)] / count
        time = (placements * each[:, None, :]).sum(axis=2) / speed
        best.append(time.max(axis=1).min() * table.seconds_per_tick)
    return np.array(best)


def small_problem(rng, most_ways):
    (slots, speed, alive, nodes), experts, groups = small_cluster(rng, most_ways)
    cluster = Cluster(len(slots), nodes, slots=slots, speed=speed, alive=alive)
    load = rng.integers(0, 30, (2, experts)) + float(rng.random() < 0.5)
    load[:, 0] += 1
    how = {"tokens_per_batch": int(rng.choice([1, 2, 5, 16, 64, 300]))}
    how |= {"top_k": int(rng.integers(1, experts + 1)), "num_groups": groups}
    how |= {"expert_time": CURVES[rng.integers(len(CURVES))]}
    return load, cluster, how


@pytest.mark.parametrize("seed", range(4))
def test_bounds_are_below_every_placement(seed) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(25):
        load, cluster, how = small_problem(rng, 20_000)
        problem = Problem.build(load, cluster, **how)
        groups = problem.num_groups if problem.hierarchical else 1
        best = best_seconds(problem, every_placement(cluster, problem.num_experts, groups))
        assert (least_seconds(problem) <= best).all(), (load, cluster, how)
        plan = solve(load, cluster, effort=200, **how)
        assert (plan.seconds >= best * (1 - 1e-9)).all()
        assert (plan.seconds_bound <= best).all()


@pytest.mark.parametrize("seed", range(2))
def test_exact_is_the_best_of_every_placement(seed) -> None:
    pytest.importorskip("ortools")
    rng = np.random.default_rng(seed)
    for _ in range(12):
        load, cluster, how = small_problem(rng, 4000)
        plan = solve(load, cluster, solver="exact", **how)
        problem = plan.problem
        groups = problem.num_groups if problem.hierarchical else 1
        shape = cluster, problem.num_experts, groups
        np.testing.assert_allclose(
            plan.seconds, best_seconds(problem, every_placement(*shape, True)), rtol=1e-6
        )
        of_all = best_seconds(problem, every_placement(*shape))
        assert (plan.seconds_bound <= of_all * (1 + 1e-9)).all()
        assert (plan.balancedness <= plan.bound + 1e-12).all()


def test_live_bound_is_below_live_plans() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        load, cluster, how = small_problem(rng, 1e9)
        plan = solve(load, cluster, dispatch="live", effort=100, **how)
        assert (plan.seconds_bound <= plan.seconds).all(), (load, cluster, how)


def test_slots_that_have_to_be_filled_are_counted() -> None:
    """All experts are active in each batch: another replica of any is another reading."""
    load, how = np.ones((1, 8)), {"tokens_per_batch": 400, "top_k": 8}
    flat = ExpertTime([(1, 1.0), (1000, 1.0), (2000, 2.0)])
    none = Problem.build(load, Cluster(4, slots_per_gpu=2), expert_time=flat, **how)
    some = Problem.build(load, Cluster(4, slots_per_gpu=3), expert_time=flat, **how)
    assert least_seconds(none) == pytest.approx([2.0])
    assert least_seconds(some) == pytest.approx([3.0])
    assert undivided_seconds(some) == pytest.approx([8.0])


# --- phases, and the price of a move -----------------------------------------------------------


def test_phases_count_by_their_weight_and_seconds() -> None:
    rng = np.random.default_rng(3)
    cluster = Cluster(4, slots_per_gpu=5)
    loads = rng.lognormal(0.0, 1.0, (2, 3, 16))
    problem = Problem.build(loads[0], cluster, expert_time=ROOF, tokens_per_batch=16, top_k=2)
    phases = (Phase("decode", loads[0], 0.75, 16), Phase("prefill", loads[1], 0.25, 2048))
    share = loads / loads.sum(axis=2, keepdims=True)
    problem = replace(problem, phases=phases, samples=share, sample_weight=np.array([0.75, 0.25]),
                      sample_phase=np.array([0, 1]))  # fmt: skip
    from evenload.planner import solve_problem

    plan = solve_problem(problem)
    assert list(plan.phase_seconds) == ["decode", "prefill"]
    for phase in phases:
        how = {"tokens_per_batch": phase.tokens_per_batch, "top_k": 2}
        seconds = layer_seconds(plan.placement, phase.load, ROOF, **how)
        assert plan.phase_seconds[phase.name].tolist() == seconds.tolist()
        alone = solve(phase.load, cluster, expert_time=ROOF, **how)
        other = replace(plan, placement=alone.placement)
        assert plan.seconds.sum() <= other.seconds.sum() * (1 + 1e-6)
    mean = 0.75 * plan.phase_seconds["decode"] + 0.25 * plan.phase_seconds["prefill"]
    np.testing.assert_allclose(plan.seconds, mean)
    assert (plan.seconds_bound <= plan.seconds).all()
    with pytest.raises(
        ValueError, match=r"^solver='exact' plans for one load, and there are several phases"
    ):
        solve_problem(problem, "exact")


def test_a_move_is_priced_in_the_seconds_of_the_batches_served() -> None:
    rng = np.random.default_rng(1)
    load, cluster = rng.lognormal(5.0, 0.4, (2, 16)), Cluster(4, slots_per_gpu=5)
    batches = {"tokens_per_batch": 64, "top_k": 4}
    line = Problem.build(load, cluster, expert_time=ExpertTime.linear(1e6), **batches)
    assert tokens_per_second(line) == pytest.approx(1e6)
    timed = Problem.build(load, cluster, expert_time=ROOF, **batches)
    whole = undivided_seconds(timed).mean()
    assert tokens_per_second(timed) == pytest.approx(256 / whole)
    runs = Placement.trivial(2, 16, cluster)
    cost = CostModel(1e6, 4e6, 450e9, 50e9, latency=1e-9)
    how = {"current": runs, "expert_time": ROOF, **batches}
    plan = solve(load, cluster, cost=cost, **how)
    price = replace(cost, tokens_per_second=256 / whole).move_cost(load, cluster)
    same = solve(load, cluster, move_cost=price, **how)
    assert plan.placement == same.placement
    none = solve(load, cluster, cost=cost, max_transfer_seconds=0.0, **how)
    assert none.placement == runs
    some = solve(load, cluster, cost=cost, max_transfer_seconds=4e-5, **how)
    assert cost.schedule(runs, some.placement).seconds <= 4e-5
    assert plan.seconds.sum() <= some.seconds.sum() <= none.seconds.sum()


def test_replica_seconds_are_the_tables() -> None:
    problem = Problem.build([[3.0, 1.0]], Cluster(2, slots_per_gpu=2), expert_time=BENT,
                            tokens_per_batch=5)  # fmt: skip
    found = replica_seconds(problem, 3)[0]
    for e, p in enumerate((0.75, 0.25)):
        slow = [mean_time(BENT, 5, p, evenly(r)) / r for r in (1, 2, 3)]
        np.testing.assert_allclose(found[e], slow, rtol=1e-3)


@pytest.mark.parametrize("dispatch", ["even", "live"])
def test_tensors_come_back_as_tensors(dispatch) -> None:
    torch = pytest.importorskip("torch")
    load = torch.tensor([[4.0, 2.0, 6.0], [1.0, 5.0, 3.0]])
    how = {"expert_time": ROOF, "tokens_per_batch": 8, "dispatch": dispatch}
    cluster = Cluster(2, slots_per_gpu=2)
    plan, plain = solve(load, cluster, **how), solve(load.numpy(), cluster, **how)
    for name in ("seconds", "seconds_bound"):
        assert isinstance(getattr(plan, name), torch.Tensor)
        assert getattr(plan, name).tolist() == getattr(plain, name).tolist()
    for measure in (gpu_seconds, layer_seconds):
        found = measure(plan.placement, load, **how)
        assert isinstance(found, torch.Tensor)
        assert found.tolist() == measure(plain.placement, load.numpy(), **how).tolist()
