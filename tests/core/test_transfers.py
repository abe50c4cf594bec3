"""Slots kept from one placement to the next; what crosses links is in `test_cost`."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.core.transfers import keep_slots

seeds = st.integers(0, 2**32)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_what_stays_keeps_its_slot(seed):
    rng = np.random.default_rng(seed)
    slots = rng.integers(1, 5, 3)
    before = rng.integers(-1, 6, (2, slots.sum()))
    placed = rng.integers(0, 6, (2, slots.sum()))
    empty = rng.random(3) < 0.2  # GPUs that are gone
    placed[:, np.repeat(empty, slots)] = -1
    got = placed.copy()
    keep_slots(got, before, np.cumsum([0, *slots]), 6)
    for layer, (start, end) in itertools.product(
        range(2), itertools.pairwise(np.cumsum([0, *slots]))
    ):
        new, old = got[layer, start:end], before[layer, start:end]
        assert sorted(new) == sorted(placed[layer, start:end])
        for e in set(new.tolist()) - {-1}:
            stay = min((new == e).sum(), (old == e).sum())
            assert ((new == e) & (old == e)).sum() == stay
