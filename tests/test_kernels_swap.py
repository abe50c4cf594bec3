"""Exchanges between packs: the best one, descent by one for one and two for two, and kicks."""

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels import kick as kick_module
from evenload.kernels.descend import descend
from evenload.kernels.grid import bit_length
from evenload.kernels.kick import kick
from evenload.kernels.packs import Packs, rank_packs
from evenload.kernels.pair_swap import FEWEST_SLOTS, MOST_SLOTS, pair_descend
from evenload.kernels.random import SEED, random_below
from evenload.kernels.slots import fits, sort_packs
from evenload.kernels.swap import best_swap, swap

NO_LOG = np.empty((0, 4), np.int64)
WITHOUT_END = 10**9
SMALL, LARGE = st.integers(0, 6), st.integers(0, 2**40)
DESCENTS = {1: descend, 2: pair_descend}


class Layer:
    """The state that the kernels work on, made from packs of (share, expert)."""

    def __init__(self, packs):
        self.share = np.array([[w for w, _ in p] for p in packs], np.int64)
        self.expert = np.array([[e for _, e in p] for p in packs], np.int64)
        sort_packs(self.share, self.expert)
        G = len(packs)
        self.pack_bits = bit_length(G)
        self.load, self.ranking = np.empty((2, G), np.int64)
        rank_packs(self.state)
        self.mean = int(self.load.sum()) // G

    @property
    def state(self):
        return Packs(self.share, self.expert, self.load, self.ranking, self.pack_bits)

    @property
    def packs(self):
        """Packs as sorted lists of (share, expert): what an exchange undone must bring back."""
        rows = zip(self.share.tolist(), self.expert.tolist(), strict=True)
        return [sorted(zip(w, e, strict=True)) for w, e in rows]

    @property
    def heaviest(self):
        return int(self.load.max())

    def assert_consistent(self):
        """Rows fall, loads are their sums, and the ranking is the sorted keys of the loads."""
        assert (np.diff(self.share, axis=1) <= 0).all()
        np.testing.assert_array_equal(self.load, self.share.sum(axis=1))
        keys = sorted((x << self.pack_bits) | g for g, x in enumerate(self.load.tolist()))
        assert self.ranking.tolist() == keys


@st.composite
def packs(draw, values=LARGE, fewest_slots=1, most_slots=5, replicas=True):
    """Packs that hold no expert twice; with replicas, several packs hold the same one."""
    G, K = draw(st.integers(2, 5)), draw(st.integers(fewest_slots, most_slots))
    E = draw(st.integers(K, G * K)) if replicas else G * K
    weight = draw(st.lists(values, min_size=E, max_size=E))
    if not replicas:
        experts = np.array(draw(st.permutations(range(E)))).reshape(G, K).tolist()
    else:
        experts = [draw(st.permutations(range(E)))[:K] for _ in range(G)]
    return [[(weight[e], e) for e in held] for held in experts]


any_packs = st.one_of(packs(), packs(values=SMALL))
large_packs = st.one_of(
    packs(fewest_slots=FEWEST_SLOTS, most_slots=6),
    packs(values=SMALL, fewest_slots=FEWEST_SLOTS, most_slots=6),
)


# --- one exchange -----------------------------------------------------------------------------


def search(layer, m, k, limit):
    return best_swap(layer.state, m, k, limit)


def distances(layer, m, k):
    """``|load(m) - load(k)|`` after every legal exchange."""
    both = int(layer.load[m] + layer.load[k])
    found = twins.outcomes(layer.packs[m], layer.packs[k], 1)
    return [2 * outcome - both for outcome, *_ in found]


@settings(max_examples=150, deadline=None)
@given(st.one_of(packs(replicas=False), packs(values=SMALL, replicas=False)), st.data())
def test_best_swap_is_the_best_where_no_expert_is_replicated(packs, data):
    layer = Layer(packs)
    m, k = np.argsort(layer.load, kind="stable")[[-1, 0]].tolist()
    best = min(distances(layer, m, k))
    assert search(layer, m, k, best + 1)[0] == best
    assert search(layer, m, k, best) == (best, -1, -1)
    limit = data.draw(st.integers(0, 2 * best + 2))
    assert search(layer, m, k, limit)[0] == min(best, limit)


@settings(max_examples=150, deadline=None)
@given(any_packs)
def test_best_swap_is_legal_and_tells_what_it_reaches(packs):
    layer = Layer(packs)
    m, k = np.argsort(layer.load, kind="stable")[[-1, 0]].tolist()
    distance, i, j = search(layer, m, k, 2**60)
    allowed = distances(layer, m, k)
    if i < 0:
        return
    assert fits(layer.expert, m, i, k, j)
    swap(layer.state, m, i, k, j)
    assert abs(int(layer.load[m] - layer.load[k])) == distance
    assert distance in allowed
    assert twins.num_duplicates(layer.packs) == 0


@settings(max_examples=100, deadline=None)
@given(any_packs, st.lists(st.tuples(*[st.integers(0, 99)] * 4), max_size=8))
def test_swap_keeps_rows_sorted_and_packs_ranked(packs, steps):
    layer = Layer(packs)
    G, K = layer.share.shape
    for m, i, k, j in steps:
        m, i, k, j = m % G, i % K, k % G, j % K
        if m == k:
            continue
        wanted = layer.packs
        given = (int(layer.share[m, i]), int(layer.expert[m, i]))
        got = (int(layer.share[k, j]), int(layer.expert[k, j]))
        wanted[m][wanted[m].index(given)], wanted[k][wanted[k].index(got)] = got, given
        swap(layer.state, m, i, k, j)
        assert layer.packs == [sorted(p) for p in wanted]
        layer.assert_consistent()


# --- descent ----------------------------------------------------------------------------------


def run(layer, size, goal, most_pairs=WITHOUT_END, log=NO_LOG, logged=0):
    return DESCENTS[size](layer.state, layer.mean, goal, most_pairs, log, logged)


@pytest.mark.parametrize("size", [1, 2])
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_descent_never_raises_the_heaviest_pack(size, data):
    """Step by step: an effort of one pair ends with the first exchange."""
    layer = Layer(data.draw(large_packs if size == 2 else any_packs))
    slots = sorted(sum(layer.packs, []))
    before = None
    while layer.packs != before:
        before, falling = layer.packs, sorted(layer.load.tolist(), reverse=True)
        run(layer, size, layer.mean, most_pairs=1)
        layer.assert_consistent()
        assert sorted(sum(layer.packs, [])) == slots
        assert twins.num_duplicates(layer.packs) == 0
        # The heaviest pack gets lighter, or there are fewer of that load.
        assert layer.packs == before or sorted(layer.load.tolist(), reverse=True) < falling


@pytest.mark.parametrize("size", [1, 2])
@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 40), st.sampled_from([1.0, 0.98, 0.9]))
def test_descent_ends_at_the_goal_at_a_standstill_or_without_effort(size, data, effort, target):
    values = data.draw(st.sampled_from([SMALL, LARGE]))
    fewest = FEWEST_SLOTS if size == 2 else 1
    layer = Layer(data.draw(packs(values, fewest, 5, replicas=False)))
    goal = int(layer.mean / target)
    looked, _ = run(layer, size, goal, effort)
    assert looked < effort + len(layer.load)
    assert (
        layer.heaviest <= goal or looked >= effort or twins.best_outcome(layer.packs, size) is None
    )


@pytest.mark.parametrize("size", [1, 2])
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([3, WITHOUT_END]))
def test_descent_takes_the_steps_of_the_scan(size, seed, G, effort):
    """With random shares of 40 bits no two exchanges are equal, and no expert is replicated.

    But for half the slots: the other half of each pack does the same seen from the other side.
    """
    rng = np.random.default_rng(seed)
    K = 2 * size + int(rng.integers(1, 3))
    weight = (2.0**40 * rng.random(G * K) ** 3).astype(np.int64).tolist()
    layer = Layer([[(weight[e], e) for e in range(g, G * K, G)] for g in range(G)])
    goal = layer.mean + layer.mean // 1000
    wanted, wanted_looks = twins.descend(layer.packs, layer.mean, goal, effort, size)
    looked, _ = run(layer, size, goal, effort)
    assert layer.packs == [sorted(p) for p in wanted]
    assert looked == wanted_looks


@pytest.mark.parametrize("size", [1, 2])
def test_descent_does_nothing_at_the_goal(size):
    layer = Layer([[(9, 0), (5, 1), (3, 2), (1, 3)], [(2, 4), (2, 5), (1, 6), (1, 7)]])
    before = layer.packs
    assert run(layer, size, layer.heaviest) == (0, 0)
    assert layer.packs == before


def test_two_for_two_goes_on_where_one_for_one_stands_still():
    layer = Layer([[(11, 0), (10, 1), (1, 2), (0, 3)], [(8, 4), (7, 5), (4, 6), (1, 7)]])
    assert twins.best_outcome(layer.packs, 1) is None
    run(layer, 1, layer.mean)
    assert layer.load.tolist() == [22, 20]
    run(layer, 2, layer.mean)
    assert layer.load.tolist() == [21, 21]


@pytest.mark.parametrize("size", [1, 2])
def test_packs_of_many_slots_descend(size):
    rng = np.random.default_rng(size)
    weight = rng.integers(0, 2**40, 4 * MOST_SLOTS).tolist()
    layer = Layer([[(weight[e], e) for e in range(g, len(weight), 4)] for g in range(4)])
    run(layer, size, layer.mean)
    layer.assert_consistent()
    assert twins.best_outcome(layer.packs, size) is None or layer.heaviest <= layer.mean
    assert layer.heaviest < 1.02 * layer.mean


# --- the log ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2])
@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(0, 2))
def test_log_tells_every_exchange_and_ends_the_descent_when_full(size, data, rows, logged):
    start = data.draw(large_packs if size == 2 else any_packs)
    layer, replayed = Layer(start), Layer(start)
    log = np.full((max(rows, logged), 4), -1, np.int64)
    _, end = run(layer, size, layer.mean, log=log, logged=logged)
    assert logged <= end <= len(log)
    assert (log[:logged] == -1).all()
    assert (log[end:] == -1).all()
    for m, e, k, f in log[logged:end].tolist():
        i = replayed.expert[m].tolist().index(e)
        j = replayed.expert[k].tolist().index(f)
        swap(replayed.state, m, i, k, j)
    assert replayed.packs == layer.packs
    if end + size <= len(log):
        assert run(layer, size, layer.mean)[1] == 0
        assert replayed.packs == layer.packs


# --- kicks ------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(any_packs, st.integers(0, 2**64 - 1), st.booleans())
def test_undo_restores_what_was_disturbed(packs, seed, descended):
    layer = Layer(packs)
    before, load = layer.packs, layer.load.tolist()
    log = np.empty((kick_module.MOST_SWAPS, 4), np.int64)
    state = np.array([seed | 1], np.uint64)
    logged = kick_module._disturb(layer.state, log, state)
    assert 0 <= logged <= 2
    assert twins.num_duplicates(layer.packs) == 0
    if descended:
        _, logged = run(layer, 1, 0, log=log, logged=logged)
    kick_module._undo(layer.state, log, logged)
    layer.assert_consistent()
    assert layer.packs == before
    assert layer.load.tolist() == load


@settings(max_examples=100, deadline=None)
@given(st.one_of(any_packs, large_packs), st.integers(0, 60))
def test_kick_never_ends_heavier(packs, effort):
    layer = Layer(packs)
    before, slots = layer.heaviest, sorted(sum(layer.packs, []))
    kick(layer.state, layer.mean, layer.mean, effort)
    layer.assert_consistent()
    assert layer.heaviest <= before
    assert sorted(sum(layer.packs, [])) == slots
    assert twins.num_duplicates(layer.packs) == 0


def test_kicks_go_on_where_exchanges_stand_still():
    improved = 0
    for seed in range(20):
        weight = np.random.default_rng(seed).integers(1, 2**40, 32).tolist()
        layer = Layer([[(weight[e], e) for e in range(g, 32, 8)] for g in range(8)])
        run(layer, 1, layer.mean)
        run(layer, 2, layer.mean)
        before = layer.heaviest
        kick(layer.state, layer.mean, layer.mean, 400)
        improved += layer.heaviest < before
    assert improved >= 14


def test_kick_leaves_a_layer_at_the_goal_alone():
    layer = Layer([[(4, 0), (3, 1), (2, 2)], [(4, 3), (3, 4), (2, 5)]])
    before = layer.share.tolist(), layer.expert.tolist()
    kick(layer.state, layer.mean, layer.heaviest, 100)
    assert (layer.share.tolist(), layer.expert.tolist()) == before


def test_random_numbers_are_xorshift64_and_stay_below_the_bound():
    state, x = np.full(1, SEED), int(SEED)
    drawn = []
    for _ in range(200):
        x ^= x << 13 & (2**64 - 1)
        x ^= x >> 7
        x ^= x << 17 & (2**64 - 1)
        drawn.append(random_below(state, 7))
        assert drawn[-1] == (x >> 33) % 7
    assert set(drawn) == set(range(7))
