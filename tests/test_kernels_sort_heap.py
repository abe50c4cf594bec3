"""Sorting, the heap and the tournament against Python's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels.heap import push, replace_top
from evenload.kernels.sort import heap_sort, insertion_sort, sort_few, sort_keys

KEYS = st.one_of(st.integers(0, 8), st.integers(0, 2**62))


def sorted_by_kernel(keys, bits, spare=0):
    array = np.full(len(keys) + spare, -7, np.int64)
    array[: len(keys)] = keys
    scratch, tally = np.empty_like(array), np.empty(256, np.int64)
    sort_keys(array, len(keys), bits, scratch, tally)
    assert (array[len(keys) :] == -7).all()
    return array[: len(keys)].tolist()


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 62))
def test_sorts_keys_of_any_width(data, bits):
    keys = data.draw(st.lists(st.integers(0, 2**bits - 1), unique=True, max_size=60))
    assert sorted_by_kernel(keys, bits, spare=3) == sorted(keys)


@pytest.mark.parametrize("num_keys", [2, 40, 300])
@pytest.mark.parametrize("order", ["falling", "random"])
def test_sorts_keys_that_agree_in_the_leading_bits(num_keys, order):
    """The counting passes settle nothing then: insertion for few keys, a heap for many."""
    keys = np.arange(num_keys)[::-1] + (1 << 50)
    if order == "random":
        keys = np.random.default_rng(num_keys).permutation(keys)
    assert sorted_by_kernel(keys.tolist(), 51) == sorted(keys.tolist())


@settings(max_examples=60, deadline=None)
@given(st.lists(KEYS, max_size=40), st.integers(0, 60))
def test_insertion_sort_gives_up_after_so_many_shifts(keys, most_shifts):
    inversions = sum(a > b for i, a in enumerate(keys) for b in keys[i + 1 :])
    array = np.array([*keys, -1], np.int64)
    done = insertion_sort(array, len(keys), most_shifts)
    assert done == (inversions <= most_shifts)
    assert sorted(array[:-1].tolist()) == sorted(keys)
    assert array[-1] == -1
    if done:
        assert array[:-1].tolist() == sorted(keys)


@pytest.mark.parametrize("sort", [heap_sort, sort_few])
@settings(max_examples=100, deadline=None)
@given(st.lists(KEYS, max_size=80), st.integers(0, 3))
def test_sorts_keys_that_may_be_equal(sort, keys, spare):
    array = np.array([*keys, *[-1] * spare], np.int64)
    sort(array, len(keys))
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
