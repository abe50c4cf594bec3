"""Exchanges of slots: which are legal, the best one, descents, the log, and duplicates parted."""

import itertools

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st
from layer import NO_LOG, Layer, gpus, random_layer, random_swap

from evenload.core.start import FIRST, SLOTS, UNIT_TIME
from evenload.core.state import EXPERT, HELD, NOW
from evenload.core.swaps import LEAST_K, MOST_K

WITHOUT_END = 10**9
SMALL, LARGE = st.integers(0, 6), st.integers(0, 2**40)
DESCENTS = {1: "descend", 2: "exchange_pairs"}
seeds = st.integers(0, 2**32)
sizes = pytest.mark.parametrize("size", [1, 2])


def layer_of(packs, unit=None):
    """A layer from packs of (share, expert); its experts are numbered as there."""
    placed = [e for p in packs for _, e in p]
    count = np.bincount(placed)
    whole = np.zeros(len(count), np.int64)
    for share, e in sum(packs, []):
        whole[e] = share * count[e]
    return Layer(whole, gpus([len(p) for p in packs], unit), placed)


@st.composite
def packs(draw, values=LARGE, fewest_slots=1, most_slots=5, replicas=True):
    """Packs of any size that hold no expert twice; with replicas, several hold the same one."""
    slots = st.integers(fewest_slots, most_slots)
    sizes = draw(st.lists(slots, min_size=2, max_size=5))
    if draw(st.booleans()):
        sizes = [sizes[0]] * len(sizes)
    S = sum(sizes)
    E = draw(st.integers(max(sizes), S)) if replicas else S
    if replicas:
        held = [draw(st.permutations(range(E)))[:n] for n in sizes]
    else:
        held = [row.tolist() for row in np.split(np.arange(S), np.cumsum(sizes)[:-1])]
    number = {e: n for n, e in enumerate(sorted(set(sum(held, []))))}
    weight = draw(st.lists(values, min_size=E, max_size=E))
    return [[(weight[e], number[e]) for e in row] for row in held]


any_packs = st.one_of(packs(), packs(values=SMALL))
large_packs = st.one_of(
    packs(fewest_slots=LEAST_K, most_slots=6),
    packs(values=SMALL, fewest_slots=LEAST_K, most_slots=6),
)
units = st.one_of(
    st.sampled_from([[1] * 5, [4] * 5]), st.lists(st.integers(1, 4), min_size=5, max_size=5)
)


# --- what is legal ----------------------------------------------------------------------------


def holds(layer):
    """Whether every home is kept."""
    try:
        layer.check_homes()
    except AssertionError:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_a_legal_swap_makes_no_duplicate_and_keeps_homes(seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng)
    for _ in range(8):
        step, before = random_swap(rng, layer), layer.placed
        if step is None:
            return
        m, i, k, j = step
        a, b = layer.state.slot[EXPERT, m, i], layer.state.slot[EXPERT, k, j]
        told, duplicates = layer.run("may_swap", a, m, b, k)[0], layer.num_duplicates
        layer.run("swap", m, i, k, j)
        assert told == (a != b and layer.num_duplicates <= duplicates and holds(layer))
        if not told:
            layer.fill(before)


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_a_legal_handover_makes_no_duplicate_and_keeps_homes(seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng)
    s, E = layer.state, layer.state.expert.shape[1]
    for _ in range(8):
        giver, taker = int(rng.integers(E)), int(rng.integers(E))
        g, before = int(rng.choice(np.flatnonzero(s.held[HELD, giver]))), layer.placed
        told, duplicates = layer.run("may_hand_over", giver, g, taker)[0], layer.num_duplicates
        if giver == taker or giver not in s.spare:
            assert not told
            continue
        layer.run("hand_over", s.spare.tolist().index(giver), g, taker)
        assert told == (layer.num_duplicates <= duplicates and holds(layer))
        if not told:
            layer.fill(before)


# --- one exchange -----------------------------------------------------------------------------


def later_times(layer, m, k):
    """Time of the later of two GPUs after exchanging each slot for each: [K_m, K_k]."""
    s, gpu = layer.state, layer.gpu
    share = [
        s.cost[NOW, s.slot[EXPERT, g, : gpu[SLOTS, g]], 0] * gpu[UNIT_TIME][:, None] for g in (m, k)
    ]
    change_m, change_k = share[0][m][:, None] - share[1][m], share[0][k][:, None] - share[1][k]
    return np.maximum(s.time[m, 0] - change_m, s.time[k, 0] + change_k)


@settings(max_examples=150, deadline=None)
@given(st.one_of(packs(replicas=False), packs(values=SMALL, replicas=False)), units, st.data())
def test_the_best_swap_is_the_best_where_no_expert_is_replicated(packs, unit, data):
    layer = layer_of(packs, unit[: len(packs)])
    for m, k in itertools.permutations(range(len(packs)), 2):
        later = later_times(layer, m, k)
        best = int(later.min())
        assert layer.run("best_swap", m, k, best) == [best, -1, -1]
        assert layer.run("best_swap", m, k, best + 1)[0] == best
        limit = data.draw(st.integers(0, 2 * best + 2))
        time, i, j = layer.run("best_swap", m, k, limit)
        assert time == min(best, limit)
        assert (i, j) == (-1, -1) if limit <= best else later[i, j] == best


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_the_best_swap_is_legal_and_tells_what_it_reaches(seed):
    layer = random_layer(np.random.default_rng(seed))
    s = layer.state
    for m, k in itertools.permutations(range(layer.gpu.shape[1]), 2):
        now = int(max(s.time[m, 0], s.time[k, 0]))
        time, i, j = layer.run("best_swap", m, k, now)
        if i < 0:
            assert (time, j) == (now, -1)
            continue
        assert time < now
        assert layer.run("may_swap", s.slot[EXPERT, m, i], m, s.slot[EXPERT, k, j], k)[0]
        layer.run("swap", m, i, k, j)
        assert time == max(s.time[m, 0], s.time[k, 0])


# --- descent ----------------------------------------------------------------------------------


def run(layer, size, goal, most_pairs=WITHOUT_END, log=NO_LOG, logged=0):
    return layer.run(DESCENTS[size], layer.mean, goal, most_pairs, logged, log=log)[:2]


def draw_layer(data, size):
    packs = data.draw(large_packs if size == 2 else any_packs)
    return layer_of(packs, data.draw(units)[: len(packs)])


@sizes
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_descent_never_raises_the_slowest_gpu(size, data):
    """Step by step: an effort of one pair ends with the first exchange."""
    layer = draw_layer(data, size)
    experts, before = sorted(sum(layer.experts, [])), None
    while layer.slots != before:
        before, falling = layer.slots, sorted(layer.state.time[:, 0].tolist(), reverse=True)
        run(layer, size, 0, most_pairs=1)
        layer.check()
        assert sorted(sum(layer.experts, [])) == experts
        assert layer.num_duplicates == 0
        # The slowest GPU is done sooner, or there are fewer of that time.
        after = sorted(layer.state.time[:, 0].tolist(), reverse=True)
        assert layer.slots == before or after < falling


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_a_descent_of_any_layer_keeps_it_whole(seed):
    """Duplicates, homes and all."""
    layer = random_layer(np.random.default_rng(seed), most_slots=6)
    for size in (1, 2):
        before, duplicates = layer.peak, layer.num_duplicates
        run(layer, size, 0, 100)
        layer.check()
        layer.check_homes()
        assert layer.peak <= before
        assert layer.num_duplicates <= duplicates


@sizes
@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 40), st.sampled_from([1.0, 0.98, 0.9]), units)
def test_a_descent_ends_at_the_goal_at_a_standstill_or_without_effort(
    size, data, effort, target, unit
):
    """At a standstill no exchange helps that could be listed."""
    values = data.draw(st.sampled_from([SMALL, LARGE]))
    fewest = LEAST_K if size == 2 else 1
    layer = layer_of(
        start := data.draw(packs(values, fewest, 5, replicas=False)), unit[: len(start)]
    )
    goal = int(layer.mean / target)
    looked, _ = run(layer, size, goal, effort)
    assert looked < effort + len(start)
    assert (
        layer.peak <= goal
        or looked >= effort
        or twins.best_outcome(layer.slots, size, unit[: len(start)]) is None
    )


@sizes
@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 6), st.sampled_from([3, WITHOUT_END]), st.booleans())
def test_a_descent_takes_the_steps_of_the_scan(size, seed, G, effort, equal):
    """With random shares of 40 bits no two exchanges are equal, and no expert is replicated.

    But for half the slots: the other half of each GPU does the same seen from the other side.
    """
    rng = np.random.default_rng(seed)
    K = 2 * size + int(rng.integers(1, 3))
    weight = (2.0**40 * rng.random(G * K) ** 3).astype(np.int64).tolist()
    unit = [1] * G if equal else rng.integers(1, 5, G).tolist()
    layer = layer_of([[(weight[e], e) for e in range(g, G * K, G)] for g in range(G)], unit)
    goal = layer.mean + layer.mean // 1000
    wanted, wanted_looks = twins.descend(layer.slots, layer.mean, goal, effort, size, unit)
    looked, _ = run(layer, size, goal, effort)
    assert layer.slots == [sorted(p) for p in wanted]
    assert looked == wanted_looks


@sizes
def test_a_descent_does_nothing_at_the_goal(size):
    layer = layer_of([[(9, 0), (5, 1), (3, 2), (1, 3)], [(2, 4), (2, 5), (1, 6), (1, 7)]])
    before = layer.slots
    assert run(layer, size, layer.peak) == [0, 0]
    assert layer.slots == before


def test_two_for_two_goes_on_where_one_for_one_stands_still():
    layer = layer_of([[(11, 0), (10, 1), (1, 2), (0, 3)], [(8, 4), (7, 5), (4, 6), (1, 7)]])
    assert twins.best_outcome(layer.slots, 1, [1, 1]) is None
    run(layer, 1, layer.mean)
    assert layer.state.time[:, 0].tolist() == [22, 20]
    run(layer, 2, layer.mean)
    assert layer.state.time[:, 0].tolist() == [21, 21]


@pytest.mark.parametrize("slots", [LEAST_K - 1, MOST_K + 1])
def test_two_for_two_leaves_alone_what_one_for_one_does(slots):
    rng = np.random.default_rng(slots)
    weight = rng.integers(0, 2**40, 3 * slots).tolist()
    layer = layer_of([[(weight[e], e) for e in range(g, len(weight), 3)] for g in range(3)])
    assert run(layer, 2, 0) == [0, 0]


@sizes
def test_gpus_of_many_slots_descend(size):
    rng = np.random.default_rng(size)
    weight = rng.integers(0, 2**40, 4 * MOST_K).tolist()
    layer = layer_of([[(weight[e], e) for e in range(g, len(weight), 4)] for g in range(4)])
    run(layer, size, layer.mean)
    layer.check()
    assert twins.best_outcome(layer.slots, size, [1] * 4) is None or layer.peak <= layer.mean
    assert layer.peak < 1.02 * layer.mean


# --- the log ----------------------------------------------------------------------------------


@sizes
@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(0, 2))
def test_the_log_tells_every_exchange_and_ends_the_descent_when_full(size, data, rows, logged):
    layer = draw_layer(data, size)
    replayed = layer_of(layer.slots, layer.gpu[UNIT_TIME])
    log = np.full((max(rows, logged), 4), -1, np.int64)
    _, end = run(layer, size, 0, log=log, logged=logged)
    assert logged <= end <= len(log)
    assert (log[:logged] == -1).all()
    assert (log[end:] == -1).all()
    for m, e, k, f in log[logged:end].tolist():
        i, j = (replayed.state.slot[EXPERT, g].tolist().index(x) for g, x in ((m, e), (k, f)))
        replayed.run("swap", m, i, k, j)
    assert replayed.slots == layer.slots
    if end + size <= len(log):
        assert run(layer, size, 0)[1] == 0
        assert replayed.slots == layer.slots


@settings(max_examples=150, deadline=None)
@given(seed=seeds, samples=st.sampled_from([1, 3]))
def test_steps_are_taken_back_without_a_trace(seed, samples):
    """Swaps and handovers in turn, the last one first."""
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, samples)
    s, E = layer.state, layer.state.expert.shape[1]
    before, spare, time = layer.experts, s.spare.copy(), s.time.copy()
    log = np.empty((12, 4), np.int64)
    logged = 0
    while logged < len(log):
        step = random_swap(rng, layer)
        if step is not None:
            m, i, k, j = step
            log[logged] = m, s.slot[EXPERT, m, i], k, s.slot[EXPERT, k, j]
            layer.run("swap", *step)
            logged += 1
        if s.spare.size and logged < len(log):
            place, taker = int(rng.integers(s.spare.size)), int(rng.integers(E))
            giver = int(s.spare[place])
            g = int(rng.choice(np.flatnonzero(s.held[HELD, giver])))
            if giver != taker:
                log[logged] = g, giver, -1 - place, taker
                layer.run("hand_over", place, g, taker)
                logged += 1
        if step is None and rng.random() < 0.2:
            break
    layer.run("take_back", logged, log=log)
    layer.check()
    assert layer.experts == before
    np.testing.assert_array_equal(s.spare, spare)
    np.testing.assert_array_equal(s.time, time)


# --- duplicates -------------------------------------------------------------------------------


@st.composite
def with_duplicates(draw, most=None, equal=False):
    """Packs with replicas anywhere, of shares by chance; at most one a pack of each, or any."""
    G, K = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    sizes = [K] * G if equal else draw(st.lists(st.integers(1, 5), min_size=G, max_size=G))
    S = sum(sizes)
    limit = S if most is None else G
    E = draw(st.integers(-(-S // limit), S))
    held = draw(st.permutations([e for e in range(E) for _ in range(limit)]))[:S]
    number = {e: n for n, e in enumerate(sorted(set(held)))}
    rng = np.random.default_rng(draw(seeds))
    weight = rng.integers(0, draw(st.sampled_from([3, 2**40])) if equal else 2**40, E).tolist()
    slots = [(weight[e], number[e]) for e in held]
    ends = np.cumsum([0, *sizes])
    return [slots[a:b] for a, b in itertools.pairwise(ends)]


@settings(max_examples=150, deadline=None)
@given(with_duplicates(), units)
def test_duplicates_are_parted_as_by_the_scan(packs, unit):
    layer = layer_of(packs, unit[: len(packs)])
    layer.run("part_duplicates")
    layer.check()
    wanted = twins.part_duplicates(packs, unit[: len(packs)])
    assert layer.slots == [sorted(pack) for pack in wanted]


@settings(max_examples=150, deadline=None)
@given(with_duplicates(most="one a GPU", equal=True))
def test_no_duplicate_is_left_where_each_replica_can_have_a_gpu_of_its_own(packs):
    layer = layer_of(packs)
    layer.run("part_duplicates")
    assert layer.num_duplicates == 0
    assert sorted(sum(layer.slots, [])) == sorted(sum(packs, []))


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_no_swap_parts_what_is_left(seed):
    """Homes are kept, and GPUs may differ."""
    layer = random_layer(np.random.default_rng(seed))
    before = layer.num_duplicates
    layer.run("part_duplicates")
    layer.check()
    layer.check_homes()
    left, placed, gpu = layer.num_duplicates, layer.placed, layer.gpu
    assert left <= before
    for x, y in itertools.combinations(range(len(placed)), 2):
        m, k = np.searchsorted(gpu[FIRST], [x, y], side="right") - 1
        if m == k or not layer.run("may_swap", placed[x], m, placed[y], k)[0]:
            continue
        layer.run("swap", m, x - gpu[FIRST, m], k, y - gpu[FIRST, k])
        assert layer.num_duplicates == left
        layer.fill(placed)


def test_the_exchange_that_keeps_the_pair_lightest_is_taken():
    packs = [[(9, 0), (9, 0)], [(4, 1), (1, 2)], [(8, 3), (7, 4)]]
    layer = layer_of(packs)
    layer.run("part_duplicates")
    # 9 for 4 leaves 13 and 10, 9 for 1 leaves 10 and 13, 9 for 8 leaves 17 and 16.
    assert layer.slots == [[(4, 1), (9, 0)], [(1, 2), (9, 0)], [(7, 4), (8, 3)]]


def test_more_replicas_than_gpus_are_left_as_they_are():
    layer = layer_of([[(5, 0), (5, 0)], [(5, 0), (1, 1)]])
    before = layer.placed
    layer.run("part_duplicates")
    np.testing.assert_array_equal(layer.placed, before)
