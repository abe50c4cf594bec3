"""The bound on balancedness, against every placement there is."""

import itertools

import numpy as np
import pytest
import twins
from every_placement import best_balancedness, every_placement, small_cluster

from evenload import Cluster, solve
from evenload.bounds import balancedness_bound
from evenload.problem import Problem
from evenload.synth import lognormal_load, zipf_load

# (E, G, K): all small enough to list every placement, from no spare slot to more than fit.
SHAPES = [
    (1, 1, 1),
    (1, 3, 1),
    (1, 2, 2),
    (2, 2, 1),
    (2, 4, 1),
    (2, 2, 2),
    (2, 3, 2),
    (2, 2, 3),
    (3, 3, 1),
    (3, 6, 1),
    (3, 2, 2),
    (3, 3, 2),
    (3, 4, 2),
    (3, 3, 3),
    (4, 6, 1),
    (4, 2, 2),
    (4, 3, 2),
    (4, 4, 2),
    (4, 2, 3),
    (4, 3, 3),
    (5, 5, 1),
    (5, 3, 2),
    (5, 4, 2),
    (5, 2, 4),
    (6, 3, 2),
    (6, 2, 4),
    (7, 4, 2),
]


def bound(load, num_gpus, slots_per_gpu, num_groups=1, num_nodes=1):
    cluster = Cluster(num_gpus, num_nodes, slots_per_gpu)
    return balancedness_bound(Problem.build(load, cluster, num_groups))


def random_loads(E, seed):
    """Twenty loads: heavy tails, small integers with ties and zeros, one hot expert; none all 0."""
    rng = np.random.default_rng(seed)
    load = np.concatenate(
        [
            rng.lognormal(0.0, 1.5, (8, E)),
            rng.integers(0, 6, (6, E)).astype(float),
            rng.lognormal(0.0, 0.1, (6, E)),
        ]
    )
    load[-6:, rng.integers(E)] *= rng.choice([3.0, 10.0, 100.0], 6)
    load[load.sum(axis=1) == 0, 0] = 1.0
    return load


@pytest.mark.parametrize(("E", "G", "K"), SHAPES)
def test_no_placement_beats_it(E, G, K):
    load = random_loads(E, seed=100 * E + 10 * G + K)
    placements = twins.all_placements(E, G, K)
    best = np.array([twins.best_balancedness(row, placements) for row in load])
    limit = bound(load, G, K)
    assert (best <= limit * (1 + 1e-12)).all()
    if K == 1:  # every replica has a GPU of its own, so the largest share is all there is
        np.testing.assert_allclose(limit, best, rtol=1e-8)


@pytest.mark.parametrize(("E", "G", "K"), SHAPES)
def test_it_is_at_most_what_mean_and_largest_share_give(E, G, K):
    """The latter over all ways to hand out the slots."""
    load = random_loads(E, seed=7 * E + 5 * G + K)
    counts = np.minimum(twins.all_counts(E, G * K), G)
    largest_share = (load[:, None, :] / counts).max(axis=2).min(axis=1)
    wanted = np.minimum(1.0, load.sum(axis=1) / G / largest_share)
    assert (bound(load, G, K) <= wanted * (1 + 2e-9)).all()


@pytest.mark.parametrize(
    ("load", "G", "K", "best"),
    [
        ([100, 0, 0, 10, 10], 3, 2, 0.8),  # one spare slot; each half beside an expert without load
        ([12, 0, 1, 1], 2, 2, 7 / 12),  # no spare slot
        ([90, 30, 0, 0, 0, 0, 0], 4, 2, 30 / 45),
        ([60, 12, 12], 4, 1, 21 / 30),  # one slot a GPU
    ],
)
def test_it_is_attained_where_the_largest_share_decides(load, G, K, best):
    load = np.array(load, float)
    placements = twins.all_placements(len(load), G, K)
    assert twins.best_balancedness(load, placements) == pytest.approx(best)
    assert bound(load, G, K) == pytest.approx([best], rel=1e-8)


@pytest.mark.parametrize(
    ("load", "G", "K"),
    [
        ([1] * 8, 4, 2),
        ([5, 4, 3, 3, 3, 3, 2, 1], 4, 3),
        ([1000, 1], 2, 2),  # every expert on every GPU
        ([0, 0, 0], 3, 2),
        ([0, 0, 7], 3, 2),
    ],
)
def test_the_mean_alone_gives_exactly_one(load, G, K):
    assert bound([load], G, K).tolist() == [1.0]


def test_layers_are_bounded_one_by_one():
    load = random_loads(6, seed=3)
    load[4] = 0.0
    whole = bound(load, 3, 2)
    assert whole.tolist() == [bound(row, 3, 2)[0] for row in load]
    assert whole[4] == 1.0
    assert len(set(whole.tolist())) > 5


@pytest.mark.parametrize("exponent", [-1000, -40, 40, 1000])
def test_the_scale_does_not_matter(exponent):
    load = random_loads(6, seed=1)
    assert bound(np.ldexp(load, exponent), 3, 2).tolist() == bound(load, 3, 2).tolist()


@pytest.mark.parametrize(
    ("E", "G", "K", "groups", "nodes"),
    [
        (4, 2, 2, 2, 2),
        (4, 2, 3, 4, 2),
        (4, 4, 2, 4, 2),
        (4, 4, 2, 2, 2),
        (6, 2, 4, 6, 2),
        (6, 3, 2, 3, 3),
    ],
)
def test_no_placement_of_whole_groups_beats_it(E, G, K, groups, nodes):
    load = random_loads(E, seed=11 * E + G + K + groups)
    every = twins.all_placements(E, G, K)
    strict = np.array([p for p in every if keeps_groups_together(p, groups, nodes)])
    assert 0 < len(strict) < len(every)
    limit = bound(load, G, K, groups, nodes)
    best = np.array([twins.best_balancedness(row, strict) for row in load])
    assert (best <= limit * (1 + 1e-12)).all()
    assert (limit <= bound(load, G, K)).all()
    assert (limit < bound(load, G, K)).any()


def keeps_groups_together(replicas, groups, nodes):
    """Whether some order of the GPUs [G, E] puts each group on one node, equally many a node."""
    G, E = replicas.shape
    by_group = replicas.reshape(G, groups, E // groups).sum(axis=2) > 0
    for order in itertools.permutations(range(G)):
        on_node = by_group[list(order)].reshape(nodes, G // nodes, groups).any(axis=1)
        if (on_node.sum(axis=0) == 1).all() and (on_node.sum(axis=1) == groups // nodes).all():
            return True
    return False


@pytest.mark.parametrize("seed", range(20))
def test_two_groups_a_node_are_bounded_by_the_best_pairing(seed):
    """With as many slots as experts and one GPU a node, the bound is the best pairing itself."""
    load = np.random.default_rng(seed).lognormal(0.0, 1.0, 6)
    pairings = [
        ((0, a), pair, left)
        for a in range(1, 6)
        for others in [[i for i in range(1, 6) if i != a]]
        for pair in [(others[0], b) for b in others[1:]]
        for left in [tuple(i for i in others if i not in pair)]
    ]
    assert len(pairings) == 15
    lightest = min(max(load[list(pair)].sum() for pair in p) for p in pairings)
    assert bound(load, 3, 2, 6, 3) == pytest.approx([load.sum() / 3 / lightest], rel=1e-8)


def test_groups_that_do_not_divide_over_the_nodes_restrict_no_further():
    load = random_loads(8, seed=2)
    assert bound(load, 4, 3, 1, 2).tolist() == bound(load, 4, 3).tolist()


def test_the_order_of_experts_does_not_matter():
    load = random_loads(12, seed=5)
    order = np.random.default_rng(0).permutation(12)
    assert bound(load[:, order], 7, 2).tolist() == bound(load, 7, 2).tolist()


def test_without_partners_it_is_no_tighter():
    load = random_loads(12, seed=6)
    problem = Problem.build(load, Cluster(7, slots_per_gpu=2))
    quick = balancedness_bound(problem, thorough=False)
    assert (balancedness_bound(problem) <= quick).all()
    assert (balancedness_bound(problem) < quick).any()


@pytest.mark.parametrize(
    ("load", "sigma", "G", "K", "at_most"),
    [
        ("lognormal", 0.5, 144, 2, 0.99),
        ("lognormal", 1.0, 144, 2, 0.81),
        ("zipf", 1.0, 96, 3, 0.71),
    ],
)
def test_few_slots_a_gpu_are_bounded_closely(load, sigma, G, K, at_most):
    """Partners tell what no single expert and no hot set does."""
    draw = {"lognormal": lognormal_load, "zipf": zipf_load}[load]
    problem = Problem.build(draw(4, 256, sigma), Cluster(G, slots_per_gpu=K))
    limit = balancedness_bound(problem)
    assert limit.mean() < at_most
    assert (limit < balancedness_bound(problem, thorough=False)).any()


def test_a_model_of_real_size():
    """One expert with half of the load of 256 experts on 32 GPUs, the mean being 510 / 32 = 16."""
    load = np.ones(256)
    load[0] = 255.0
    assert bound(load, 32, 8) == pytest.approx([510 / 32 / 262], rel=1e-8)  # no spare slot
    assert bound(load, 16, 17) == pytest.approx([1.0], rel=1e-8)  # a replica on each of 16 GPUs
    assert bound(load, 37, 7) == pytest.approx([510 / 37 / (255 / 4 + 6)], rel=1e-8)  # 3 spare


@pytest.mark.parametrize("seed", range(60))
def test_no_placement_beats_the_bound_of_any_plan(seed):
    """Uneven slots, speeds, dead GPUs, strict groups; duplicates included. Nor does any plan."""
    rng = np.random.default_rng(seed)
    (slots, speed, alive, nodes), E, groups = small_cluster(rng)
    cluster = Cluster(len(slots), nodes, slots=slots, speed=speed, alive=alive)
    load = np.concatenate([rng.integers(0, 6, (3, E)), np.rint(rng.lognormal(2, 1.2, (3, E)))])
    problem = Problem.build(load, cluster, groups)
    placements = every_placement(cluster, E, groups if problem.hierarchical else 1)
    best = best_balancedness(load, cluster, placements)
    assert (best <= balancedness_bound(problem, thorough=False) * (1 + 1e-12)).all()
    assert (best <= balancedness_bound(problem) * (1 + 1e-12)).all()
    solvers = ["joint"]
    if cluster.gpus_are_equal and (cluster.nodes_are_equal or not problem.hierarchical):
        solvers += ["greedy", "iterated-greedy", "local-search"]
    for solver in solvers:
        plan = solve(load, cluster, num_groups=groups, solver=solver)
        assert (best <= plan.bound * (1 + 1e-9)).all()
        assert (plan.balancedness <= best * (1 + 1e-9)).all()
        assert (plan.placement.duplicates == plan.duplicates).all()
