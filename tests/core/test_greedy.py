"""DeepSeek's two steps, compiled: the tournament, and replicas against the scan."""

import numpy as np
import twins
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.core import greedy
from evenload.core.compile import Entry, Float1, Int, Int1

width_for = as_entry(greedy._width_for)
start = Entry(greedy._start.py_func, (Int1, Float1))
replay = Entry(greedy._replay.py_func, (Int1, Float1, Int))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, np.inf]), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0, np.inf])), max_size=30),
)
def test_the_tournament_is_won_by_the_smallest_ties_to_the_lowest(keys, changes):
    width = width_for(len(keys))
    assert width >= max(2, len(keys))
    key = np.full(width, np.inf)
    key[: len(keys)] = keys
    tree = np.empty(2 * width, np.int64)
    start(tree, key)
    assert tree[1] == np.argmin(key)
    for place, value in changes:
        place %= len(keys)
        key[place] = value
        replay(tree, key, place)
        assert tree[1] == np.argmin(key)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_deepseeks_rule_agrees_with_the_scan(data):
    values = st.one_of(st.integers(0, 4), st.integers(0, 2**30))
    E = data.draw(st.integers(1, 12))
    spare = data.draw(st.integers(0, 12))
    rows = data.draw(st.lists(st.lists(values, min_size=E, max_size=E), min_size=1, max_size=3))
    weight = np.array(rows, np.float32)
    expert, rank = np.full((2, len(rows), E + spare), -1, np.int64)
    count = np.full((len(rows), E), -1, np.int64)
    greedy.replicate(weight, E + spare, expert, rank, count)
    for row in range(len(rows)):
        wanted = twins.replicate_in_float(weight[row], E + spare)
        assert expert[row].tolist() == wanted[0]
        assert rank[row].tolist() == wanted[1]
        np.testing.assert_array_equal(count[row], wanted[2])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=9), st.integers(1, 5), st.data())
def test_no_expert_gets_more_replicas_than_allowed(row, most, data):
    E = len(row)
    spare = data.draw(st.integers(0, E * (most - 1)))
    expert, rank = np.empty((2, 1, E + spare), np.int64)
    count = np.empty((1, E), np.int64)
    greedy.replicate(np.array([row], np.float32), most, expert, rank, count)
    assert count.max() <= most
    wanted, _ = twins.replicate([x * 2**30 for x in row], E + spare, most)
    assert count[0].tolist() == wanted
