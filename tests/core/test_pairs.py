"""Two slots a GPU: pairs from both ends, shares exchanged, and counts searched or all tried."""

import itertools

import numpy as np
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster
from evenload.core import pairs
from evenload.core.grid import SEED
from evenload.core.state import WHOLE, State
from evenload.solvers.search import gpu_rows

seeds = st.integers(0, 2**32)
judge_pairs, exchange_shares = as_entry(pairs.judge_pairs), as_entry(pairs.exchange_shares)


def falling(values):
    return np.sort(np.array(values, float))[::-1].copy()


def shares(weight, count):
    return falling(np.repeat(weight // count, count))


def heaviest_pair(weight, count):
    return judge_pairs(shares(weight, count), np.inf, np.inf)[0]


def all_pairings(items):
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for i, other in enumerate(rest):
        for more in all_pairings(rest[:i] + rest[i + 1 :]):
            yield [first + other, *more]


@settings(max_examples=60, deadline=None)
@given(items=st.lists(st.integers(0, 30), min_size=2, max_size=8).filter(lambda x: len(x) % 2 == 0))
def test_pairs_from_both_ends_are_the_best_there_are(items):
    share = falling(items)
    heaviest, excess, place = judge_pairs(share, 5.0, np.inf)
    assert heaviest == min(max(sums) for sums in all_pairings(items))
    sums = [share[i] + share[-1 - i] for i in range(len(items) // 2)]
    assert sums[place] == heaviest
    assert excess == sum(max(s - 5.0, 0.0) ** 2 for s in sums)
    # Judged only in part, the excess is too much all the same.
    most = excess / 2
    assert judge_pairs(share, 5.0, most)[1] > most or excess == 0.0


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_shares_are_exchanged_as_if_sorted_anew(seed):
    rng = np.random.default_rng(seed)
    n_a, n_b = rng.integers(1, 4, 2)
    m_a = int(rng.integers(0, n_a + n_b + 1))
    m_b = n_a + n_b - m_a
    out_a, out_b, in_a, in_b = (float(x) for x in rng.integers(0, 12, 4))
    others = rng.integers(0, 12, rng.integers(0, 8)).astype(float)
    old = falling(np.r_[others, [out_a] * n_a, [out_b] * n_b])
    new = np.empty_like(old)
    exchange_shares(old, new, out_a, n_a, out_b, n_b, in_a, m_a, in_b, m_b)
    np.testing.assert_array_equal(new, falling(np.r_[others, [in_a] * m_a, [in_b] * m_b]))


def random_counts(rng, G, least=None):
    """Falling loads, and counts of at most one replica a GPU."""
    E = int(rng.integers(2 if least is None else least, 2 * G + 1))
    count = np.ones(E, np.int64)
    for _ in range(2 * G - E):
        count[rng.choice(np.flatnonzero(count < G))] += 1
    weight = np.sort(rng.integers(0, int(rng.choice([5, 2**40])), E))[::-1].copy()
    return weight, count


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_shares_are_listed_in_order(seed):
    rng = np.random.default_rng(seed)
    weight, count = random_counts(rng, int(rng.integers(1, 6)))
    found = np.full(count.sum(), -1.0)
    as_entry(pairs.list_shares)(weight, count, np.empty((2, found.size), np.int64), found)
    np.testing.assert_array_equal(found, shares(weight, count))


def pair_up(weight, count):
    """Experts of each pair, [G, 2], and what the kernel says of them."""
    S = count.sum()
    placed = np.full(S, -1)
    told = as_entry(pairs.pair_up)(weight, count, np.empty((2, S), np.int64), placed)
    return placed.reshape(-1, 2), *told


def best_pairing(weight, count):
    """Least load of the heaviest pair over all pairings that put no expert beside itself."""

    def least(left):
        if not left:
            return 0
        first, rest = left[0], left[1:]
        return min(
            (
                max(share[first] + share[e], least(rest[:i] + rest[i + 1 :]))
                for i, e in enumerate(rest)
                if e != first and e not in rest[:i]
            ),
            default=np.inf,
        )

    share = (weight // count).tolist()
    return least(np.repeat(np.arange(weight.size), count).tolist())


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_replicas_are_paired_as_well_as_can_be(seed):
    """An expert beside itself only among equal shares, or in the middle: a swap parts those."""
    rng = np.random.default_rng(seed)
    weight, count = random_counts(rng, int(rng.integers(1, 6)))
    placed, told, apart = pair_up(weight, count)
    np.testing.assert_array_equal(np.bincount(placed.ravel()), count)
    heaviest = (weight // count)[placed].sum(axis=1).max()
    assert heaviest == told == heaviest_pair(weight, count) <= best_pairing(weight, count)
    assert apart == (placed[:, 0] != placed[:, 1]).all()


def state_of(weight, G):
    """A state of a layer with two slots on each of G GPUs."""
    gpu = gpu_rows(Cluster(G, slots_per_gpu=2))
    state = State.empty(gpu, weight.size, 1, False)
    state.cost[WHOLE, :, 0] = weight
    return state


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_counts_are_placed_as_well_as_can_be_with_no_expert_beside_itself(seed):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 6))
    weight, count = random_counts(rng, G)
    placed = np.full(2 * G, -1)
    heaviest = as_entry(pairs.place_counts)(
        weight, count, 2**62, state_of(weight, G), np.empty((2, 2 * G), np.int64), placed
    )
    np.testing.assert_array_equal(np.bincount(placed), count)
    pair = placed.reshape(-1, 2)
    assert (pair[:, 0] != pair[:, 1]).all()
    assert heaviest == (weight // count)[pair].sum(axis=1).max() == best_pairing(weight, count)


# --- counts -----------------------------------------------------------------------------------


def search(weight, count, most, trials, goal=0.0):
    """The heaviest pair by the kernel's own word, and the counts."""
    E, S = weight.size, count.sum()
    count = count.copy()
    best = as_entry(pairs.search_pair_counts)(
        weight, 1, most, goal, trials, np.full(1, SEED), np.empty((2, S), np.int64),
        np.empty((2, S)), np.empty(E, np.int64), np.empty(S - E, np.int64), count,
    )  # fmt: skip
    return best, count


def try_all(weight, count, most, effort=2**40):
    """The heaviest GPU by the kernel's own word, and the experts of each: [G, 2]."""
    E, S = weight.size, count.sum()
    keys, placed = np.empty((2, S), np.int64), np.empty(S, np.int64)
    state = state_of(weight, S // 2)
    start = as_entry(pairs.place_counts)(weight, count, 2**62, state, keys, placed)
    best = as_entry(pairs.try_all_counts)(
        weight, most, start, effort, state, keys, np.empty((3, E), np.int64),
        np.empty(S, np.int64), placed,
    )  # fmt: skip
    return start, best, placed.reshape(-1, 2)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, trials=st.sampled_from([0, 1, 30, 200]))
def test_searched_counts_add_up_and_are_no_worse(seed, trials):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(2, 10))
    weight, count = random_counts(rng, G, least=G)
    start = heaviest_pair(weight, count)
    best, found = search(weight, count, G, trials)
    assert found.sum() == 2 * G
    assert ((found >= 1) & (found <= G)).all()
    assert best == heaviest_pair(weight, found) <= start


def test_a_search_of_counts_ends_at_the_goal():
    rng = np.random.default_rng(3)
    weight, count = np.sort(rng.integers(1, 2**40, 24))[::-1].copy(), np.ones(24, np.int64)
    count[-8:] += 1
    start = heaviest_pair(weight, count)
    best = search(weight, count, 16, 3000)[0]
    goal = (start + best) / 2
    assert best < search(weight, count, 16, 3000, goal)[0] <= goal
    same, found = search(weight, count, 16, 3000, start)
    assert (same, found.tolist()) == (start, count.tolist())


def least_pair(weight, slots, most):
    """The heaviest GPU under the best of all counts, with no expert beside itself."""
    cuts = itertools.combinations(range(1, slots), weight.size - 1)
    counts = (np.diff([0, *cut, slots]) for cut in cuts)
    return min(best_pairing(weight, count) for count in counts if count.max() <= most)


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_all_counts_that_could_be_better_are_tried(seed):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 6))
    weight, count = random_counts(rng, G)
    _, best, placed = try_all(weight, count, G)
    found = np.bincount(placed.ravel())
    assert ((found >= 1) & (found <= G)).all()
    assert (placed[:, 0] != placed[:, 1]).all()
    assert best == (weight // found)[placed].sum(axis=1).max() == least_pair(weight, 2 * G, G)


def test_more_counts_than_the_effort_are_left_alone():
    weight, count = np.array([700, 650, 130, 110, 30, 15, 10, 5]), np.full(8, 2)
    start, best, placed = try_all(weight, count, 8, effort=10)
    assert best == start
    np.testing.assert_array_equal(np.bincount(placed.ravel()), count)
    start, best, _ = try_all(weight, count, 8, effort=6435)
    cuts = itertools.combinations(range(1, 16), 7)
    counts = (np.diff([0, *cut, 16]) for cut in cuts)
    assert best == min(heaviest_pair(weight, found) for found in counts if found.max() <= 8) < start
