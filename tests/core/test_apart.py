"""Copies kept apart: the domains of an expert, what may go, and how each comes to enough."""

import numpy as np
import pytest
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st
from layer import Layer, gpus, random_swap

from evenload.core import apart, start
from evenload.core.search import nth_gpu_with
from evenload.core.start import NODE, SLOTS
from evenload.core.state import COUNT, HELD, State

seeds = st.integers(0, 2**32)
keep_apart, num_domains = as_entry(apart.keep_apart), as_entry(apart.num_domains)
may_go = as_entry(apart.may_go)


def layer_of(whole, gpu, placed, copies, by_node, old=0):
    layer = Layer(whole, gpu, placed, old=old)
    layer.state = layer.state._replace(copies=copies, by_node=by_node)
    return layer


def domains_of(layer):
    """Domains that hold each expert, from the slots: a list of sets."""
    s = layer.state
    node = s.gpu[NODE] if s.by_node else np.arange(s.gpu.shape[1])
    return [set(node[s.held[HELD, e] > 0].tolist()) for e in range(s.expert.shape[1])]


def room(layer):
    """Slots of each domain, on each no more than experts."""
    s = layer.state
    node = s.gpu[NODE] if s.by_node else np.arange(s.gpu.shape[1])
    return int(np.minimum(np.bincount(node, s.gpu[SLOTS]), s.expert.shape[1]).sum())


def random_layer(seed, samples=1):
    """Any GPUs on up to three nodes, experts anywhere on them, and any number of copies."""
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 8))
    slots = rng.integers(1, 5, G)
    E = int(rng.integers(1, slots.sum() + 1))
    gpu = gpus(slots, rng.integers(1, 4, G), np.sort(rng.integers(0, 3, G)))
    placed = rng.permutation(np.r_[np.arange(E), rng.integers(0, E, slots.sum() - E)])
    by_node, copies = bool(rng.random() < 0.5), int(rng.integers(1, 4))
    whole = rng.integers(0, 2**20, (E, samples))
    return rng, layer_of(whole, gpu, placed, copies, by_node, rng.random((E, G)) < 0.5)


@settings(max_examples=300, deadline=None)
@given(seed=seeds, samples=st.sampled_from([1, 3]))
def test_every_expert_comes_to_enough_wherever_slots_suffice(seed, samples):
    _, layer = random_layer(seed, samples)
    s, before, duplicates = layer.state, domains_of(layer), layer.num_duplicates
    kept = keep_apart(s)
    layer.check()
    after = domains_of(layer)
    for e, held in enumerate(after):
        assert len(held) == num_domains(s, e, -1) >= min(s.copies, len(before[e]))
    assert layer.num_duplicates <= duplicates
    if s.copies > 1:
        assert kept == (room(layer) >= s.copies * len(after))
        assert kept == all(len(held) >= s.copies for held in after)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_where_a_spare_slot_is_at_hand_each_copy_is_one_move(seed):
    """All ran before where they are; one more GPU than copies are missing holds spare replicas."""
    rng = np.random.default_rng(seed)
    E, copies = int(rng.integers(2, 7)), int(rng.integers(2, 4))
    placed = np.concatenate([np.arange(E)] * copies + [np.zeros(E, np.int64)])
    layer = layer_of(rng.integers(1, 99, E), gpus([E] * copies + [1] * E), placed, copies, False)
    s = layer.state
    s.held[1] = s.held[HELD] > 0
    missing = rng.choice(np.arange(1, E), int(rng.integers(1, E)), replace=False)
    for e in missing:  # the copy on the first GPU becomes one more of expert 0
        placed[e] = 0
    layer.fill(placed)
    s.held[1] = s.held[HELD] > 0
    layer.fill(placed)
    assert keep_apart(s)
    assert s.total[1] == len(missing)


@settings(max_examples=200, deadline=None)
@given(seed=seeds)
def test_no_step_that_is_allowed_leaves_an_expert_on_fewer_than_it_needs(seed):
    rng, layer = random_layer(seed)
    keep_apart(layer.state)
    s, E = layer.state, layer.state.expert.shape[1]
    for _ in range(30):
        before, slot = domains_of(layer), random_swap(rng, layer)
        if slot is not None and rng.random() < 0.5:
            m, i, k, j = slot
            a, b = (int(s.slot[0, g, x]) for g, x in ((m, i), (k, j)))
            if not layer.run("may_swap", a, m, b, k)[0]:
                continue
            layer.run("swap", m, i, k, j)
        elif s.spare.size:
            place, taker = int(rng.integers(s.spare.size)), int(rng.integers(E))
            giver = int(s.spare[place])
            n = int(rng.integers(s.expert[COUNT, giver]))
            g = as_entry(nth_gpu_with)(s, giver, n)
            if g < 0 or not layer.run("may_hand_over", giver, g, taker)[0]:
                continue
            layer.run("hand_over", place, g, taker)
        for old, new in zip(before, domains_of(layer), strict=True):
            assert len(new) >= min(s.copies, len(old))


@pytest.mark.parametrize("by_node", [False, True])
def test_what_may_go(by_node):
    """Expert 0 is on GPUs 0 and 2, which are nodes 0 and 1, and needs both."""
    gpu = gpus([2, 1, 2], node=[0, 0, 1])
    layer = layer_of([5, 4, 3], gpu, [0, 1, 2, 0, 1], 2, by_node)
    s = layer.state
    assert not may_go(s, 0, 0, -1)
    assert not may_go(s, 0, 0, 2)
    assert may_go(s, 0, 0, 1)  # another GPU, and the same node
    assert may_go(s, 0, 2, 1) != by_node
    assert may_go(s._replace(copies=1), 0, 0, -1)


def test_replicas_begin_with_as_many_copies():
    weight = np.array([90, 20, 10], np.int64)
    count, order = np.zeros((2, 3), np.int64)
    as_entry(start.replicate)(weight, 8, 2, 4, np.empty((2, 3), np.int64), count, order)
    assert count.tolist() == [4, 2, 2]


def test_the_state_says_by_default_that_one_copy_will_do():
    state = State.empty(gpus([1, 1]), 2, 1, False)
    assert (state.copies, state.by_node) == (1, False)
