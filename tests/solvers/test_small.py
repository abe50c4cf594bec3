"""Small problems against every placement there is."""

import numpy as np
import pytest
from every_placement import best_balancedness, every_placement, small_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, solve

NEAR = 0.9999 * (1 - 1e-6)  # of the best: where a search leaves it at that
EXACT = 1 + 1e-9


def best_of_all(load, cluster):
    """Best balancedness of each layer without a duplicate that can be avoided."""
    return best_balancedness(load, cluster, every_placement(cluster, load.shape[1], avoid=True))


def unavoidable(cluster, num_experts):
    return sum(max(cluster.slots[g] - num_experts, 0) for g in cluster.living_gpus)


# --- GPUs of unequal slots --------------------------------------------------------------------


@pytest.mark.parametrize("effort", [0, "fast", "standard"])
@pytest.mark.parametrize(
    ("load", "slots", "least"), [([600, 2], [3, 1], 0.9966), ([5, 0], [1, 1, 2, 3], 1.0)]
)
def test_a_forced_duplicate_is_of_the_expert_that_costs_least(load, slots, least, effort):
    cluster, load = Cluster(len(slots), slots=slots), np.array([load], float)
    plan = solve(load, cluster, effort=effort)
    assert plan.duplicates.tolist() == [1]
    assert least <= plan.balancedness[0] <= best_of_all(load, cluster)[0] * EXACT


@pytest.mark.parametrize("speeds", [False, True])
def test_few_experts_on_gpus_of_unequal_slots(speeds):
    """More slots than experts force duplicates; of which experts, decides the balance."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        G = int(rng.integers(2, 5))
        slots = rng.integers(1, 5, G).tolist()
        E = int(rng.integers(1, min(max(slots), sum(slots)) + 1))
        speed = rng.choice([1.0, 1.5, 2.0, 4.0], G).tolist() if speeds else None
        cluster = Cluster(G, slots=slots, speed=speed)
        load = np.floor(rng.lognormal(3.0, 1.5, (1, E)))
        best = best_of_all(load, cluster)
        plan = solve(load, cluster)
        assert plan.duplicates.tolist() == [unavoidable(cluster, E)]
        assert best * NEAR <= plan.balancedness <= best * EXACT, (load, cluster)


def test_tiny_problems_of_any_kind():
    """Dead GPUs, other speeds, unequal slots."""
    for seed in range(120):
        rng = np.random.default_rng(seed)
        (slots, speed, alive, nodes), E, _ = small_cluster(rng, most_ways=3000)
        cluster = Cluster(len(slots), nodes, slots=slots, speed=speed, alive=alive)
        load = np.floor(rng.lognormal(3.0, rng.uniform(0.2, 1.5), (1, E)))
        best = best_of_all(load, cluster)
        plan = solve(load, cluster)
        assert plan.duplicates.tolist() == [unavoidable(cluster, E)]
        assert best * NEAR <= plan.balancedness <= best * EXACT, (load, cluster)


# --- two slots on each of equal GPUs ----------------------------------------------------------


@pytest.mark.parametrize("effort", ["fast", "standard", "thorough"])
def test_the_best_of_all_replica_counts_is_found(effort):
    """There are 6,435 of them."""
    load = [[700, 650, 130, 110, 30, 15, 10, 5]]
    plan = solve(load, Cluster(8, slots_per_gpu=2), effort=effort)
    assert plan.balancedness[0] == pytest.approx(0.9305, abs=1e-4)


def pair_case(seed):
    rng = np.random.default_rng(seed)
    G = int(rng.integers(2, 5))
    E = int(rng.integers(2, min(2 * G, 7) + 1))
    return np.floor(rng.lognormal(3.0, 1.0, (1, E))) + 1.0, Cluster(G, slots_per_gpu=2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_pairs_end_at_the_best_there_is(seed):
    load, cluster = pair_case(seed)
    plan, best = solve(load, cluster), best_of_all(load, cluster)
    assert plan.duplicates.tolist() == [0]
    assert best * NEAR <= plan.balancedness <= best * EXACT


APART = [
    ([11, 29, 8], 4),
    ([28, 22, 64], 4),
    ([34, 18, 19, 34], 5),
    ([12, 24, 23, 40], 5),
]


@pytest.mark.parametrize(("load", "gpus"), APART)
def test_pairs_of_few_experts_end_at_the_best_there_is(load, gpus):
    load, cluster = np.array([load], float), Cluster(gpus, slots_per_gpu=2)
    assert solve(load, cluster).balancedness >= best_of_all(load, cluster) * NEAR
