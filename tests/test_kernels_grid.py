"""Loads as integers."""

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels.grid import KEY_BITS, LOAD_BITS, bit_length, load_bits, relative_grid

loads = st.lists(
    st.one_of(st.integers(0, 9), st.integers(0, 2**53), st.floats(0, 1e300)),
    min_size=1,
    max_size=12,
)


def grid_of(load, bits=LOAD_BITS):
    out = np.full(len(load), -1, np.int64)
    relative_grid(np.array(load, np.float64), bits, out)
    return out.tolist()


@settings(deadline=None)
@given(st.integers(1, 2**40))
def test_bit_length_holds_the_numbers_below(number):
    assert bit_length(number) == max(1, (number - 1).bit_length())


@settings(deadline=None)
@given(st.integers(1, 2**20), st.integers(1, 2**16))
def test_keys_of_all_items_in_one_pack_fit(num_items, num_packs):
    bits = load_bits(num_items, num_packs)
    total = num_items << bits
    assert (total << bit_length(num_packs)) <= 2**KEY_BITS
    assert (total << bit_length(num_packs)) > 2**KEY_BITS // 4


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
