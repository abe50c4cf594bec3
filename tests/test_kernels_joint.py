"""The kernels of the joint search against slow, obvious twins."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels.fleet import copy_out, fill, new_fleet
from evenload.kernels.fleet_swap import best_swap, descend, may_swap, swap
from evenload.kernels.handover import hand_over, may_hand_over
from evenload.kernels.pair_counts import exchange_shares, judge_pairs, search_pair_counts
from evenload.kernels.undo import new_undo, take_back

seeds = st.integers(0, 2**32)


def random_fleet(rng):
    """A fleet of GPUs that differ, on two nodes, half of the experts at home on one of them."""
    G = int(rng.integers(2, 6))
    slots = rng.integers(1, 4, G)
    E = int(rng.integers(1, slots.sum() + 1))
    node = np.sort(rng.integers(0, 2, G))
    fleet = new_fleet(E, slots, rng.integers(1, 4, G), node)
    fleet.weight[:] = rng.integers(0, 1000, E) * 12
    expert = np.concatenate([np.arange(E), rng.integers(0, E, slots.sum() - E)])
    placed = rng.permutation(expert)
    fill(fleet, placed)
    for e in range(0, E, 2):
        fleet.home[e] = node[np.flatnonzero(fleet.held[e])[0]]
    fill(fleet, placed)
    return fleet


def check_state(fleet):
    """Compare everything that is kept up to date with what the slots say."""
    G, E = fleet.slots.size, fleet.weight.size
    count = np.zeros(E, int)
    held = np.zeros((E, G), int)
    for g in range(G):
        for e in fleet.expert[g, : fleet.slots[g]]:
            count[e] += 1
            held[e, g] += 1
    np.testing.assert_array_equal(fleet.count, count)
    np.testing.assert_array_equal(fleet.held, held)
    away = 0
    for g in range(G):
        experts = fleet.expert[g, : fleet.slots[g]]
        share = fleet.weight[experts] // count[experts]
        np.testing.assert_array_equal(fleet.share[g, : fleet.slots[g]], share)
        assert (np.diff(share) <= 0).all()
        assert fleet.load[g] == share.sum()
        home = fleet.home[experts]
        away += share[(home >= 0) & (home != fleet.node[g])].sum()
    assert fleet.away[0] == away
    keys = np.sort(((fleet.load * fleet.unit_time) << fleet.bits) | np.arange(G))
    np.testing.assert_array_equal(fleet.ranking, keys)
    at_home = [
        held[e].sum() if fleet.home[e] < 0 else held[e, fleet.node == fleet.home[e]].sum()
        for e in range(E)
    ]
    np.testing.assert_array_equal(fleet.at_home, at_home)


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_a_fleet_stays_consistent(seed):
    rng = np.random.default_rng(seed)
    fleet = random_fleet(rng)
    check_state(fleet)
    G = fleet.slots.size
    undo = new_undo(G, fleet.slots.max())
    before, counts = np.empty(fleet.slots.sum(), np.int64), fleet.count.copy()
    copy_out(fleet, before)
    kept = 0
    for _ in range(6):
        m, k = rng.choice(G, 2, replace=False)
        i, j = rng.integers(fleet.slots[m]), rng.integers(fleet.slots[k])
        giver, taker = fleet.expert[m, i], int(rng.integers(fleet.weight.size))
        if may_hand_over(fleet, giver, m, taker):
            kept = hand_over(fleet, giver, m, taker, undo, kept)
        elif may_swap(fleet, m, i, k, j) and kept == 0:
            swap(fleet, m, i, k, j)
            copy_out(fleet, before)
        check_state(fleet)
        assert (fleet.at_home >= 1).all()
    fleet.count[:] = counts
    take_back(undo, kept, fleet)
    check_state(fleet)
    after = np.empty_like(before)
    copy_out(fleet, after)
    np.testing.assert_array_equal(after, before)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_the_best_swap_helps_and_is_legal(seed):
    fleet = random_fleet(np.random.default_rng(seed))
    for m, k in itertools.permutations(range(fleet.slots.size), 2):
        now = max(fleet.load[m] * fleet.unit_time[m], fleet.load[k] * fleet.unit_time[k])
        time, i, j = best_swap(fleet, m, k, now)
        if i < 0:
            assert time == now
            continue
        assert time < now
        assert may_swap(fleet, m, i, k, j)
        swap(fleet, m, i, k, j)
        assert time == max(fleet.load[m] * fleet.unit_time[m], fleet.load[k] * fleet.unit_time[k])


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_a_descent_never_ends_later(seed):
    fleet = random_fleet(np.random.default_rng(seed))
    start = (fleet.load * fleet.unit_time).max()
    descend(fleet, 0, 0, 100, new_undo(fleet.slots.size, fleet.slots.max()), 0)
    check_state(fleet)
    assert (fleet.load * fleet.unit_time).max() <= start


@settings(max_examples=150, deadline=None)
@given(seed=seeds)
def test_shares_are_exchanged_as_if_sorted_anew(seed):
    rng = np.random.default_rng(seed)
    n_a, n_b = rng.integers(1, 4, 2)
    m_a = int(rng.integers(0, n_a + n_b + 1))
    m_b = n_a + n_b - m_a
    out_a, out_b, in_a, in_b = (float(x) for x in rng.integers(0, 12, 4))
    others = rng.integers(0, 12, rng.integers(0, 8)).astype(float)
    old = np.sort(np.r_[others, [out_a] * n_a, [out_b] * n_b])[::-1].copy()
    new = np.empty_like(old)
    exchange_shares(old, new, out_a, n_a, out_b, n_b, in_a, m_a, in_b, m_b)
    np.testing.assert_array_equal(new, np.sort(np.r_[others, [in_a] * m_a, [in_b] * m_b])[::-1])


def pairings(items):
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for i, other in enumerate(rest):
        for more in pairings(rest[:i] + rest[i + 1 :]):
            yield [first + other, *more]


@settings(max_examples=60, deadline=None)
@given(items=st.lists(st.integers(0, 30), min_size=2, max_size=8).filter(lambda x: len(x) % 2 == 0))
def test_pairs_from_both_ends_are_the_best_there_are(items):
    share = np.sort(np.array(items, float))[::-1].copy()
    heaviest, excess, place = judge_pairs(share, 5.0, np.inf)
    assert heaviest == min(max(pairs) for pairs in pairings(items))
    sums = [share[i] + share[-1 - i] for i in range(len(items) // 2)]
    assert sums[place] == heaviest
    assert excess == sum(max(s - 5.0, 0.0) ** 2 for s in sums)


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_searched_counts_add_up_and_are_no_worse(seed):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(2, 10))
    E = int(rng.integers(G, 2 * G + 1))
    weight = rng.integers(1, 10**6, E)
    count = np.ones(E, np.int64)
    for _ in range(2 * G - E):
        count[rng.choice(np.flatnonzero(count < G))] += 1
    share = np.sort(np.repeat(weight // count, count).astype(float))[::-1].copy()
    start = judge_pairs(share, np.inf, np.inf)[0]
    best = search_pair_counts(weight, G, 0.0, 200, count)
    assert count.sum() == 2 * G
    assert ((count >= 1) & (count <= G)).all()
    share = np.sort(np.repeat(weight // count, count).astype(float))[::-1].copy()
    assert best == judge_pairs(share, np.inf, np.inf)[0] <= start
