"""The kernels of the joint search against slow, obvious twins."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels.fleet import copy_out, fill, new_fleet
from evenload.kernels.fleet_start import start_fleet
from evenload.kernels.fleet_swap import best_swap, descend, may_swap, swap
from evenload.kernels.grid import relative_grid
from evenload.kernels.handover import hand_over, may_hand_over
from evenload.kernels.joint import joint
from evenload.kernels.packs import empty_packs
from evenload.kernels.pair_counts import exchange_shares, judge_pairs, search_pair_counts
from evenload.kernels.pairs import pair_up, search_pairs
from evenload.kernels.random import SEED
from evenload.kernels.ranking import rerank
from evenload.kernels.trial import disturb, redo_count
from evenload.kernels.undo import keep, new_undo, take_back

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


# --- a trial and a search ---------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(seed=seeds, swaps=st.integers(0, 5))
def test_a_trial_is_taken_back_without_a_trace(seed, swaps):
    """Handovers, random swaps and descents, kept and taken back in turn."""
    rng = np.random.default_rng(seed)
    fleet = random_fleet(rng)
    undo = new_undo(fleet.slots.size, fleet.slots.max())
    state = np.full(1, SEED ^ np.uint64(seed))
    for _ in range(6):
        before = [np.array(part) for part in fleet]
        kept, place, giver, taker = disturb(fleet, state, undo)
        kept = descend(fleet, 0, 0, swaps, undo, kept)
        check_state(fleet)
        assert sorted(fleet.spare.tolist()) == list_spares(fleet)
        if place >= 0 or kept == 0 or rng.random() < 0.5:
            take_back(undo, kept, fleet)
            if place >= 0:
                redo_count(fleet, place, giver, taker)
            for now, then in zip(fleet, before, strict=True):
                np.testing.assert_array_equal(now, then)
        else:
            undo.is_kept[:] = 0
        assert not undo.is_kept.any()


def list_spares(fleet):
    return np.repeat(np.arange(fleet.count.size), fleet.count - 1).tolist()


def duplicates_of(placed, slots):
    return sum(len(gpu) - len(set(gpu)) for gpu in split(placed, slots))


def split(placed, slots):
    """The experts of each GPU."""
    return [gpu.tolist() for gpu in np.split(placed, np.cumsum(slots)[:-1])]


@settings(max_examples=150, deadline=None)
@given(
    seed=seeds,
    price=st.sampled_from([0.0, 0.5, 3.0, 1000.0]),
    trials=st.sampled_from([0, 5, 60, 600]),
)
def test_the_search_never_raises_the_cost(seed, price, trials):
    """Time of the last GPU and what tokens away from home cost, on the integers of the search."""
    bits = 30
    rng = np.random.default_rng(seed)
    fleet = random_fleet(rng)
    load = fleet.weight.astype(float)
    slots, unit_time, node, home = fleet.slots, fleet.unit_time, fleet.node, fleet.home.copy()
    start = np.empty(slots.sum(), np.int64)
    copy_out(fleet, start)
    found = start[None].copy()
    goal = np.array([rng.choice([0.0, 1.0, 1.2])])
    joint(load[None], bits, slots, unit_time, node, home[None], price, goal, trials, found)

    def cost(placed):
        relative_grid(load, bits, fleet.weight)
        fill(fleet, placed)
        away = int(price / (1 / unit_time).sum() * fleet.away[0])
        return int((fleet.load * unit_time).max()) + away

    before = cost(start)
    assert cost(found[0]) <= before
    assert (fleet.count >= 1).all()
    assert (fleet.at_home >= 1).all()
    assert duplicates_of(found[0], slots) <= duplicates_of(start, slots)


def test_a_search_that_stands_still_goes_on_elsewhere():
    """Layers of few experts have local optima that no single trial leaves."""
    rng = np.random.default_rng(0)
    slots, node = np.full(4, 3), np.zeros(4, np.int64)
    load = rng.lognormal(0.0, 1.0, (40, 8))
    one = np.ones(4, np.int64)
    home = np.full(load.shape, -1)

    def last_gpu(trials):
        found = np.empty((40, 12), np.int64)
        start_fleet(load, 30, slots, one, node, home, found)
        joint(load, 30, slots, one, node, home, 0.0, np.zeros(40), trials, found)
        count = np.stack([np.bincount(row, minlength=8) for row in found])
        share = np.take_along_axis(load / count, found, axis=1)
        return share.reshape(40, 4, 3).sum(axis=2).max(axis=1)

    # 32 handovers and 12 slots: 44 trials without a gain are a standstill.
    short, long = last_gpu(300), last_gpu(5000)
    assert (long <= short * (1 + 1e-9)).all()
    assert (long < short * (1 - 1e-3)).mean() > 0.2


@settings(max_examples=150, deadline=None)
@given(seed=seeds, limit=st.floats(0.0, 1.5))
def test_the_walk_finds_the_best_exchange_where_all_are_legal(seed, limit):
    rng = np.random.default_rng(seed)
    slots = rng.integers(1, 6, 3)
    E = int(slots.sum())
    fleet = new_fleet(E, slots, rng.integers(1, 4, 3), np.zeros(3, np.int64))
    fleet.weight[:] = rng.integers(0, int(rng.choice([4, 1000])), E)
    fill(fleet, rng.permutation(E))
    load, unit = fleet.load, fleet.unit_time
    for m, k in itertools.permutations(range(3), 2):
        change = np.subtract.outer(fleet.share[m, : slots[m]], fleet.share[k, : slots[k]])
        later = np.maximum((load[m] - change) * unit[m], (load[k] + change) * unit[k])
        most = int(later.min() * limit)
        time, i, j = best_swap(fleet, m, k, most)
        assert time == min(most, later.min())
        assert (i, j) == (-1, -1) if most <= later.min() else later[i, j] == time


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_a_swap_is_taken_back(seed):
    rng = np.random.default_rng(seed)
    fleet = random_fleet(rng)
    before = [np.array(part) for part in fleet]
    G, kept = fleet.slots.size, 0
    undo = new_undo(G, fleet.slots.max())
    for _ in range(8):
        m, k = rng.choice(G, 2, replace=False)
        i, j = rng.integers(fleet.slots[m]), rng.integers(fleet.slots[k])
        if may_swap(fleet, m, i, k, j):
            kept = keep(undo, keep(undo, kept, fleet, m), fleet, k)
            swap(fleet, m, i, k, j)
            check_state(fleet)
            assert (fleet.at_home >= 1).all()
    take_back(undo, kept, fleet)
    for now, then in zip(fleet, before, strict=True):
        np.testing.assert_array_equal(now, then)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=8, unique=True), st.data())
def test_a_key_that_changes_finds_its_place(keys, data):
    ranking = np.array(sorted(keys))
    old = data.draw(st.sampled_from(keys))
    new = data.draw(st.integers(0, 20).filter(lambda key: key == old or key not in keys))
    rerank(ranking, old, new)
    assert ranking.tolist() == sorted({*keys, new} - ({old} - {new}))


# --- where a search starts --------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(seed=seeds, homes=st.booleans())
def test_the_start_is_whole_on_any_gpus(seed, homes):
    """GPUs of any slots and speed; experts at home where there is room for them."""
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 7))
    slots = rng.integers(1, 6, G)
    E = int(rng.integers(1, slots.sum() + 1))
    node = np.sort(rng.integers(0, 3, G))
    load = rng.integers(0, int(rng.choice([2, 1000])), (2, E)).astype(float)
    home = np.full((2, E), -1)
    if homes:
        seats = node.repeat(slots)
        for row in home:
            row[:] = np.where(rng.random(E) < 0.8, rng.permutation(seats)[:E], -1)
    placed = np.full((2, slots.sum()), -1)
    start_fleet(load, 30, slots, rng.integers(1, 4, G), node, home, placed)
    for layer, row in enumerate(placed):
        assert set(row.tolist()) == set(range(E))
        for gpu in split(row, slots):
            assert len(gpu) - len(set(gpu)) == max(0, len(gpu) - E)
        at = node.repeat(slots)
        for e in np.flatnonzero(home[layer] >= 0):
            assert home[layer, e] in at[row == e]


def test_the_start_gives_the_largest_share_to_the_gpu_that_is_done_first():
    placed = np.empty((1, 4), np.int64)
    one = np.zeros(2, np.int64)
    load, home = np.array([[6.0, 5.0, 4.0, 1.0]]), np.full((1, 4), -1)
    start_fleet(load, 20, np.array([2, 2]), np.array([1, 3]), one, home, placed)
    assert split(placed[0], [2, 2]) == [[0, 1], [2, 3]]
    start_fleet(load, 20, np.array([2, 2]), np.array([1, 1]), one, home, placed)
    assert split(placed[0], [2, 2]) == [[0, 3], [1, 2]]


# --- two slots a GPU --------------------------------------------------------------------------


def random_counts(rng, G):
    """Loads, and counts of at most one replica a GPU."""
    E = int(rng.integers(2, 2 * G + 1))
    count = np.ones(E, np.int64)
    for _ in range(2 * G - E):
        count[rng.choice(np.flatnonzero(count < G))] += 1
    return rng.integers(0, int(rng.choice([5, 2**40])), E), count


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
def test_replicas_are_paired_apart_and_as_well_as_can_be(seed):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 6))
    weight, count = random_counts(rng, G)
    packs = empty_packs(G, 2)
    pair_up(weight, count, packs)
    np.testing.assert_array_equal(np.bincount(packs.expert.ravel()), count)
    np.testing.assert_array_equal(packs.share, (weight // count)[packs.expert])
    np.testing.assert_array_equal(packs.load, packs.share.sum(axis=1))
    assert (packs.expert[:, 0] != packs.expert[:, 1]).all()
    share = np.sort(np.repeat(weight // count, count).astype(float))[::-1].copy()
    best = best_pairing(weight, count)
    assert packs.load.max() == best >= judge_pairs(share, np.inf, np.inf)[0]


@settings(max_examples=150, deadline=None)
@given(seed=seeds, trials=st.sampled_from([0, 1, 200]), goal=st.sampled_from([0.0, 1.0, 1.3]))
def test_searched_pairs_are_no_worse_and_tell_when_the_counts_are_done_with(seed, trials, goal):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 6))
    weight, count = random_counts(rng, G)
    weight[rng.integers(weight.size)] = 2**40  # the grid is then the loads themselves
    packs = empty_packs(G, 2)
    pair_up(weight, count, packs)
    start = packs.expert[rng.permutation(G)]
    found, best = start.reshape(1, -1).copy(), np.zeros(1, np.uint8)
    search_pairs(weight[None].astype(float), np.array([goal]), trials, found, best)

    def heaviest(pairs):
        share = weight // np.bincount(pairs.ravel(), minlength=weight.size)
        return share[pairs].sum(axis=1).max()

    pairs = found.reshape(G, 2)
    assert set(pairs.ravel().tolist()) == set(range(weight.size))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert heaviest(pairs) <= heaviest(start)
    if best[0]:
        assert heaviest(pairs) <= best_pairing(weight, count)
