"""Each argument for a bound on its own, against every placement there is; GPUs may differ."""

import itertools
from functools import cache

import numpy as np
import pytest
from as_entry import as_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster
from evenload.bounds import Gpus, balancedness_bound
from evenload.core import bound
from evenload.core.deals import all_deals
from evenload.problem import Problem

# Kernels of the arguments, called from Python here.
share_time = as_entry(bound._share_time)
hot_set_time = as_entry(bound._hot_set_time)
partner_limit = as_entry(bound._partner_limit)
quick_time = as_entry(bound.quick_time)
refutes = as_entry(bound._refutes)


def gpus_of(speed, slots):
    """All GPUs of a cluster."""
    every = tuple(range(len(slots)))
    return Gpus.of(Cluster(len(slots), slots=list(slots), speed=list(speed)), every)


def list_shares(load, spare, limit, copies=1):
    first, count, size = np.empty(load.size + 1, np.int64), *np.empty((2, load.size * 40))
    as_entry(bound._list_shares)(load, copies, spare + copies, limit, first, count, size)
    return first, count[: first[-1]].copy(), size[: first[-1]].copy()


def rank_shares(size, limit, slots):
    n = size.size
    rank, keys, scratch = np.empty((3, n), np.int64)
    big = np.empty(n)
    num_big = as_entry(bound._rank_shares)(size, n, limit, slots, rank, big, keys, scratch)
    return big[:num_big], rank


# (E, slots of each GPU): small enough to list every placement.
SHAPES = [
    (1, (2, 2)),
    (2, (1, 2, 1)),
    (3, (2, 2)),
    (3, (3, 2)),
    (3, (2, 2, 2)),
    (3, (1, 1, 1, 1, 1)),
    (4, (2, 2, 2)),
    (4, (2, 3)),
    (4, (4, 4)),
    (4, (2, 2, 3)),
    (4, (3, 3)),
    (4, (2, 2, 2, 2)),
    (5, (1, 2, 3)),
    (5, (3, 3, 2)),
    (5, (2, 2, 2)),
    (5, (4, 3)),
    (6, (2, 2, 2)),
    (6, (3, 4)),
    (6, (3, 3)),
    (7, (2, 2, 2, 2)),
]


@cache
def all_placements(E, slots):
    """Every placement but for the order of a GPU's slots, as replicas on each GPU: [n, G, E]."""
    contents = [
        [
            np.bincount(held, minlength=E)
            for held in itertools.combinations_with_replacement(range(E), k)
        ]
        for k in slots
    ]
    picks = np.indices([len(c) for c in contents]).reshape(len(slots), -1)
    placed = np.stack([np.array(c)[p] for c, p in zip(contents, picks, strict=True)], axis=1)
    return placed[(placed.sum(axis=1) > 0).all(axis=1)]


def least_time(load, speed, slots, placed=None):
    """Least time of the heaviest GPU over all placements: [X, E] -> [X]."""
    placed = all_placements(load.shape[1], slots) if placed is None else placed
    part = placed / placed.sum(axis=1, keepdims=True) / np.array(speed)[:, None]
    return np.array([(part @ row).max(axis=1).min() for row in load])


def random_loads(E, seed, number):
    """Heavy tails, ties and zeros, near-equal ones, and exact halves and thirds of each other."""
    rng = np.random.default_rng(seed)
    kinds = [
        rng.lognormal(0.0, 1.5, (number, E)),
        rng.integers(0, 6, (number, E)).astype(float),
        rng.lognormal(0.0, 0.3, (number, E)),
        rng.choice([1.0, 2.0, 3.0, 4.0, 6.0, 12.0], (number, E)),
    ]
    load = -np.sort(-np.concatenate(kinds), axis=1)
    load[load.sum(axis=1) == 0, 0] = 1.0
    return load


def bounds_of(load, gpus):
    """What each argument says: mean, share (the mean at least), hot set, partners."""
    share = np.array([share_time(row, gpus.num_slots, gpus.reach, 1) for row in load])
    hot = np.array([hot_set_time(row, *gpus) for row in load])
    mean = load.sum(axis=1) / gpus.reach[-1]
    start = mean * 0.5  # far below, so that partners are judged on their own
    partner = [
        partner_limit(row, gpus.num_slots, gpus.fewest[1], 1, t * gpus.reach[1]) / gpus.reach[1]
        for row, t in zip(load, start, strict=True)
    ]
    return mean, share, hot, np.array(partner)


@pytest.mark.parametrize(("E", "slots"), SHAPES)
@pytest.mark.parametrize("equal", [True, False])
def test_no_placement_beats_any_argument(E, slots, equal):
    load = random_loads(E, seed=sum(slots) * 10 + E, number=30)
    speeds = [1.0] * len(slots)
    if not equal:
        speeds = np.random.default_rng(E).choice([1.0, 1.0, 1.5, 2.0, 3.7], len(slots))
    speeds = Cluster(len(slots), slots=slots, speed=speeds).speed  # 1 where all are alike
    gpus = gpus_of(np.array(speeds), np.array(slots))
    best = least_time(load, speeds, slots)
    for time in bounds_of(load, gpus):
        assert (time <= best * (1 + 1e-12)).all()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_placement_beats_the_bound(data):
    E, slots = data.draw(st.sampled_from(SHAPES))
    number = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 0.1, 1 / 3, 1e-9, 1e6])
    load = np.array([data.draw(st.lists(number, min_size=E, max_size=E))])
    if load.sum() == 0:
        load[0, 0] = 1.0
    speed = data.draw(
        st.lists(st.sampled_from([1.0, 2.0, 0.3]), min_size=len(slots), max_size=len(slots))
    )
    limit = balancedness_bound(Problem.build(load, Cluster(len(slots), slots=slots, speed=speed)))
    best = load.sum(axis=1) / sum(speed) / least_time(load, speed, slots)
    assert (best <= limit * (1 + 1e-12)).all()


@pytest.mark.parametrize(
    ("load", "slots", "strongest"),
    [
        ([1] * 8, (2, 2, 2, 2), "mean"),
        ([12, 12, 12], (1, 1, 1, 1, 1), "share"),
        ([60, 1, 1, 1, 1, 1], (1, 2, 2, 2, 2), "hot"),
        ([6, 6, 4, 3, 3, 3, 1], (2, 2, 2, 2), "partner"),
    ],
)
def test_each_argument_is_the_strongest_somewhere(load, slots, strongest):
    load = np.array([load], float)
    gpus = gpus_of(np.ones(len(slots)), np.array(slots))
    time = dict(zip(("mean", "share", "hot", "partner"), bounds_of(load, gpus), strict=True))
    others = max(t[0] for name, t in time.items() if name != strongest)
    # The hot set of all experts is the mean.
    assert time[strongest][0] >= others * (1 if strongest == "mean" else 1.03), time
    assert time[strongest][0] <= least_time(load, np.ones(len(slots)), slots)[0] * (1 + 1e-12)


@pytest.mark.parametrize(("E", "slots"), SHAPES)
def test_the_largest_share_is_that_of_the_best_counts(E, slots):
    load = random_loads(E, seed=E, number=5)
    speed = np.sort(np.random.default_rng(E).uniform(1, 2, len(slots)))[::-1]
    reach = np.cumsum(speed)
    cuts = itertools.combinations(range(1, sum(slots)), E - 1)
    counts = np.array([np.diff([0, *cut, sum(slots)]) for cut in cuts])
    time = load[:, None, :] / reach[np.minimum(counts, len(slots)) - 1]
    wanted = np.maximum(time.max(axis=2).min(axis=1), load.sum(axis=1) / reach[-1])
    gpus = gpus_of(speed, np.array(slots))
    found = [share_time(row, gpus.num_slots, gpus.reach, 1) for row in load]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_shares_cover_every_number_of_replicas(seed):
    """Each is above an entry that asks for no more replicas of no more load."""
    rng = np.random.default_rng(seed)
    load, spare, limit = rng.lognormal(0, 1.5, 8), int(rng.integers(0, 60)), rng.uniform(0.2, 2)
    first, counts, sizes = list_shares(load, spare, limit)
    for expert, w in enumerate(load):
        entries = slice(*first[expert : expert + 2])
        count, size = counts[entries], sizes[entries]
        for c in range(1, spare + 2):
            if w / c <= limit:
                assert ((count <= c) & (size <= w / c * (1 + 1e-15))).any()


@pytest.mark.parametrize("K", [2, 3, 5])
def test_shares_are_ranked_by_the_big_ones_they_fit_beside(K):
    size = np.random.default_rng(K).uniform(0.0, 1.2, 50)
    big, rank = rank_shares(size, 1.0, K)
    assert big.tolist() == sorted(size[(size > 0.5) & (size <= 1.0)], reverse=True)
    for x, r in zip(size, rank, strict=True):
        if x > 1.0:
            assert r == -1
        elif x > 0.5:
            assert big[2 * len(big) - r] == x
        else:
            assert r == np.sum(1.0 - big < (K - 1) * x)


def test_whatever_the_weights_the_proof_is_valid():
    """Wherever the climb starts, limits that some placement keeps are never refuted."""
    load, slots = random_loads(5, seed=9, number=10), (2, 2, 2)
    rng = np.random.default_rng(0)
    for row, best in zip(load, least_time(load, np.ones(3), slots), strict=True):
        limit = best * (1 + 1e-8)
        first, count, size = list_shares(row, 1, limit)
        big, rank = rank_shares(size, limit, 2)
        for price in (0.0, 1.0, 1e300) if big.size else ():
            weight = rng.pareto(0.5, big.size) + 1e-300
            assert not refutes(first, count, rank, 6, weight, big.size, price)[0]


def test_the_quick_bound_of_a_row_is_that_of_a_layer():
    """Another kernel may ask for it."""
    load = random_loads(7, seed=4, number=10)
    gpus = gpus_of([1.0, 2.0, 1.0], [3, 3, 4])
    rows = np.empty(len(load))
    bound.quick_times(load, *gpus, rows)
    assert rows.tolist() == [quick_time(row, *gpus) for row in load]
    mean, share, hot, _ = bounds_of(load, gpus)
    np.testing.assert_allclose(rows, np.maximum(mean, np.maximum(share, hot)), rtol=2e-9)


# --- groups -----------------------------------------------------------------------------------


def strict_placements(E, slots, groups, node_of):
    """All placements with each group on one node, equally many a node."""
    placed = all_placements(E, slots)
    by_group = placed.reshape(len(placed), len(slots), groups, -1).sum(axis=3) > 0
    nodes = sorted(set(node_of))
    on_node = np.stack(
        [by_group[:, [g for g, m in enumerate(node_of) if m == n]].any(axis=1) for n in nodes], 1
    )
    fair = (on_node.sum(axis=1) == 1).all(axis=1)
    fair &= (on_node.sum(axis=2) == groups // len(nodes)).all(axis=1)
    return placed[fair]


@pytest.mark.parametrize(
    ("E", "slots", "groups", "nodes", "speed"),
    [
        (4, (2, 2, 2, 2), 4, 2, (1, 1, 1, 1)),
        (4, (2, 2, 2, 2), 2, 2, (1, 1, 1, 1)),
        (4, (2, 1, 2, 2), 4, 2, (1, 2, 1, 1)),
        (6, (3, 4), 6, 2, (1, 1)),
        (6, (3, 4), 2, 2, (1, 2)),
        (6, (2, 2, 3), 3, 3, (1, 1, 3)),
        (6, (3, 2, 2), 6, 3, (1, 1, 1)),
    ],
)
def test_no_placement_of_whole_groups_beats_the_bound(E, slots, groups, nodes, speed):
    load = np.random.default_rng(E).permuted(random_loads(E, seed=1, number=25), axis=1)
    G = len(slots)
    placed = strict_placements(E, slots, groups, [g // (G // nodes) for g in range(G)])
    cluster = Cluster(G, nodes, slots=slots, speed=speed)
    limit = balancedness_bound(Problem.build(load, cluster, groups, "strict"))
    best = load.sum(axis=1) / sum(speed) / least_time(load, speed, slots, placed)
    assert (best <= limit * (1 + 1e-12)).all()
    if groups == E and len(slots) == nodes and sum(slots) == E:
        np.testing.assert_allclose(best, limit, rtol=1e-8)


def test_a_node_with_a_dead_gpu_is_bounded_as_the_smaller_one_it_is():
    load = random_loads(4, seed=3, number=20)
    dead = Cluster(4, 2, slots_per_gpu=2, alive=[True, True, True, False])
    limit = balancedness_bound(Problem.build(load, dead, 4, "strict"))
    placed = strict_placements(4, (2, 2, 2), 4, [0, 0, 1])
    best = load.sum(axis=1) / 3 / least_time(load, np.ones(3), (2, 2, 2), placed)
    assert (best <= limit * (1 + 1e-12)).all()
    assert np.mean(best / limit) > 0.9


def test_too_many_deals_fall_back_on_the_relaxation():
    assert all_deals(64, 8, True) is None
    load = np.random.default_rng(0).lognormal(0, 1, (3, 128))
    problem = Problem.build(load, Cluster(16, 8, slots_per_gpu=9), 64)
    limit = balancedness_bound(problem)
    assert (limit > 0).all()
    assert (limit <= 1).all()
