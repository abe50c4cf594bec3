"""GPUs matched with GPUs, against scipy and against every order of them."""

import itertools

import numpy as np
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from evenload.core import matching
from evenload.core.matching import relabel

assign = as_entry(matching._assign)


seeds = st.integers(0, 2**32)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, n=st.integers(1, 9), row=st.integers(0, 2), column=st.integers(0, 2))
def test_the_assignment_is_scipys(seed, n, row, column):
    whole = np.random.default_rng(seed).integers(-20, 20, (n + 2, n + 2))
    column_of = np.empty(n, np.int64)
    total = assign(whole, row, column, n, column_of, np.empty((6, n), np.int64))
    cost = whole[row : row + n, column : column + n]
    assert sorted(column_of) == list(range(n))
    assert total == cost[np.arange(n), column_of].sum()
    assert total == cost[linear_sum_assignment(cost)].sum()


def overlap(placed, slots, old):
    gpu = np.repeat(np.arange(len(slots)), slots)
    held = np.zeros_like(old)
    held[placed, gpu] = 1
    return int((held & old).sum())


@settings(max_examples=80, deadline=None)
@given(seed=seeds, nodes=st.sampled_from([1, 2]))
def test_relabelling_keeps_as_many_as_any(seed, nodes):
    """Against every order of the GPUs in which like changes with like, and nodes stay whole."""
    rng = np.random.default_rng(seed)
    G, E = 4, 8
    slots = np.tile(rng.integers(1, 4, 2), 2)
    kind = slots.copy()
    blocks = np.array([0, 4]) if nodes == 1 else np.array([0, 2, 4])
    placed = np.concatenate([rng.permutation(E)[:k] for k in slots])
    old = (rng.random((E, G)) < 0.4).astype(np.uint8)
    got = placed[None].copy()
    relabel(got, slots, kind, blocks, old[None])
    parts = np.split(placed, np.cumsum(slots)[:-1])
    best = 0
    for order in itertools.permutations(range(G)):  # GPU order[g] of the fresh plan becomes GPU g
        whole = nodes == 1 or order[0] // 2 == order[1] // 2
        if whole and all(kind[order[g]] == kind[g] for g in range(G)):
            best = max(best, overlap(np.concatenate([parts[f] for f in order]), slots, old))
    assert overlap(got[0], slots, old) == best
    got_parts = np.split(got[0], np.cumsum(slots)[:-1])
    assert sorted(map(tuple, got_parts)) == sorted(map(tuple, parts))
