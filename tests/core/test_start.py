"""How many replicas each expert gets, and a first place for each, against scans."""

import numpy as np
import pytest
import twins
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from layer import gpus

from evenload.core import start
from evenload.core.start import FIRST

BITS = 40
seeds = st.integers(0, 2**32)

# --- replicas ---------------------------------------------------------------------------------


def replicate(load, num_slots, most, least=1):
    """Counts and order by the kernel, as lists; experts are called by rank there."""
    E = len(load)
    rank = sorted(range(E), key=lambda e: (-load[e], e))
    weight = np.array([load[e] for e in rank], np.int64)
    count, order = np.full((2, E), -1, np.int64)
    scratch = np.full((2, E), -1, np.int64)
    before = weight.copy()
    as_entry(start.replicate)(weight, num_slots, least, most, scratch, count, order)
    np.testing.assert_array_equal(weight, before)
    return [count[rank.index(e)] for e in range(E)], [rank[r] for r in order]


@st.composite
def replicated(draw):
    """Loads on the grid, slots and the most replicas of one; few values, so that shares tie."""
    values = st.sampled_from([0, 1, 2, 3, 6, 2**BITS - 1, 2**BITS // 3, 2**BITS])
    load = draw(st.lists(st.one_of(values, st.integers(0, 2**BITS)), min_size=1, max_size=24))
    most = draw(st.integers(1, 6))
    least = draw(st.integers(1, most))
    num_slots = draw(st.integers(len(load) * least, len(load) * most))
    return sorted(load, reverse=True), num_slots, most, least


@settings(max_examples=200, deadline=None)
@given(replicated())
def test_replicas_are_those_of_the_scan(problem):
    assert replicate(*problem) == twins.replicate(*problem)


@pytest.mark.parametrize(("num_experts", "num_slots", "most"), [(256, 288, 32), (64, 512, 8)])
def test_replicas_are_those_of_the_scan_at_the_size_of_a_model(num_experts, num_slots, most):
    load = sorted(np.random.default_rng(0).zipf(1.4, num_experts) % 2**BITS, reverse=True)
    assert replicate(load, num_slots, most) == twins.replicate(load, num_slots, most)


def test_equal_experts_are_served_from_the_lowest_on():
    assert replicate([5, 5, 5, 5], 6, 4) == ([2, 2, 1, 1], [2, 3, 0, 1])


def test_nobody_gets_more_than_the_most():
    assert replicate([2**BITS, 1, 1], 6, 2) == ([2, 2, 2], [0, 1, 2])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**20), min_size=1, max_size=4), st.integers(0, 4), st.integers(1, 5)
)
def test_no_other_counts_have_a_smaller_largest_share(load, spare, most):
    num_slots = min(len(load) + spare, len(load) * most)
    # On the grid shares are cut to integers, so the loads are multiples of every count.
    load = [x * 60 for x in load]
    count, _ = replicate(load, num_slots, most)
    others = twins.all_counts(len(load), num_slots)
    allowed = others[(others <= most).all(axis=1)]
    best = (np.array(load) / allowed).max(axis=1).min()
    assert (np.array(load) / np.array(count)).max() == best


# --- longest first ----------------------------------------------------------------------------


def split(placed, gpu):
    return [row.tolist() for row in np.split(placed, gpu[FIRST, 1:])]


def longest_first(load, count, order, slots):
    """Experts on each GPU by the kernel, in the order in which they came."""
    gpu = gpus(slots)
    load, count, order = (np.array(x, np.int64) for x in (load, count, order))
    tree = np.full(2 << max((len(slots) - 1).bit_length(), 1), -1)
    placed = np.full(sum(slots), -1)
    scratch = np.full((2, len(slots)), -1)
    as_entry(start.longest_first)(load, count, order, gpu, tree, scratch, placed)
    return split(placed, gpu)


def by_scan(load, count, order, slots):
    return [[e for _, e in pack] for pack in twins.pack(load, count, order, slots)]


@st.composite
def packed(draw):
    """Loads, counts that fill GPUs of any slots, any order; many ties, and counts beyond G."""
    slots = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    E = draw(st.integers(1, sum(slots)))
    values = st.one_of(st.integers(0, 3), st.integers(0, 2**40))
    load = draw(st.lists(values, min_size=E, max_size=E))
    cuts = draw(st.permutations(range(1, sum(slots))))[: E - 1]
    count = np.diff([0, *sorted(cuts), sum(slots)]).tolist()
    return load, count, draw(st.permutations(range(E))), slots


@settings(max_examples=200, deadline=None)
@given(packed())
def test_longest_first_is_the_scan(problem):
    assert longest_first(*problem) == by_scan(*problem)


@pytest.mark.parametrize(("E", "G", "K"), [(256, 32, 9), (64, 48, 2), (60, 7, 10), (33, 33, 1)])
def test_longest_first_is_the_scan_at_the_size_of_a_model(E, G, K):
    load = np.random.default_rng(E).integers(0, 2**40, E)
    count, order = twins.replicate(load, G * K, G)
    assert longest_first(load, count, order, [K] * G) == by_scan(load, count, order, [K] * G)


def test_replicas_of_one_expert_take_the_lightest_gpus_apart():
    assert longest_first([8, 5, 3], [2, 1, 1], [0, 1, 2], [2, 2]) == [[0, 1], [0, 2]]


def test_replicas_meet_only_where_they_must():
    assert longest_first([9, 1], [3, 1], [1, 0], [2, 2]) == [[1, 0], [0, 0]]


# --- soonest done -----------------------------------------------------------------------------


def soonest_done(load, wanted, order, slots, unit_time, node, home, lightest):
    """Experts on each GPU by the kernel, in the order in which they came, and their counts."""
    gpu = gpus(slots, unit_time, node)
    load, wanted, order, home = (np.array(x, np.int64) for x in (load, wanted, order, home))
    count, placed = np.full(len(load), -1), np.full(sum(slots), -1)
    scratch = np.full((2, len(slots)), -1)
    as_entry(start.soonest_done)(load, wanted, order, count, gpu, home, lightest, scratch, placed)
    return split(placed, gpu), count.tolist()


def random_fleet(rng, homes):
    """GPUs of any slots and speed on some nodes, and homes that have room."""
    G = int(rng.integers(1, 7))
    slots = rng.integers(1, 6, G).tolist()
    E = int(rng.integers(1, sum(slots) + 1))
    node = np.sort(rng.integers(0, 3, G))
    load = np.sort(rng.integers(0, int(rng.choice([2, 1000])), E))[::-1]
    seats = rng.permutation(node.repeat(slots))[:E]
    home = np.where(rng.random(E) < (0.8 if homes else 0.0), seats, -1)
    most = max(G, -(-sum(slots) // E))
    wanted, order = twins.replicate(load, sum(slots), most)
    if rng.random() < 0.3:
        wanted, order = [1] * E, list(range(E))
    return load, wanted, order, slots, rng.integers(1, 4, G), node, home, bool(rng.random() < 0.5)


@settings(max_examples=200, deadline=None)
@given(seed=seeds, homes=st.booleans())
def test_soonest_done_is_the_scan(seed, homes):
    problem = random_fleet(np.random.default_rng(seed), homes)
    assert soonest_done(*problem) == twins.soonest_done(*problem)


@settings(max_examples=200, deadline=None)
@given(seed=seeds, homes=st.booleans())
def test_the_start_is_whole_on_any_gpus(seed, homes):
    problem = random_fleet(np.random.default_rng(seed), homes)
    load, _, _, _, _, node, home, _ = problem
    gpu, count = soonest_done(*problem)
    E = len(load)
    assert count == np.bincount(sum(gpu, []), minlength=E).tolist()
    assert min(count) >= 1
    for row in gpu:
        assert len(row) - len(set(row)) == max(0, len(row) - E)
    for e in np.flatnonzero(home >= 0):
        assert any(e in row for g, row in enumerate(gpu) if node[g] == home[e])


@pytest.mark.parametrize(
    ("unit_time", "wanted"), [([1, 3], [[0, 1], [2, 3]]), ([1, 1], [[0, 3], [1, 2]])]
)
def test_the_largest_share_goes_to_the_gpu_that_is_done_first(unit_time, wanted):
    load, none = [6, 5, 4, 1], [-1] * 4
    placed, _ = soonest_done(load, [1] * 4, range(4), [2, 2], unit_time, [0, 0], none, False)
    assert placed == wanted


@pytest.mark.parametrize(
    ("lightest", "wanted"), [(True, [[0, 2, 1], [1, 2]]), (False, [[0, 1, 2], [1, 2]])]
)
def test_the_slots_left_go_to_the_lightest_or_to_the_largest_share(lightest, wanted):
    placed, _ = soonest_done(
        [9, 8, 1], [1, 1, 1], range(3), [3, 2], [1, 1], [0, 0], [-1] * 3, lightest
    )
    assert placed == wanted
