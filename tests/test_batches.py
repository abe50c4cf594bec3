"""Drawn batches, and what one replica of each active expert comes to: against slow twins."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from every_placement import every_placement
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement, solve
from evenload.batches import draw, drawn_work, judge, judge_batches
from evenload.bounds import balancedness_bound
from evenload.cost import ExpertTime
from evenload.problem import Problem

READING = ExpertTime([(1, 3e-6), (8, 3e-6), (16, 6e-6)])
CLUSTER = Cluster(4, slots_per_gpu=3)


def problem(load, cluster=CLUSTER, batch=16, top_k=2, **how):
    how = {"dispatch": "one", "tokens_per_batch": batch, "top_k": top_k} | how
    return Problem.build(load, cluster, **how)


def some_load(seed, L=2, E=10):
    return np.random.default_rng(seed).lognormal(0.0, 1.0, (L, E))


# ---- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 16, 300])
def test_draws_follow_the_binomial_distribution(batch):
    load = some_load(0)
    counts, tokens = draw(problem(load, batch=batch), 512, 1)
    assert (tokens == batch).all()
    chance = np.minimum(load / load.sum(axis=1, keepdims=True) * 2, 1.0)
    np.testing.assert_allclose(counts.mean(axis=0), batch * chance, rtol=0.03, atol=0.02)
    for n in (0, 1, 2):
        p = math.comb(batch, n) * chance**n * (1 - chance) ** (batch - n)
        np.testing.assert_allclose((counts == n).mean(axis=0), p, atol=0.01)


def test_draws_depend_on_neither_scale_nor_names_nor_layers():
    load = some_load(1, L=3)
    counts, _ = draw(problem(load), 32, 1)
    np.testing.assert_array_equal(draw(problem(load * 3e7), 32, 1)[0], counts)
    names = np.random.default_rng(0).permutation(load.shape[1])
    np.testing.assert_array_equal(draw(problem(load[:, names]), 32, 1)[0], counts[:, :, names])
    np.testing.assert_array_equal(draw(problem(load[1:2]), 32, 1)[0], counts[:, 1:2])
    assert (draw(problem(load), 32, 2)[0] != counts).any()


def test_windows_are_drawn_from_in_proportion_to_their_weight():
    first, second = np.eye(4)[:1], np.eye(4)[1:2]
    samples = np.stack([first, second])
    given = replace(
        problem(first + second, top_k=1), samples=samples, sample_weight=np.array([3.0, 1.0])
    )
    counts, _ = draw(given, 32, 1)
    assert ((counts[:, 0, 0] == 16).sum(), (counts[:, 0, 1] == 16).sum()) == (24, 8)


def test_a_layer_without_load_and_a_sure_expert():
    load = np.array([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    counts, _ = draw(problem(load, Cluster(3, slots_per_gpu=1), top_k=1), 64, 1)
    np.testing.assert_allclose(counts[:, 0].mean(axis=0), 16 / 3, rtol=0.05)
    np.testing.assert_array_equal(counts[:, 1], np.tile([16, 0, 0], (64, 1)))


# ---- what a placement is worth -------------------------------------------------------------------


def judged_slowly(place, counts, time):
    """Try every choice of replicas, batch by batch; by number of active experts."""
    unit = 1.0 if time is None else float(time.seconds(16)) / 2**40
    worst = np.zeros((len(counts), place.num_layers))
    gpu_of = place.cluster.gpu_of_slot
    for b, layer in itertools.product(range(len(counts)), range(place.num_layers)):
        count = counts[b, layer]
        busy = np.flatnonzero(count)
        work = np.ones(len(busy)) if time is None else np.rint(time.seconds(count[busy]) / unit)
        slots = [place.logical_to_physical[layer, e, : place.replica_count[layer, e]] for e in busy]
        best = np.inf
        for chosen in itertools.product(*slots):
            load = np.bincount(gpu_of[list(chosen)], work, 4) if chosen else np.zeros(4)
            best = min(best, load.max())
        worst[b, layer] = best
    return worst.mean(axis=0)


@pytest.mark.parametrize("time", [None, READING])
def test_a_plan_is_judged_as_every_choice_tells(time):
    load = some_load(2, L=2, E=9)
    given = problem(load, expert_time=time)
    place = solve(load, CLUSTER).placement
    counts, _ = draw(given, 8, 3)
    found = judge_batches(place, counts, time, 16)
    slow = judged_slowly(place, counts, time)
    if time is None:
        np.testing.assert_array_equal(found.latest, slow)
        np.testing.assert_array_equal(found.active, slow)
        assert found.seconds is None
    else:  # not exact, and never better
        assert (found.latest >= slow - 0.5).all()
        assert (found.latest <= slow * 1.05).all()
        np.testing.assert_allclose(found.seconds, found.latest * float(time.seconds(16)) / 2**40)
        assert (found.seconds >= found.seconds_bound).all()
    assert (found.active >= found.active_bound).all()
    np.testing.assert_allclose(found.gpu_load.sum(axis=1), counts.sum(axis=2).mean(axis=0))


@pytest.mark.parametrize("speed", [None, [1.0, 2.0]])
@pytest.mark.parametrize("time", [None, READING])
def test_no_placement_beats_the_bound(time, speed):
    cluster = Cluster(2, slots_per_gpu=3, speed=speed)
    load = np.array([[5.0, 1.0, 3.0, 2.0]])
    given = problem(load, cluster, batch=4, top_k=1, expert_time=time)
    bound = balancedness_bound(given)
    for held in every_placement(cluster, 4):
        row = [np.repeat(np.arange(4), of_gpu) for of_gpu in held]
        if (held.sum(axis=0) == 0).any():
            continue
        found = judge(given, Placement([np.concatenate(row)], cluster, 4))
        assert (found.balancedness <= bound + 1e-12).all()
        assert (found.latest >= found.earliest - 1e-9).all()


# ---- plans --------------------------------------------------------------------------------------


def one(load, cluster=CLUSTER, **how):
    return solve(load, cluster, **{"dispatch": "one", "tokens_per_batch": 16, "top_k": 2} | how)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_plans_are_legal_and_not_above_the_bound(seed, timed):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 5))
    alive = rng.random(G) < 0.8
    alive[0] = True
    speed = rng.integers(1, 4, G) if rng.random() < 0.3 else None
    cluster = Cluster(G, slots_per_gpu=3, alive=alive.tolist(), speed=speed)
    load = rng.lognormal(0.0, 1.0, (2, int(rng.integers(2, cluster.num_living_slots + 1))))
    plan = one(load, cluster, expert_time=READING if timed else None, effort=200)
    assert plan.solver == "incremental"
    assert (plan.balancedness <= plan.bound + 1e-12).all()
    assert (plan.active >= plan.active_bound - 1e-12).all()
    again = one(load * 7.0, cluster, expert_time=READING if timed else None, effort=200)
    assert again.placement == plan.placement
    assert again.active.tolist() == plan.active.tolist()


def test_a_plan_for_one_replica_has_fewer_active_experts_than_one_by_tokens():
    load = some_load(3, L=6, E=32)
    cluster = Cluster(8, num_slots=40)
    plan = one(load, cluster, top_k=4)
    by_tokens = judge(plan.problem, solve(load, cluster).placement)
    in_order = judge(plan.problem, Placement.trivial(6, 32, Cluster(8, num_slots=32)))
    assert plan.active.mean() < by_tokens.active.mean()
    assert plan.active.mean() < in_order.active.mean()
    assert f"active experts  mean {plan.active.mean():.2f} on the fullest GPU" in plan.summary()


def test_traces_what_runs_groups_and_losses_go_with_it():
    rng = np.random.default_rng(0)
    trace = rng.lognormal(0.0, 1.0, (5, 2, 12))
    cluster = Cluster(4, 2, slots_per_gpu=6)
    first = one(trace[0], cluster, effort=500)
    then = one(trace, cluster, current=first.placement, max_moves=2, effort=500)
    assert then.moves.max() <= 2
    assert one(trace, cluster, current=first.placement, max_moves=0).placement == first.placement
    kept = one(trace[0], cluster, num_groups=4, topology="strict", effort=500)
    node = cluster.node_of_gpu[cluster.gpu_of_slot]
    for row in kept.placement.physical_to_logical:
        assert all(len({int(n) for n in node[row // 3 == group]}) == 1 for group in range(4))
    assert one(trace[0], cluster, survive="gpu", effort=500).placement.survives("gpu")


def test_threads_change_nothing(monkeypatch):
    load = some_load(4, L=8, E=32)
    cluster = Cluster(8, num_slots=40)
    plans = []
    for threads in (1, 3):
        monkeypatch.setattr("evenload.threads.num_threads", lambda n=threads: n)
        plans.append(one(load, cluster, top_k=4, expert_time=READING, effort=500))
    assert plans[0].placement == plans[1].placement
    assert plans[0].one.seconds.tobytes() == plans[1].one.seconds.tobytes()


def test_tensors_give_tensors():
    torch = pytest.importorskip("torch")
    plan = one(torch.tensor(some_load(0)), effort=100)
    assert plan.active.dtype == torch.float64
    assert plan.active_bound.shape == (2,)


def test_other_dispatches_have_no_active_experts():
    plan = solve(some_load(0), CLUSTER)
    assert plan.one is plan.active is plan.active_bound is None
    assert "active" not in plan.summary()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tokens_per_batch": None}, "dispatch='one' needs to know what a batch has"),
        ({"tokens_per_batch": 0}, "tokens_per_batch=0"),
        ({"top_k": 11}, "top_k=11"),
        ({"solver": "joint"}, "dispatch='one' is beyond solver 'joint'"),
        ({"topology": "prefer", "num_groups": 2}, "topology='prefer' is beyond dispatch='one'"),
        ({"live_share": 0.5}, "live_share=0.5 is for dispatch 'live'"),
        ({"tokens_from": [1, 1, 1, 1]}, "tokens_from is for dispatch 'nearest' or 'static'"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(how, message):
    with pytest.raises(ValueError, match=message):
        one(some_load(0), **how)


def test_a_load_alone_does_not_say_what_replicas_get():
    place = Placement.trivial(2, 10, CLUSTER)
    with pytest.raises(ValueError, match="dispatch='one'"):
        place.gpu_load(some_load(0), dispatch="one")


def test_what_a_search_is_given():
    given = problem(some_load(0))
    work, weight = drawn_work(given, 32)
    assert set(np.unique(work)) == {0.0, 1.0}
    np.testing.assert_array_equal(weight, work.sum(axis=(1, 2)))
