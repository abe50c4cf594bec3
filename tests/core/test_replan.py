"""The search over samples at a price per move: foretold, recomputed, and never worse."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layer import Layer, gpus, random_layer

from evenload.core.compile import Float3, Int, Int1, entry
from evenload.core.flow import Flow, FlowType
from evenload.core.place import ScratchType
from evenload.core.replan import (
    _part_duplicates,
    _set_samples,
    _try,
    _undo_a_move,
    replan_layers,
)
from evenload.core.start import NEVER, SLOTS, UNIT_TIME
from evenload.core.state import COUNT, EXPERT, HELD, HOME, MOVES, NOW, OLD, WHOLE, State, StateType
from evenload.core.steps import (
    best_priced_swap,
    handover_moves,
    handover_peak,
    last_of_others,
    swap_moves,
    swap_peak,
)

seeds = st.integers(0, 2**32)
prices = st.sampled_from([0, 10**3, 10**6])
NO_LIMIT = 2**40
SWAP, HANDOVER, BEST_SWAP, PART, TRY, UNDO = range(6)


@entry(Int, StateType, FlowType, ScratchType, Int1, Int1, Int1, Int1)
def _run(step, s, flow, w, x, until, row, result):
    if step == 0:
        last_of_others(s, x[1], x[3], row)
        result[0] = swap_peak(s, row, x[0], x[1], x[2], x[3])
        result[1] = s.total[MOVES] + swap_moves(s, x[0], x[1], x[2], x[3])
    elif step == 1:
        result[0] = handover_peak(s, x[0], x[1], x[2], x[3], row)
        result[1] = s.total[MOVES] + handover_moves(s, x[0], x[1], x[2])
    elif step == 2:
        cost, i, j = best_priced_swap(s, x[0], x[1], x[2], x[3], x[4], x[5], row)
        result[0], result[1], result[2] = cost, i, j
    elif step == 3:
        _part_duplicates(s, x[0], x[1], row)
    elif step == 4:
        result[0] = _try(s, flow, until, w.random, x[0], x[1], x[2], row)
    else:
        result[0] = _undo_a_move(s, w.random, x[0], x[1], x[2], row)


@entry(StateType, Float3, Int1, Int, Int)
def _set(s, load, weight, bits, layer):
    _set_samples(s, load, weight, bits, layer)


def no_flow(layer):
    E = layer.state.expert.shape[1]
    return Flow.empty(layer.gpu, E, 0, 1.0, 1.0, np.empty(0, np.int64))


def run(layer, step, *x):
    given, result = np.zeros(6, np.int64), np.full(3, -9)
    given[: len(x)] = x
    M = layer.state.time.shape[1]
    until, row = np.cumsum(np.arange(1, M + 1)), np.empty(M, np.int64)
    _run(step, layer.state, no_flow(layer), layer.scratch, given, until, row, result)
    return result.tolist()


def layers(rng, least_gpus=2):
    """Any layer of one or more samples, with homes that are strict; one in three is for copying."""
    while True:
        layer = random_layer(rng, int(rng.integers(1, 5)), strict=True)
        if layer.gpu.shape[1] >= least_gpus:
            if rng.integers(3) == 0:
                layer.state.enough[:] = layer.state.time.mean(axis=0) * rng.uniform(0.5, 1.5)
                layer.fill(layer.placed)
            layer.scratch.random[0] = int(rng.integers(1, 2**60))
            return layer


def moves(layer):
    return int(layer.state.total[MOVES])


def cost(layer, price):
    return layer.peak + price * moves(layer)


def draw_swap(rng, layer):
    m, k = rng.choice(layer.gpu.shape[1], 2, replace=False)
    return m, rng.integers(layer.gpu[SLOTS, m]), k, rng.integers(layer.gpu[SLOTS, k])


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_steps_do_what_was_foretold(seed):
    """Judged beforehand, or recomputed from the slots afterwards: the same to the last unit."""
    rng = np.random.default_rng(seed)
    layer = layers(rng)
    s = layer.state
    for _ in range(8):
        m, i, k, j = draw_swap(rng, layer)
        a, b = s.slot[EXPERT, m, i], s.slot[EXPERT, k, j]
        if layer.run("may_swap", a, m, b, k)[0]:
            told = run(layer, SWAP, a, m, b, k)[:2]
            layer.run("swap", m, i, k, j)
            assert [layer.peak, moves(layer)] == told
            layer.check()
        giver, taker = (
            s.slot[EXPERT, m, rng.integers(layer.gpu[SLOTS, m])],
            rng.integers(s.expert.shape[1]),
        )
        if layer.run("may_hand_over", giver, m, taker)[0]:
            told = run(layer, HANDOVER, giver, m, taker, NEVER)[:2]
            limit = int(told[0] * rng.uniform(0.8, 1.2))
            below = run(layer, HANDOVER, giver, m, taker, limit)[0]
            assert below == told[0] if told[0] <= limit else below > limit
            layer.run("hand_over", s.spare.tolist().index(giver), m, taker)
            assert [layer.peak, moves(layer)] == told
            layer.check()
        layer.check_homes()


@settings(max_examples=150, deadline=None)
@given(seed=seeds, price=prices, most=st.sampled_from([0, 2, NO_LIMIT]))
def test_the_best_swap_is_the_best_of_all(seed, price, most):
    rng = np.random.default_rng(seed)
    layer = layers(rng)
    s, gpu = layer.state, layer.gpu
    m, k = rng.choice(gpu.shape[1], 2, replace=False)
    sample = int(rng.integers(s.time.shape[1]))
    found = run(layer, BEST_SWAP, m, k, sample, price, most, NEVER)
    costs, before, had = {}, layer.placed, moves(layer)
    room = (s.time[m, sample] - s.time[k, sample]) // gpu[UNIT_TIME, k]
    for i, j in itertools.product(range(gpu[SLOTS, m]), range(gpu[SLOTS, k])):
        a, b = s.slot[EXPERT, m, i], s.slot[EXPERT, k, j]
        by = s.cost[NOW, a, sample] - s.cost[NOW, b, sample]
        if not 0 < by < room or not layer.run("may_swap", a, m, b, k)[0]:
            continue
        if s.held[HELD, a, k] > 0 and s.held[HELD, a, m] < 2:
            continue  # parts b, and makes a duplicate of a: legal, but not looked at
        layer.run("swap", m, i, k, j)
        if moves(layer) <= max(most, had):
            costs[i, j] = cost(layer, price)
        layer.fill(before)
    if costs:
        assert found[0] == min(costs.values())
        assert found[0] == costs[found[1], found[2]]
        for limit in (found[0] - 1, found[0], found[0] + 10**5):
            again = run(layer, BEST_SWAP, m, k, sample, price, most, limit)
            assert again == found if limit >= found[0] else again[0] > limit
    else:
        assert found[1:] == [-1, -1]


@settings(max_examples=100, deadline=None)
@given(seed=seeds, price=prices)
def test_every_step_of_a_search_keeps_the_books(seed, price):
    """Each accepted step costs at most the limit, and all sums are those of the slots."""
    rng = np.random.default_rng(seed)
    layer = layers(rng)
    most, duplicates = moves(layer) + 1, layer.num_duplicates
    for _ in range(40):
        for step in (TRY, UNDO):
            limit, before = cost(layer, price) + 10**4, layer.placed
            if run(layer, step, price, most, limit)[0]:
                assert cost(layer, price) <= limit
                assert moves(layer) <= most
            else:
                np.testing.assert_array_equal(layer.placed, before)
        layer.check()
        layer.check_homes()
    assert layer.num_duplicates <= duplicates


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_a_move_is_undone_where_that_costs_nothing(seed):
    """Without limits, from where all is new: experts come back until none that could is away."""
    rng = np.random.default_rng(seed)
    layer = layers(rng)
    for _ in range(30):
        before = moves(layer)
        undone = run(layer, UNDO, 0, NO_LIMIT, NO_LIMIT << 20)[0]
        # An exchange brings one back, and may take another away.
        assert moves(layer) <= before + (1 if undone else 0)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, spare=st.sampled_from([0, 2, NO_LIMIT]))
@example(seed=1462394, spare=2)  # one that is parted leaves a move for one before
def test_duplicates_are_parted_while_there_are_moves(seed, spare):
    """What is left, is left since no expert may take the slot, or since it is new there."""
    layer = layers(np.random.default_rng(seed))
    s, had, duplicates = layer.state, moves(layer), layer.num_duplicates
    most = had + spare
    run(layer, PART, most, NEVER)
    layer.check()
    layer.check_homes()
    assert moves(layer) <= most
    assert layer.num_duplicates <= duplicates
    left = moves(layer) < most
    for g, giver in np.argwhere(s.held[HELD].T > 1):
        for taker in np.flatnonzero(s.held[HELD, :, g] == 0):
            if left or s.held[OLD, taker, g]:
                assert not layer.run("may_hand_over", giver, g, taker)[0]


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_a_limit_keeps_duplicates_that_cost_balance(seed):
    layer = layers(np.random.default_rng(seed))
    peak, duplicates = layer.peak, layer.num_duplicates
    run(layer, PART, NO_LIMIT, peak)
    layer.check()
    assert layer.peak <= peak
    assert layer.num_duplicates <= duplicates


# --- samples on the grid ----------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2.0**-700, 3.0, 2.0**700])
def test_the_grid_does_not_depend_on_the_scale(factor):
    load = np.random.default_rng(1).integers(0, 1000, (1, 9, 3)).astype(float)
    load[:, :, 1] = 0.0
    weight, found = np.array([5, 5, 5]), []
    for x in (load, load * factor):
        state = State.empty(gpus([3] * 3), 9, 3, True)
        _set(state, x, weight, 36, 0)
        found.append(state.cost[WHOLE].copy())
    np.testing.assert_array_equal(*found)
    assert (found[0][:, 1] == found[0][0, 1]).all()
    exact = load[0] / np.maximum(load[0].sum(axis=0), 1) * 2.0**36
    assert (abs(found[0] / 5 - exact)[:, [0, 2]] <= 0.5001).all()


# --- whole layers -----------------------------------------------------------------------------


def replan(
    layer, load, weight, price=0.0, most=NO_LIMIT, goal=0.0, steps=300, heat=0.02, enough=-1.0
):  # fmt: skip
    """Two layers alike but for their samples; placements, peaks and moves of both."""
    E, M = load.shape[1:]
    s, start = layer.state, layer.placed
    state = State.empty(layer.gpu, E, M, True)
    placed, L = np.tile(start, (len(load), 1)), len(load)
    peak, moved = np.full(L, -1.0), np.full(L, -1)
    home = np.tile(s.expert[HOME], (L, 1))
    old = np.tile(s.held[OLD].astype(np.uint8), (L, 1, 1))
    replan_layers(
        load, weight, 36, home, old, price, np.full(L, most), enough, goal, steps, heat, state,
        no_flow(layer), placed, peak, moved,
    )  # fmt: skip
    return placed, peak, moved


def peaks_of(layer, load, weight, placed, enough=-1.0):
    """Weighted mean of the slowest GPU's time over that of a load divided at will: [L].

    Or of the time of all GPUs beyond what is enough.
    """
    gpu = np.repeat(np.arange(layer.gpu.shape[1]), layer.gpu[SLOTS])
    found = []
    for row, samples in zip(placed, load, strict=True):
        count = np.bincount(row, minlength=load.shape[1])
        share = samples[row] / count[row][:, None]
        time = np.zeros((layer.gpu.shape[1], load.shape[2]))
        np.add.at(time, gpu, share)
        time = time * layer.gpu[UNIT_TIME][:, None]
        mean = samples.sum(axis=0) / (1 / layer.gpu[UNIT_TIME]).sum()
        beyond = np.maximum(time - enough * mean, 0.0).sum(axis=0)
        slowest = time.max(axis=0) if enough < 0.0 else beyond
        found.append(np.average(slowest / mean, weights=weight))
    return np.array(found)


def moves_of(layer, placed):
    gpu, old = np.repeat(np.arange(layer.gpu.shape[1]), layer.gpu[SLOTS]), layer.state.held[OLD]
    return [
        len({(e, g) for e, g in zip(row.tolist(), gpu.tolist(), strict=True) if not old[e, g]})
        for row in placed
    ]


def check_rows(layer, placed):
    layer.check_homes()
    for row in placed:
        layer.fill(row)
        layer.check_homes()
        assert (layer.state.expert[COUNT] >= 1).all()


@settings(max_examples=150, deadline=None)
@given(
    seed=seeds,
    price=st.sampled_from([0.0, 1e-4, 0.02, 1e300]),
    spare=st.sampled_from([0, 1, 3, NO_LIMIT]),
    steps=st.sampled_from([0, 1, 300]),
    enough=st.sampled_from([-1.0, -1.0, 1.0, 1.2]),
)
def test_a_plan_is_never_worse_than_what_runs(seed, price, spare, steps, enough):
    """Neither by itself, nor with the price of moves; those are counted and within the limit."""
    rng = np.random.default_rng(seed)
    layer = layers(rng, least_gpus=1)
    E, M = layer.state.cost.shape[1:]
    load, weight = rng.integers(1, 1000, (2, E, M)).astype(float), rng.integers(1, 9, M)
    start, had = np.tile(layer.placed, (2, 1)), moves(layer)
    duplicates, experts = layer.num_duplicates, layer.experts
    how = {"steps": steps, "enough": enough}
    placed, peak, moved = replan(layer, load, weight, price, had + spare, **how)
    assert moved.tolist() == moves_of(layer, placed)
    np.testing.assert_allclose(peak, peaks_of(layer, load, weight, placed, enough), 1e-8, 1e-8)
    before = peaks_of(layer, load, weight, start, enough) + 1e-8
    cost = min(price, 1e9)
    assert (peak <= before * (1 + 1e-8)).all()
    if duplicates == 0:  # they are parted at any price
        assert (peak + cost * moved <= before * (1 + 1e-8) + cost * had).all()
    assert (moved <= had + spare).all()
    check_rows(layer, placed)
    for row in placed:
        layer.fill(row)
        assert layer.num_duplicates <= duplicates
        assert layer.experts == experts or spare + had > 0


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_too_many_moves_are_undone_or_told(seed):
    """From a start with more moves than there may be."""
    rng = np.random.default_rng(seed)
    layer = layers(rng)
    E, M = layer.state.cost.shape[1:]
    load = rng.integers(1, 1000, (1, E, M)).astype(float)
    had = moves(layer)
    most = had // 2
    placed, peak, moved = replan(layer, load, np.ones(M, np.int64), 1e-4, most, steps=2000)
    if np.isinf(peak[0]):
        assert most < moved[0] <= had
    else:
        assert moved[0] <= most
    assert moved.tolist() == moves_of(layer, placed)


def test_a_goal_ends_the_search():
    """Good enough, but more could be had."""
    rng = np.random.default_rng(5)
    start = np.concatenate([np.arange(12), np.arange(4)])
    layer = Layer(np.ones((12, 3), np.int64), gpus([4] * 4), start, old=1, strict=True)
    load, weight = rng.lognormal(0.0, 1.0, (1, 12, 3)), np.ones(3, np.int64)
    best = replan(layer, load, weight, steps=4000)[1][0]
    begun = peaks_of(layer, load, weight, layer.placed[None])[0]
    goal = (best + begun) / 2
    assert best < replan(layer, load, weight, goal=goal, steps=4000)[1][0] <= goal < begun
