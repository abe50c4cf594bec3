"""Parting replicas that share a GPU."""

import numpy as np
import twins
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.core import packing

part_duplicates = as_entry(packing.part_duplicates)


def run(packs, max_swaps=0):
    """Packs after the kernel, as sorted lists of (share, expert)."""
    slots = sum(packs, [])
    weight = np.array([w for w, _ in slots], float)
    expert = np.array([e for _, e in slots])
    item = np.arange(len(slots)).reshape(len(packs), -1)
    part_duplicates(weight, expert, max_swaps, item)
    assert sorted(item.ravel().tolist()) == list(range(len(slots)))
    return [sorted(slots[i] for i in pack) for pack in item.tolist()]


def in_order(packs):
    return [sorted(pack) for pack in packs]


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


@settings(max_examples=150, deadline=None)
@given(packs())
def test_agrees_with_the_scan(packs):
    assert run(packs) == in_order(twins.deduplicate(packs))


@settings(max_examples=150, deadline=None)
@given(packs(most="one a pack"), st.integers(0, 9))
def test_none_is_left_where_each_replica_can_have_a_pack_of_its_own(packs, max_swaps):
    after = run(packs, max_swaps)
    assert twins.num_duplicates(after) == 0
    assert sorted(sum(after, [])) == sorted(sum(packs, []))


def test_the_exchange_that_keeps_the_pair_lightest_is_taken():
    packs = [[(9, 0), (9, 0)], [(4, 1), (1, 2)], [(8, 3), (7, 4)]]
    # 9 for 4 leaves 13 and 10, 9 for 1 leaves 10 and 13, 9 for 8 leaves 17 and 16.
    assert run(packs) == in_order([[(9, 0), (4, 1)], [(9, 0), (1, 2)], [(8, 3), (7, 4)]])


def test_more_replicas_than_packs_are_left_as_they_are():
    packs = [[(5, 0), (5, 0)], [(5, 0), (1, 1)]]
    assert run(packs) == in_order(packs)


@settings(max_examples=150, deadline=None)
@given(packs(most="one a pack"), st.integers(1, 9))
def test_swaps_mend_what_parting_did(packs, max_swaps):
    before, after = (
        max(sum(w for w, _ in pack) for pack in run(packs, swaps)) for swaps in (0, max_swaps)
    )
    assert after <= before
