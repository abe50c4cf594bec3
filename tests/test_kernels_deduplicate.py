"""Parting replicas that share a GPU."""

import numpy as np
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels.deduplicate import deduplicate, has_duplicate
from evenload.kernels.grid import bit_length
from evenload.kernels.packs import Packs


def arrays(packs):
    share = np.array([[w for w, _ in p] for p in packs], np.int64)
    expert = np.array([[e for _, e in p] for p in packs], np.int64)
    return share, expert


def run(packs):
    """Packs after the kernel, as lists of (share, expert)."""
    share, expert = arrays(packs)
    load = share.sum(axis=1)
    unused = np.empty_like(load)
    deduplicate(Packs(share, expert, load, unused, bit_length(len(packs))))
    np.testing.assert_array_equal(load, share.sum(axis=1))
    return [
        list(zip(w, e, strict=True)) for w, e in zip(share.tolist(), expert.tolist(), strict=True)
    ]


@st.composite
def packs(draw, most=None):
    """Packs with replicas anywhere; at most `most` (default: no limit) more replicas than packs."""
    G, K = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    limit = G * K if most is None else G
    E = draw(st.integers(-(-G * K // limit), G * K))
    weight = draw(
        st.lists(st.integers(0, draw(st.sampled_from([3, 2**40]))), min_size=E, max_size=E)
    )
    places = [e for e in range(E) for _ in range(limit)]
    held = draw(st.permutations(places))[: G * K]
    return [[(weight[e], e) for e in held[g * K : (g + 1) * K]] for g in range(G)]


@settings(max_examples=100, deadline=None)
@given(packs())
def test_tells_whether_there_is_a_duplicate(packs):
    assert has_duplicate(arrays(packs)[1]) == (twins.num_duplicates(packs) > 0)


@settings(max_examples=150, deadline=None)
@given(packs())
def test_agrees_with_the_scan(packs):
    assert run(packs) == twins.deduplicate(packs)


@settings(max_examples=150, deadline=None)
@given(packs(most="one a pack"))
def test_none_is_left_where_each_replica_can_have_a_pack_of_its_own(packs):
    after = run(packs)
    assert twins.num_duplicates(after) == 0
    assert sorted(sum(after, [])) == sorted(sum(packs, []))


def test_the_exchange_that_keeps_the_pair_lightest_is_taken():
    packs = [[(9, 0), (9, 0)], [(4, 1), (1, 2)], [(8, 3), (7, 4)]]
    # 9 for 4 leaves 13 and 10, 9 for 1 leaves 10 and 13, 9 for 8 leaves 17 and 16.
    assert run(packs) == [[(9, 0), (4, 1)], [(9, 0), (1, 2)], [(8, 3), (7, 4)]]


def test_more_replicas_than_packs_are_left_as_they_are():
    packs = [[(5, 0), (5, 0)], [(5, 0), (1, 1)]]
    assert run(packs) == packs
