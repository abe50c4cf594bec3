"""Flows that go on from change to change: each is as good as one found from nothing."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement
from evenload.core.compile import Int, Int1, Int2, entry
from evenload.core.flow import LEAST, OF_EXPERT, PART_BITS, TIME, Flow, FlowType, change_if, settle
from evenload.core.start import NEVER
from evenload.core.state import HOME, WHOLE, State, StateType, fill
from evenload.dispatch import near_replicas, parts_by_place
from evenload.solvers.search import gpu_rows

UNIT = 2**16


@entry(StateType, FlowType, Int1, Int2, Int1)
def start(s, f, placed, load, result):
    for m in range(load.shape[0]):
        for e in range(load.shape[1]):
            s.cost[WHOLE, e, m] = load[m, e]
    fill(s, placed)
    result[0] = settle(s, f)


@entry(StateType, FlowType, Int, Int, Int, Int, Int, Int1)
def change(s, f, i, a, j, b, limit, result):
    result[0] = change_if(s, f, i, a, j, b, limit)


class Layer:
    """A layer on GPUs that may differ, under samples of its load."""

    def __init__(self, seed, by_place, equal):
        self.rng = rng = np.random.default_rng(seed)
        G, self.by_place = int(rng.integers(2, 9)), by_place
        slots = rng.integers(1, 6, G) if not equal else np.full(G, rng.integers(2, 6))
        S = int(slots.sum())
        self.E = int(rng.integers(max(1, S // 3), S + 1))
        speed = None if equal else rng.integers(1, 5, G).astype(float)
        nodes = 2 if G % 2 == 0 else 1
        self.cluster = Cluster(G, nodes, slots=slots.tolist(), speed=speed)
        M = int(rng.integers(2, 5))
        self.load = np.rint(rng.lognormal(0, 1.2, (M, self.E)) * UNIT).astype(np.int64) + 1
        spare = rng.integers(0, self.E, S - self.E)
        self.placed = rng.permutation(np.concatenate([np.arange(self.E), spare]))
        gpu = gpu_rows(self.cluster)
        self.unit, self.gpu = gpu[2], np.repeat(np.arange(G), slots)
        self.state = State.empty(gpu, self.E, M, True)
        self.state.expert[HOME] = -1
        self.state.held[1] = 0
        tokens = rng.integers(1, 9, G).astype(float)
        tokens /= tokens.sum()
        parts = np.rint(tokens * (1 << PART_BITS)).astype(np.int64)
        self.tokens = parts / parts.sum()
        start_at = parts if by_place else np.empty(0, np.int64)
        self.flow = Flow.empty(gpu, self.E, M, 1.0, 1.0, start_at)
        result = np.empty(1, np.int64)
        start(self.state, self.flow, self.placed, self.load, result)
        self.total = result[0]

    def try_change(self, i, a, j, limit):
        """Return the time of the last GPUs after a change, or NEVER."""
        b, result = self.placed[i], np.empty(1, np.int64)
        change(self.state, self.flow, i, a, j, b, limit, result)
        return result[0], self.changed(i, a, j)

    def changed(self, i, a, j):
        after = self.placed.copy()
        after[i] = a
        if j >= 0:
            after[j] = self.placed[i]
        return after

    def draw_change(self):
        """A slot, the expert that it is to hold, and the slot that it came from or -1."""
        i = int(self.rng.integers(self.placed.size))
        if self.rng.random() < 0.5:
            j = int(self.rng.integers(self.placed.size))
            return i, self.placed[j], j
        several = (self.placed == self.placed[i]).sum() > 1
        return i, int(self.rng.integers(self.E)) if several else self.placed[i], -1

    def times(self, placed):
        """The oracle: each sample by itself, by `Placement`."""
        place = Placement(placed[None], self.cluster, self.E)
        slots = place.logical_to_physical
        found = []
        for sample in self.load.astype(float)[:, None]:
            if self.by_place:
                chosen = near_replicas(slots, self.cluster)
                weights = parts_by_place(chosen, slots, self.cluster, self.tokens)
            else:
                weights = place.split(sample)
            found.append((place.gpu_load(sample, weights)[0] * self.unit).max())
        return np.array(found)

    def check(self):
        """The flow is one, and as good as can be."""
        sent, used = self.flow.sent, self.flow.used
        assert (self.flow.slot[OF_EXPERT] == self.placed).all()
        assert (sent >= 0).all()
        for m, load in enumerate(self.load):
            arrived = np.bincount(self.placed, sent[m], self.E)
            lost = load * 2e-4 + self.placed.size if self.by_place else 0  # parts are rounded
            assert (np.abs(arrived - load) <= lost).all()
            assert (np.bincount(self.gpu, sent[m], used.shape[1]) == used[m]).all()
            assert (used[m] * self.unit <= self.flow.sample[TIME, m]).all()
        self.compare(self.flow.sample[TIME], self.times(self.placed))

    def compare(self, ours, theirs):
        theirs = np.maximum(theirs, self.flow.sample[LEAST])
        wide = 1e-6 if (self.unit == 1).all() and not self.by_place else 2e-3
        assert (np.abs(ours - theirs) <= 2 + wide * theirs).all(), (ours, theirs)

    def kept(self):
        return [a.copy() for a in (*self.flow[2:5], self.flow.slot[:1], self.flow.sample[[TIME]])]


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("by_place", [False, True])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_flow_goes_on_as_good_as_one_from_nothing(seed, by_place, equal):
    layer = Layer(seed, by_place, equal)
    layer.check()
    for _ in range(20):
        i, a, j = layer.draw_change()
        if a == layer.placed[i]:
            continue
        factor = layer.rng.choice([0.9, 1.0, 1.1, 4.0])
        limit = int(layer.flow.sample[TIME].sum() * factor)
        before = layer.kept()
        reached, placed = layer.try_change(i, a, j, limit)
        wanted = np.maximum(layer.times(placed), layer.flow.sample[LEAST]).sum()
        if reached == NEVER:
            assert wanted > limit * (1 - 3e-3) - 8
            assert all((x == y).all() for x, y in zip(before, layer.kept(), strict=True))
        else:
            assert reached == layer.flow.sample[TIME].sum() <= limit
            layer.placed = placed
        layer.check()


@cache
def settled(enough):
    """Two GPUs that share one expert of three."""
    cluster = Cluster(2, slots_per_gpu=2)
    gpu, placed = gpu_rows(cluster), np.array([0, 1, 0, 2])
    state, none = State.empty(gpu, 3, 2, True), np.empty(0, np.int64)
    state.expert[HOME] = -1
    flow, result = Flow.empty(gpu, 3, 2, enough, 1.0, none), np.empty(1, np.int64)
    start(state, flow, placed, np.array([[400, 300, 500], [400, 100, 700]]), result)
    return flow, result[0]


def test_what_is_good_enough_ends_it():
    assert settled(1.0)[1] == 600 + 700
    flow, total = settled(1.2)
    assert total == 720 + 720
    assert flow.used.tolist() == [[500, 700], [500, 700]] or flow.used.max() <= 720
