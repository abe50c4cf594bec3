"""Disturb, descend, and keep the best: a search may try anything, and never ends worse."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layer import Layer, gpus, random_layer

from evenload.core.grid import SEED
from evenload.core.place import LOG_ROWS

WITHOUT_END = 10**9
seeds = st.integers(0, 2**32)


def layers(rng, least_gpus=2):
    while True:
        layer = random_layer(rng, most_slots=6)
        if layer.gpu.shape[1] >= least_gpus:
            return layer


def search(layer, trials, most_pairs=WITHOUT_END, counts=True, goal=0, price=0.0):
    """What the best costs, by its own word; the state ends as the best."""
    placed = np.full(len(layer.placed), -1)
    layer.scratch.random[0] = SEED
    cost = layer.run(
        "search", layer.mean, goal, trials, most_pairs, counts,
        log=layer.scratch.log, placed=placed, price=price,
    )[0]  # fmt: skip
    layer.check()
    layer.fill(placed)
    return cost


@settings(max_examples=150, deadline=None)
@given(seed=seeds, counts=st.booleans(), steps=st.integers(0, 5))
@example(seed=55710, counts=True, steps=1)  # two replicas of one expert in an exchange
def test_a_trial_is_taken_back_without_a_trace(seed, counts, steps):
    """Handovers, random swaps, descents one for one and two for two, kept and taken back."""
    rng = np.random.default_rng(seed)
    layer = layers(rng)
    log = np.empty((LOG_ROWS, 4), np.int64)
    layer.scratch.random[0] = SEED ^ np.uint64(seed)
    for _ in range(6):
        before, spare = layer.experts, np.sort(layer.state.spare)
        duplicates = layer.num_duplicates
        logged = layer.run("disturb", counts, log=log)[0]
        assert 0 <= logged <= 2
        assert logged > 0 or layer.experts == before
        _, logged = layer.run("descend", 0, 0, steps, logged, log=log)[:2]
        _, logged = layer.run("exchange_pairs", 0, 0, steps, logged, log=log)[:2]
        layer.check()
        layer.check_homes()
        assert layer.num_duplicates <= duplicates
        if rng.random() < 0.5:
            layer.run("take_back", logged, log=log)
            layer.check()
            assert layer.experts == before
            np.testing.assert_array_equal(np.sort(layer.state.spare), spare)


@settings(max_examples=150, deadline=None)
@given(
    seed=seeds,
    price=st.sampled_from([0.0, 0.5, 3.0, 1000.0]),
    trials=st.sampled_from([0, 1, 5, 60, 600]),
    counts=st.booleans(),
    target=st.sampled_from([np.inf, 1.0, 0.8]),
)
def test_a_search_never_raises_the_cost_and_more_trials_never_do(
    seed, price, trials, counts, target
):
    """Time of the slowest GPU and what load away from home costs, on integers."""
    layer = layers(np.random.default_rng(seed))
    start, before, duplicates = layer.placed, layer.cost(price), layer.num_duplicates
    experts, goal = np.sort(start), int(layer.mean / target)
    costs = []
    for more in (trials, 4 * trials):
        layer.fill(start)
        cost = search(layer, more, counts=counts, goal=goal, price=price)
        assert cost == layer.cost(price)
        assert layer.num_duplicates <= duplicates
        layer.check_homes()
        if not counts:
            np.testing.assert_array_equal(np.sort(layer.placed), experts)
        costs.append(cost)
    assert costs[1] <= costs[0] <= before


@settings(max_examples=100, deadline=None)
@given(seed=seeds, effort=st.integers(0, 60))
def test_an_effort_in_pairs_ends_the_search(seed, effort):
    layer = layers(np.random.default_rng(seed))
    start, before = layer.placed, layer.peak
    few = search(layer, WITHOUT_END, effort, counts=False)
    layer.fill(start)
    assert search(layer, WITHOUT_END, 4 * effort, counts=False) <= few <= before


@pytest.mark.parametrize("counts", [True, False])
def test_a_search_leaves_a_layer_at_the_goal_alone(counts):
    layer = Layer([4, 3, 2, 4, 3, 2], gpus([3, 3]), range(6))
    before = layer.placed
    assert search(layer, 100, counts=counts, goal=layer.peak) == layer.peak
    np.testing.assert_array_equal(layer.placed, before)


def test_disturbances_go_on_where_exchanges_stand_still():
    improved = 0
    for seed in range(20):
        weight = np.random.default_rng(seed).integers(1, 2**40, 32)
        layer = Layer(weight, gpus([4] * 8), np.arange(32).reshape(4, 8).T.ravel())
        mean = layer.mean
        layer.run("descend", mean, mean, WITHOUT_END, 0)
        layer.run("exchange_pairs", mean, mean, WITHOUT_END, 0)
        before = layer.peak
        improved += search(layer, WITHOUT_END, 400, counts=False, goal=mean) < before
    assert improved >= 14


def test_a_search_that_stands_still_goes_on_elsewhere():
    """Layers of few experts have local optima that no single trial leaves."""
    short, long = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        weight = (rng.lognormal(0.0, 1.0, 8) * 2**30).astype(np.int64)
        start = np.concatenate([np.arange(8), np.arange(4)]).reshape(3, 4).T.ravel()
        layer = Layer(weight, gpus([3] * 4), start)
        # 32 handovers and 12 slots: 44 trials without a gain are a standstill.
        short.append(search(layer, 300))
        layer.fill(start)
        long.append(search(layer, 5000))
    short, long = np.array(short), np.array(long)
    assert (long <= short).all()
    assert (long < short * (1 - 1e-3)).mean() > 0.2
