"""How many replicas each expert gets."""

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels.grid import bit_length
from evenload.kernels.replicate import replicate

BITS = 40


def run(load, num_slots, most):
    """Counts and order by the kernel, as lists."""
    E = len(load)
    load = np.array(load, np.int64)
    count, order = np.full((2, E), -1, np.int64)
    scratch = np.full((2, E), -1, np.int64)
    before = load.copy()
    replicate(load, BITS, num_slots, most, bit_length(E), scratch, count, order)
    np.testing.assert_array_equal(load, before)
    return count.tolist(), order.tolist()


@st.composite
def problems(draw):
    """Loads on the grid, slots and the most replicas of one; few values, so that shares tie."""
    values = st.sampled_from([0, 1, 2, 3, 6, 2**BITS - 1, 2**BITS // 3, 2**BITS])
    load = draw(st.lists(st.one_of(values, st.integers(0, 2**BITS)), min_size=1, max_size=24))
    most = draw(st.integers(1, 6))
    num_slots = draw(st.integers(len(load), len(load) * most))
    return load, num_slots, most


@settings(max_examples=200, deadline=None)
@given(problems())
def test_agrees_with_the_scan(problem):
    assert run(*problem) == twins.replicate(*problem)


@pytest.mark.parametrize(("num_experts", "num_slots", "most"), [(256, 288, 32), (64, 512, 8)])
def test_agrees_with_the_scan_at_the_size_of_a_model(num_experts, num_slots, most):
    load = np.random.default_rng(0).zipf(1.4, num_experts) % 2**BITS
    assert run(load, num_slots, most) == twins.replicate(load, num_slots, most)


def test_equal_experts_are_served_from_the_lowest_on():
    assert run([5, 5, 5, 5], 6, 4) == ([2, 2, 1, 1], [2, 3, 0, 1])


def test_nobody_gets_more_than_the_most():
    assert run([2**BITS, 1, 1], 6, 2) == ([2, 2, 2], [0, 1, 2])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**20), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(1, 5),
)
def test_no_other_counts_have_a_smaller_largest_share(load, spare, most):
    num_slots = min(len(load) + spare, len(load) * most)
    # On the grid shares are cut to integers, so the loads are multiples of every count.
    load = [x * 60 for x in load]
    count, _ = run(load, num_slots, most)
    others = twins.all_counts(len(load), num_slots)
    allowed = others[(others <= most).all(axis=1)]
    best = (np.array(load) / allowed).max(axis=1).min()
    assert (np.array(load) / np.array(count)).max() == best
