"""What crosses nodes, against counting by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement, solve
from evenload.synth import lognormal_load
from evenload.traffic import away_share, nodes_per_token


def nodes_of_experts(placement, layer):
    cluster = placement.cluster
    node = cluster.gpu_of_slot // cluster.gpus_per_node
    row = placement.physical_to_logical[layer]
    return [{int(n) for n in node[row == e]} for e in range(placement.num_experts)]


def fewest(needs, num_nodes):
    for size in range(1, num_nodes + 1):
        for chosen in combinations(range(num_nodes), size):
            if all(need & set(chosen) for need in needs):
                return size
    raise AssertionError


def random_placement(rng, cluster, E, L=2):
    rows = []
    for _ in range(L):
        row = np.full(cluster.num_slots, -1)
        living = np.flatnonzero(cluster.living_slot)
        filled = np.concatenate([np.arange(E), rng.integers(0, E, living.size - E)])
        row[living] = rng.permutation(filled)
        rows.append(row)
    return Placement(rows, cluster, E)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 5), k=st.integers(1, 5))
def test_nodes_per_token_is_the_fewest_there_are(seed, nodes, k):
    rng = np.random.default_rng(seed)
    alive = [True] * (2 * nodes - 1) + [False]
    cluster = Cluster(2 * nodes, nodes, slots_per_gpu=4, alive=alive)
    E = int(rng.integers(1, cluster.num_living_slots + 1))
    placement = random_placement(rng, cluster, E)
    topk = rng.integers(0, E, (6, 2, k))
    for layer in range(2):
        held = nodes_of_experts(placement, layer)
        wanted = np.mean([fewest([held[e] for e in token[layer]], nodes) for token in topk])
        assert nodes_per_token(placement, topk)[layer] == pytest.approx(wanted)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 4))
def test_away_share_is_what_the_home_node_does_not_compute(seed, nodes):
    rng = np.random.default_rng(seed)
    cluster = Cluster(2 * nodes, nodes, slots_per_gpu=5)
    E = 8
    load = rng.lognormal(0, 1, (2, E))
    placement = random_placement(rng, cluster, E)
    node = cluster.gpu_of_slot // cluster.gpus_per_node
    for layer in range(2):
        row, count = placement.physical_to_logical[layer], placement.replica_count[layer]
        away = 0.0
        for members in (range(4), range(4, 8)):
            by_node = np.zeros(nodes)
            for slot, e in enumerate(row):
                if e in members:
                    by_node[node[slot]] += load[layer, e] / count[e]
            away += by_node.sum() - by_node.max()
        share = away_share(placement, load, 2)[layer]
        assert share == pytest.approx(away / load[layer].sum(), abs=1e-12)


def test_topologies_differ_in_what_leaves_a_node():
    load = lognormal_load(4, 64, 1.0, seed=0)
    cluster = Cluster(16, 4, slots_per_gpu=5)
    strict, prefer, ignore = (
        solve(load, cluster, num_groups=8, topology=how) for how in ("strict", "prefer", "ignore")
    )
    assert (strict.away_share == 0).all()
    assert (prefer.away_share < ignore.away_share).all()
    assert strict.balancedness.mean() < prefer.balancedness.mean() <= ignore.balancedness.mean()
    assert solve(load, cluster).away_share is None


def test_strict_keeps_every_token_at_home_when_a_node_is_gone():
    load = lognormal_load(4, 48, 1.0, seed=0)
    cluster = Cluster(16, 4, slots_per_gpu=8, alive=[False] * 5 + [True] * 11)
    plan = solve(load, cluster, num_groups=6, topology="strict")
    assert (plan.away_share == 0).all()


def test_layers_without_load_and_groups_that_do_not_divide():
    placement = Placement.trivial(2, 4, Cluster(2, 2, slots_per_gpu=3))
    share = away_share(placement, [[0, 0, 0, 0], [1e300, 1e300, 0, 0]], 2)
    # Slots 0 1 2 | 3 0 1: of either expert of group 0 one replica is on each node.
    assert share.tolist() == [0.0, 0.5]
    with pytest.raises(ValueError, match=r"^num_groups=3 does not divide num_experts=4; use"):
        away_share(placement, np.ones((2, 4)), 3)
    with pytest.raises(ValueError, match=r"^load has shape \(1, 4\)"):
        away_share(placement, np.ones((1, 4)), 2)


def test_away_share_of_tensors_is_a_tensor():
    torch = pytest.importorskip("torch")
    placement = Placement.trivial(2, 4, Cluster(2, 2, slots_per_gpu=3))
    load = np.ones((2, 4))
    share = away_share(placement, torch.tensor(load), 2)
    assert share.tolist() == away_share(placement, load, 2).tolist()


def test_a_choice_that_the_first_fit_gets_wrong():
    """Node 0 holds the first two experts, but node 2 holds all three."""
    cluster = Cluster(3, 3, slots_per_gpu=3)
    placement = Placement([[0, 1, 3, 2, 3, 3, 0, 1, 2]], cluster, 4)
    assert nodes_per_token(placement, [[[0, 1, 2]]]).tolist() == [1.0]
    assert nodes_per_token(placement, [[[0, 3, 2]], [[3, 3, 3]]]).tolist() == [1.5]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_routed_experts_of_any_integer_dtype(dtype):
    rng = np.random.default_rng(0)
    placement = random_placement(rng, Cluster(8, 4, slots_per_gpu=3), 12)
    topk = rng.integers(0, 12, (50, 2, 4))
    expected = nodes_per_token(placement, topk)
    np.testing.assert_array_equal(nodes_per_token(placement, topk.astype(dtype)), expected)
    np.testing.assert_array_equal(nodes_per_token(placement, np.asfortranarray(topk)), expected)


def test_as_many_nodes_as_fit_one_integer():
    topk = np.arange(62).reshape(1, 1, 62)
    placement = Placement.trivial(1, 63, Cluster(62, 62, slots_per_gpu=2))
    # Slot s holds expert s % 63, so that expert 61 is beside 60, and the first ones are on two.
    held = nodes_of_experts(placement, 0)
    assert nodes_per_token(placement, topk[:, :, :8])[0] == fewest(held[:8], 62)
    wide = Placement.trivial(1, 63, Cluster(63, 63, slots_per_gpu=1))
    with pytest.raises(ValueError, match=r"^num_nodes=63 is more than this can count; use 62"):
        nodes_per_token(wide, topk)


@pytest.mark.parametrize(
    ("topk", "message"),
    [
        (np.zeros((3, 2, 2)), r"^topk has dtype float64"),
        (np.zeros((3, 1, 2), int), r"^topk has shape \(3, 1, 2\)"),
        (np.full((3, 2, 2), 9), r"^topk\[0, 0, 0\]=9 is not an expert; use 0 to 3"),
    ],
)
def test_routed_experts_that_are_none(topk, message):
    placement = Placement.trivial(2, 4, Cluster(2, 2, slots_per_gpu=2))
    with pytest.raises(ValueError, match=message):
        nodes_per_token(placement, topk)


def test_real_tokens_visit_no_more_nodes_than_they_have_experts(shared):
    with np.load(shared / "data" / "gpt-oss-20b.npz") as arrays:
        topk, load = arrays["topk"][:2000], arrays["load"].sum(axis=0)
    plan = solve(load, Cluster(8, 4, slots_per_gpu=5))
    visits = nodes_per_token(plan.placement, topk)
    assert visits.shape == (24,)
    assert ((visits >= 1) & (visits <= topk.shape[2])).all()
