"""The state of a layer: whatever is done to it, it says what its slots say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer import Layer, gpus, random_layer, random_swap

from evenload.core.start import FIRST, SLOTS
from evenload.core.state import EXPERT, HELD

seeds = st.integers(0, 2**32)
samples = pytest.mark.parametrize("samples", [1, 2, 5])


@samples
@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_a_state_says_what_the_placement_says_that_fills_it(samples, seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, samples)
    layer.check()
    rows = np.split(rng.permutation(layer.placed), layer.gpu[FIRST, 1:])
    layer.fill(np.concatenate(rows))
    layer.check()
    assert layer.experts == [sorted(row.tolist()) for row in rows]


@samples
@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_steps_leave_the_state_that_their_placement_fills(samples, seed):
    """Any exchange and any handover, legal or not: experts may meet and leave their homes."""
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, samples)
    s, E = layer.state, layer.state.expert.shape[1]
    for _ in range(6):
        step, experts = random_swap(rng, layer), layer.experts
        if step is not None:
            m, i, k, j = step
            a, b = int(s.slot[EXPERT, m, i]), int(s.slot[EXPERT, k, j])
            layer.run("swap", m, i, k, j)
            for row, old, new in ((experts[m], a, b), (experts[k], b, a)):
                row[row.index(old)] = new
            assert layer.experts == [sorted(row) for row in experts]
            layer.check()
        if s.spare.size == 0:
            continue
        place, taker = int(rng.integers(s.spare.size)), int(rng.integers(E))
        giver, experts = int(s.spare[place]), layer.experts
        g = int(rng.choice(np.flatnonzero(s.held[HELD, giver])))
        if giver == taker:
            continue
        layer.run("hand_over", place, g, taker)
        experts[g][experts[g].index(giver)] = taker
        assert layer.experts == [sorted(row) for row in experts]
        assert s.spare[place] == taker
        layer.check()


@samples
def test_a_state_of_the_size_of_a_model_stays_whole(samples):
    rng = np.random.default_rng(0)
    G, K, E = 48, 7, 256
    placed = rng.permutation(np.concatenate([np.arange(E), rng.integers(0, E, G * K - E)]))
    layer = Layer(rng.integers(0, 2**36, (E, samples)), gpus([K] * G), placed)
    for _ in range(40):
        layer.run("swap", *random_swap(rng, layer))
        place = int(rng.integers(G * K - E))
        giver = int(layer.state.spare[place])
        g = int(np.flatnonzero(layer.state.held[HELD, giver])[0])
        taker = int((giver + 1 + rng.integers(E - 1)) % E)
        layer.run("hand_over", place, g, taker)
    layer.check()


def test_one_gpu_and_one_expert():
    layer = Layer([7], gpus([1]), [0])
    layer.check()
    assert layer.peak == 7
    layer = Layer([7], gpus([3, 1], unit_time=[2, 5]), [0] * 4)
    layer.check()
    assert layer.state.time[:, 0].tolist() == [3 * 1 * 2, 1 * 5]
    assert layer.state.gpu[SLOTS].tolist() == [3, 1]
