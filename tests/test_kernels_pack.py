"""Longest first, on the integer grid and on floats."""

import numpy as np
import packing_oracle
import pytest
import twins
from evenload.kernels.greedy import pack_greedily
from evenload.kernels.iterated_packing import iterated_packing
from evenload.kernels.longest_first import longest_first
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels.pack import pack
from evenload.kernels.packs import empty_packs


def run(load, count, order, G, K):
    """Packs as lists of (share, expert) by the kernel, and whether all were kept apart."""
    state = empty_packs(G, K)
    tree = np.empty(2 << state.bits, np.int64)
    load, count, order = (np.array(x, np.int64) for x in (load, count, order))
    apart = pack(load, count, order, tree, state)
    packs = [
        list(zip(w, e, strict=True))
        for w, e in zip(state.share.tolist(), state.expert.tolist(), strict=True)
    ]
    return packs, apart


@st.composite
def problems(draw):
    """Loads, counts that fill G packs of K slots, any order; many ties, counts beyond G, too."""
    G, K = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    E = draw(st.integers(1, G * K))
    values = st.one_of(st.integers(0, 3), st.integers(0, 2**40))
    load = draw(st.lists(values, min_size=E, max_size=E))
    cuts = draw(st.permutations(range(1, G * K)))[: E - 1]
    count = np.diff([0, *sorted(cuts), G * K]).tolist()
    return load, count, draw(st.permutations(range(E))), G, K


@settings(max_examples=200, deadline=None)
@given(problems())
def test_agrees_with_the_scan(problem):
    assert run(*problem) == twins.pack(*problem)


@pytest.mark.parametrize(("E", "G", "K"), [(256, 32, 9), (64, 48, 2), (60, 7, 10), (33, 33, 1)])
def test_agrees_with_the_scan_at_the_size_of_a_model(E, G, K):
    load = np.random.default_rng(E).integers(0, 2**40, E)
    count, order = twins.replicate(load, G * K, G)
    assert run(load, count, order, G, K) == twins.pack(load, count, order, G, K)


def test_replicas_of_one_expert_take_the_lightest_packs_apart():
    packs, apart = run([8, 5, 3], [2, 1, 1], [0, 1, 2], 2, 2)
    assert packs == [[(4, 0), (5, 1)], [(4, 0), (3, 2)]]
    assert apart


def test_tells_where_replicas_had_to_meet():
    packs, apart = run([9, 1], [3, 1], [1, 0], 2, 2)
    assert packs == [[(1, 1), (3, 0)], [(3, 0), (3, 0)]]
    assert not apart


# --- floats -----------------------------------------------------------------------------------


def float_rows():
    size = st.tuples(st.integers(1, 7), st.integers(2, 6))
    values = st.one_of(st.integers(0, 3), st.integers(0, 2**24), st.floats(0, 1e6, width=32))
    return size.flatmap(
        lambda GK: st.tuples(
            st.just(GK), st.lists(values, min_size=GK[0] * GK[1], max_size=GK[0] * GK[1])
        )
    )


@settings(max_examples=100, deadline=None)
@given(float_rows(), st.randoms(use_true_random=False))
def test_longest_first_agrees_with_the_scan(row, random):
    (G, K), weight = row
    virtual = [random.random() for _ in weight]
    order = np.array(sorted(range(len(weight)), key=lambda i: -virtual[i]))
    load, share, item = np.full(G, np.nan), np.full((G, K), np.nan), np.full((G, K), -1)
    longest_first(np.array(weight, np.float64), order, load, share, item)
    packs, loads = packing_oracle.greedy_row([float(w) for w in weight], virtual, G)
    assert item.tolist() == packs
    assert load.tolist() == loads
    np.testing.assert_array_equal(share, np.array(weight, np.float64)[item])


@settings(max_examples=100, deadline=None)
@given(float_rows())
def test_deepseeks_packing_agrees_with_the_scan(row):
    (G, K), weights = row
    weight = np.array([weights, weights[::-1]], np.float32)
    order = np.argsort(-weight, axis=1, kind="stable")
    index, rank = np.full((2, 2, G * K), -1, np.int64)
    pack_greedily(weight, order, P=G, pack_index=index, rank_in_pack=rank)
    for x in range(2):
        packs, load = [[] for _ in range(G)], np.zeros(G, np.float32)
        for item in order[x].tolist():
            p = min((p for p in range(G) if len(packs[p]) < K), key=lambda p: load[p])
            packs[p].append(item)
            load[p] += weight[x, item]
        wanted = packing_oracle.as_arrays(packs)
        np.testing.assert_array_equal(index[x], wanted[0])
        np.testing.assert_array_equal(rank[x], wanted[1])


@settings(max_examples=100, deadline=None)
@given(float_rows(), st.integers(1, 5), st.integers(0, 8), st.sampled_from([None, 0.9, 0.99, 1.0]))
def test_iterated_packing_agrees_with_the_oracle(row, num_attempts, max_swaps, target):
    (G, K), weights = row
    weight = np.array([weights], np.float64)
    index, rank = np.full((2, 1, G * K), -1, np.int64)
    order = np.argsort(-weight, axis=1, kind="stable")
    options = (num_attempts, 1.05, max_swaps, target or np.inf)
    iterated_packing(weight, order, G, *options, index, rank)
    wanted = packing_oracle.pack_row(weights, G, num_attempts, 1.05, max_swaps, target)
    np.testing.assert_array_equal(index[0], wanted[0])
    np.testing.assert_array_equal(rank[0], wanted[1])
