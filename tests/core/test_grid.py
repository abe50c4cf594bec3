"""Loads as integers, random numbers, sorting and the heap, against Python's own."""

import numpy as np
import pytest
import twins
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.core import grid
from evenload.core.grid import LOAD_BITS, SEED

bit_length = as_entry(grid.bit_length)
random_below = as_entry(grid.random_below)
sort_keys = as_entry(grid.sort_keys)
push, replace_top = as_entry(grid.push), as_entry(grid.replace_top)

KEYS = st.one_of(st.integers(-8, 8), st.integers(-(2**62), 2**62))
loads = st.lists(
    st.one_of(st.integers(0, 9), st.integers(0, 2**53), st.floats(0, 1e300)),
    min_size=1,
    max_size=12,
)


def grid_of(load, bits=LOAD_BITS):
    out = np.full(len(load), -1, np.int64)
    as_entry(grid.relative_grid)(np.array(load, np.float64), bits, out)
    return out.tolist()


@settings(deadline=None)
@given(st.integers(1, 2**40))
def test_bit_length_holds_the_numbers_below(number):
    assert bit_length(number) == max(1, (number - 1).bit_length())


@settings(max_examples=150, deadline=None)
@given(loads, st.sampled_from([8, 20, LOAD_BITS]))
def test_relative_grid_is_the_nearest_point(load, bits):
    if max(load) == 0:
        return
    # Half a step, and what one division in float64 may be off.
    for point, exact in zip(grid_of(load, bits), twins.relative_grid(load, bits), strict=True):
        assert abs(point - exact) <= 0.5 + float(exact) * 2.0**-52


@settings(max_examples=100, deadline=None)
@given(loads.filter(lambda load: max(load) > 0))
def test_the_largest_fills_the_grid_and_order_is_kept(load):
    points = grid_of(load)
    assert max(points) == 2**LOAD_BITS
    by_load = np.argsort(np.array(load, np.float64), kind="stable")
    assert (np.diff(np.array(points)[by_load]) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=12),
    st.integers(1, 2**13),
    st.integers(-600, 600),
)
def test_the_scale_of_a_load_does_not_matter(load, factor, exponent):
    points = grid_of(load)
    assert grid_of([x * factor for x in load]) == points
    assert grid_of(np.ldexp(np.array(load, np.float64), exponent)) == points


@pytest.mark.parametrize("num_experts", [1, 5])
def test_no_load_counts_as_even(num_experts):
    assert grid_of([0.0] * num_experts) == [1] * num_experts


@pytest.mark.parametrize("tiny", [5e-324, 1e-310])
def test_subnormal_loads_are_as_good_as_any(tiny):
    assert grid_of([tiny, 0.0, tiny]) == [2**LOAD_BITS, 0, 2**LOAD_BITS]


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


@settings(max_examples=150, deadline=None)
@given(st.lists(KEYS, max_size=80), st.integers(0, 3))
def test_sorts_keys_that_may_be_equal_and_leaves_the_rest(keys, spare):
    array = np.array([*keys, *[-1] * spare], np.int64)
    sort_keys(array, len(keys), np.empty(len(keys), np.int64))
    assert array.tolist() == [*sorted(keys), *[-1] * spare]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), KEYS), min_size=1, max_size=80))
def test_the_top_of_the_heap_is_always_the_smallest(steps):
    heap = np.zeros(len(steps), np.int64)
    held = []
    for replace, key in steps:
        if replace and held:
            held.remove(min(held))
            replace_top(heap, len(held) + 1, key)
        else:
            push(heap, len(held), key)
        held.append(key)
        assert heap[0] == min(held)
    assert sorted(heap[: len(held)].tolist()) == sorted(held)
