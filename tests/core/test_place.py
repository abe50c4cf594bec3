"""Whole layers: where a search starts, what it makes of that, and two slots a GPU."""

import numpy as np
import pytest
import twins
from every_placement import best_balancedness, every_placement
from hypothesis import given, settings
from hypothesis import strategies as st
from layer import gpus

from evenload import Cluster
from evenload.bounds import Gpus
from evenload.core.place import Scratch, place_layers, place_pairs, start_layers
from evenload.core.start import FIRST, NODE, SLOTS, UNIT_TIME
from evenload.core.state import State

seeds = st.integers(0, 2**32)
BITS = 30
ROUNDING = 1 + 1e-6  # of loads to 30 bits


def place(load, gpu, *, trials=0, pairs=0, begun=None, home=None, price=0.0, **aims):
    """Experts in slots [L, S], and time and its bound over the mean [L, 2]."""
    L, E = load.shape
    cluster = Cluster(gpu.shape[1], slots=gpu[SLOTS].tolist(), speed=(1 / gpu[UNIT_TIME]).tolist())
    placed = np.full((L, gpu[SLOTS].sum()), -1) if begun is None else begun.copy()
    home, time = np.full((L, E), -1) if home is None else home, np.full((L, 2), -1.0)
    place_layers(
        load, BITS, home, price, begun is not None, pairs, trials, aims.get("target", 1.0),
        aims.get("fine_target", 0.9999), aims.get("close", 1.0), np.ones(L),
        *Gpus.of(cluster, cluster.living_gpus)[1:4], State.empty(gpu, E, 1, False),
        Scratch.empty(gpu, E), placed, time,
    )  # fmt: skip
    return placed, time


def start(load, gpu, home=None):
    L, E = load.shape
    placed = np.full((L, gpu[SLOTS].sum()), -1)
    home = np.full((L, E), -1) if home is None else home
    start_layers(load, BITS, home, State.empty(gpu, E, 1, False), Scratch.empty(gpu, E), placed)
    return placed


def split(row, gpu):
    return [part.tolist() for part in np.split(row, gpu[FIRST, 1:])]


def times_of(load, gpu, placed):
    """Time of each GPU over that of a load divided at will: [L, G]."""
    found = []
    for row, tokens in zip(placed, load, strict=True):
        share = tokens / np.bincount(row, minlength=tokens.size)
        total = np.array([share[part].sum() for part in split(row, gpu)])
        found.append(total * gpu[UNIT_TIME] * (1 / gpu[UNIT_TIME]).sum() / tokens.sum())
    return np.array(found)


def duplicates_of(row, gpu):
    return sum(len(part) - len(set(part)) for part in split(row, gpu))


def random_gpus(rng, equal=False):
    G = int(rng.integers(1, 7))
    slots = np.full(G, rng.integers(1, 6)) if equal else rng.integers(1, 6, G)
    return gpus(slots, None if equal else rng.integers(1, 4, G), np.sort(rng.integers(0, 3, G)))


def random_load(rng, E, L=2):
    load = rng.integers(0, int(rng.choice([3, 1000])), (L, E)).astype(float)
    load[:, 0] += 1.0
    return load


# --- the start --------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(seed=seeds, homes=st.booleans())
def test_the_start_is_whole_on_any_gpus(seed, homes):
    """GPUs of any slots and speed; experts at home where there is room for them."""
    rng = np.random.default_rng(seed)
    gpu = random_gpus(rng)
    S = gpu[SLOTS].sum()
    E = int(rng.integers(1, S + 1))
    load, seats = random_load(rng, E), gpu[NODE].repeat(gpu[SLOTS])
    home = np.full((2, E), -1)
    if homes:
        for row in home:
            row[:] = np.where(rng.random(E) < 0.8, rng.permutation(seats)[:E], -1)
    for layer, row in enumerate(start(load, gpu, home)):
        assert set(row.tolist()) == set(range(E))
        for part in split(row, gpu):
            assert len(part) - len(set(part)) == max(0, len(part) - E)
        for e in np.flatnonzero(home[layer] >= 0):
            assert home[layer, e] in seats[row == e]


@pytest.mark.parametrize(
    ("unit_time", "wanted"), [([1, 3], [[0, 1], [2, 3]]), ([1, 1], [[0, 3], [1, 2]])]
)
def test_the_start_gives_the_largest_share_to_the_gpu_that_is_done_first(unit_time, wanted):
    gpu = gpus([2, 2], unit_time)
    assert split(start(np.array([[6.0, 5.0, 4.0, 1.0]]), gpu)[0], gpu) == wanted


def test_a_fast_gpu_may_keep_a_hot_expert_to_itself():
    """Shared evenly, it would leave half of its load to the slow GPU."""
    gpu = gpus([2, 2], [1, 8])
    placed = start(np.array([[80.0, 6.0, 2.0]]), gpu)
    assert times_of(np.array([[80.0, 6.0, 2.0]]), gpu, placed).max() < 1.2


@pytest.mark.parametrize(("load", "slots"), [([600, 2], [3, 1]), ([5, 0], [1, 1, 2, 3])])
def test_a_forced_duplicate_is_of_the_expert_that_costs_least(load, slots):
    gpu, load = gpus(slots), np.array([load], float)
    placed = start(load, gpu)
    counts = [np.bincount(row, minlength=2) for row in placed]
    assert duplicates_of(placed[0], gpu) == max(slots) - 2
    assert times_of(load, gpu, placed).max() * 0.996 < times_of(load, gpu, placed).mean(), counts


# --- a search from the start ------------------------------------------------------------------


def longest_first(load, gpu):
    """The published start by scans, on equal GPUs; the load descends."""
    S, G = int(gpu[SLOTS].sum()), gpu.shape[1]
    weight = [int(x) for x in np.rint(load / load.max() * 2.0**BITS)]
    count, order = twins.replicate(weight, S, max(G, -(-S // len(weight))))
    return np.array([[e for p in twins.pack(weight, count, order, gpu[SLOTS]) for _, e in p]])


@settings(max_examples=150, deadline=None)
@given(seed=seeds, trials=st.sampled_from([0, 30]), pairs=st.sampled_from([0, 20]))
def test_a_layer_on_equal_gpus_ends_no_worse_than_longest_first(seed, trials, pairs):
    rng = np.random.default_rng(seed)
    gpu = random_gpus(rng, equal=True)
    S, K = gpu[SLOTS].sum(), gpu[SLOTS, 0]
    load = random_load(rng, int(rng.integers(K, S + 1)))
    placed, time = place(load, gpu, trials=trials, pairs=pairs)
    reached = times_of(load, gpu, placed).max(axis=1)
    np.testing.assert_allclose(time[:, 0], reached, rtol=1e-6)
    assert ((time[:, 1] >= 1.0) & (time[:, 1] <= reached * ROUNDING)).all()
    for row, tokens, now in zip(placed, load, reached, strict=True):
        assert set(row.tolist()) == set(range(tokens.size))
        assert duplicates_of(row, gpu) == 0
        tokens = np.sort(tokens)[::-1]
        first = longest_first(tokens, gpu)
        if duplicates_of(first[0], gpu) == 0:
            assert now <= times_of(tokens[None], gpu, first).max() * ROUNDING


@settings(max_examples=150, deadline=None)
@given(
    seed=seeds,
    price=st.sampled_from([0.0, 0.5, 1000.0]),
    trials=st.sampled_from([0, 30]),
    pairs=st.sampled_from([0, 20]),
)
def test_a_layer_that_was_begun_ends_no_worse(seed, price, trials, pairs):
    """Time of the slowest GPU and price of tokens away from home, which they never all leave."""
    rng = np.random.default_rng(seed)
    gpu = random_gpus(rng)
    S = gpu[SLOTS].sum()
    load = random_load(rng, int(rng.integers(1, S + 1)))
    E = load.shape[1]
    seats = gpu[NODE].repeat(gpu[SLOTS])
    begun = np.stack(
        [rng.permutation(np.r_[np.arange(E), rng.integers(0, E, S - E)]) for _ in load]
    )
    home = np.stack([seats[[row.tolist().index(e) for e in range(E)]] for row in begun])
    home[:, ::2] = -1

    def cost(placed):
        away = []
        for row, tokens, at in zip(placed, load, home, strict=True):
            share = tokens / np.bincount(row, minlength=E)
            away.append(share[row][(at[row] >= 0) & (at[row] != seats)].sum())
        return times_of(load, gpu, placed).max(axis=1) + price * np.array(away) / load.sum(axis=1)

    few, _ = place(load, gpu, trials=trials, pairs=pairs, begun=begun, home=home, price=price)
    more, _ = place(load, gpu, trials=4 * trials, pairs=pairs, begun=begun, home=home, price=price)
    assert (cost(few) <= cost(begun) * ROUNDING).all()
    assert (cost(more) <= cost(few) * ROUNDING).all()
    for layer, row in enumerate(few):
        assert set(row.tolist()) == set(range(E))
        assert duplicates_of(row, gpu) <= duplicates_of(begun[layer], gpu)
        for e in np.flatnonzero(home[layer] >= 0):
            assert home[layer, e] in seats[row == e]


@settings(max_examples=100, deadline=None)
@given(seed=seeds, factor=st.sampled_from([3.0, 2.0**-600, 2.0**600]))
def test_neither_the_scale_nor_the_names_of_experts_matter(seed, factor):
    rng = np.random.default_rng(seed)
    gpu = random_gpus(rng, equal=True)
    E = int(rng.integers(gpu[SLOTS, 0], gpu[SLOTS].sum() + 1))
    load = rng.permutation(1000)[: 2 * E].reshape(2, E) + 1.0
    placed = place(load, gpu, trials=10, pairs=10)[0]
    np.testing.assert_array_equal(place(load * factor, gpu, trials=10, pairs=10)[0], placed)
    old = rng.permutation(E)
    renamed = place(np.ascontiguousarray(load[:, old]), gpu, trials=10, pairs=10)[0]
    np.testing.assert_array_equal(old[renamed], placed)


def test_targets_end_each_part_of_the_search():
    load = np.random.default_rng(0).lognormal(0.0, 1.0, (4, 30))
    gpu = gpus([5] * 8)

    def reached(**options):
        return place(load, gpu, **options)[1][:, 0]

    swapped, exchanged = reached(), reached(pairs=200)
    assert (reached(target=0.5) >= swapped).all()
    assert (reached(target=0.5, fine_target=0.5) > swapped).any()
    assert (exchanged < swapped).any()
    np.testing.assert_array_equal(reached(pairs=200, fine_target=0.5), swapped)
    searched = reached(trials=300)
    assert (searched < swapped).any()
    early = reached(trials=300, close=0.99)
    assert (early >= searched).all()
    assert (early > searched).any()


# --- two slots a GPU --------------------------------------------------------------------------


def pairs_of(load, begun, trials):
    G = begun.shape[1] // 2
    gpu, E, placed = gpus([2] * G), load.shape[1], begun.copy()
    time = np.stack([times_of(load, gpu, begun).max(axis=1), np.ones(len(load))], axis=1)
    place_pairs(
        load, BITS, trials, 1.0, np.ones(len(load)), State.empty(gpu, E, 1, False),
        Scratch.empty(gpu, E), placed, time,
    )  # fmt: skip
    np.testing.assert_allclose(time[:, 0], times_of(load, gpu, placed).max(axis=1), rtol=1e-6)
    assert (time[:, 1] == 1.0).all()
    return placed, gpu


@settings(max_examples=100, deadline=None)
@given(seed=seeds, trials=st.sampled_from([0, 1, 20]))
def test_the_counts_of_small_layers_of_pairs_are_the_best_there_are(seed, trials):
    """Few enough are all tried, whatever the effort."""
    rng = np.random.default_rng(seed)
    G = int(rng.integers(2, 5))
    E = int(rng.integers(2, min(2 * G, 7) + 1))
    load, cluster = np.floor(rng.lognormal(3.0, 1.0, (1, E))) + 1.0, Cluster(G, slots_per_gpu=2)
    placed, gpu = pairs_of(load, start(load, gpus([2] * G)), trials)
    best = best_balancedness(load, cluster, every_placement(cluster, E, avoid=True))
    assert duplicates_of(placed[0], gpu) == 0
    assert times_of(load, gpu, placed).max() == pytest.approx(1 / best[0], rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, trials=st.sampled_from([0, 1, 50]))
def test_pairs_are_no_worse_than_what_was_begun(seed, trials):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(1, 20))
    E = int(rng.integers(2, 2 * G + 1))
    load, S = random_load(rng, E), 2 * G
    begun = start(load, gpus([2] * G))
    begun = begun.reshape(2, G, 2)[:, rng.permutation(G)].reshape(2, S)
    placed, gpu = pairs_of(load, begun, trials)
    before, after = (times_of(load, gpu, rows).max(axis=1) for rows in (begun, placed))
    assert (after <= before * ROUNDING).all()
    for row in placed:
        assert set(row.tolist()) == set(range(E))
        assert duplicates_of(row, gpu) == 0
