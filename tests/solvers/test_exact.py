"""The exact solver against every placement there is, and what it says when its effort ends."""

import re
import sys

import numpy as np
import pytest
from every_placement import best_balancedness, every_placement, small_cluster

from evenload import Cluster
from evenload.bounds import balancedness_bound
from evenload.extras import how_to_install
from evenload.placement import Placement
from evenload.problem import Problem
from evenload.solvers.joint import joint
from evenload.solvers.local_search import local_search

pytest.importorskip("ortools")

from evenload.solvers.exact import exact, solve_exactly
from evenload.solvers.exact.pairs import best_pairs_apart, lightest_limit


def finishing_time(problem, expert):
    cluster = problem.cluster
    placement = Placement(expert, cluster, problem.num_experts)
    living = list(cluster.living_gpus)
    return (placement.gpu_load(problem.load)[:, living] / cluster.capacity[living]).max(axis=1)


def assert_optimal(problem):
    """Best among the placements without avoidable duplicates, and bounded by the best of all."""
    rows, proven, status = solve_exactly(problem)
    groups = problem.num_groups if problem.hierarchical else 1
    mean = problem.load.sum(axis=1) / problem.cluster.capacity.sum()
    best, of_all = (
        mean / best_balancedness(problem.load, problem.cluster, placements)
        for placements in (
            every_placement(problem.cluster, problem.num_experts, groups, avoid)
            for avoid in (True, False)
        )
    )
    assert set(status) == {"optimal"}
    np.testing.assert_allclose(finishing_time(problem, rows), best, rtol=1e-7)
    np.testing.assert_allclose(proven, of_all, rtol=1e-7)
    short = solve_exactly(problem, effort=2).proven_least_time
    for proof in (proven, short):
        assert (proof <= of_all * (1 + 1e-12)).all()


@pytest.fixture
def poor_start(monkeypatch):
    """Leave it to the search to find what is good."""

    def trivial(problem):
        return Placement.trivial(problem.num_layers, problem.num_experts, problem.cluster)

    monkeypatch.setattr("evenload.solvers.exact.layer.joint", trivial)


def random_load(rng, layers, num_experts):
    return np.floor(rng.lognormal(3.0, rng.uniform(0.2, 1.5), (layers, num_experts)))


@pytest.mark.parametrize(
    ("num_experts", "num_gpus", "slots_per_gpu"),
    [(3, 2, 2), (4, 3, 2), (5, 3, 2), (5, 4, 2), (3, 4, 2), (2, 3, 2), (1, 2, 2)],
)
def test_two_slots_against_every_placement(poor_start, num_experts, num_gpus, slots_per_gpu):
    rng = np.random.default_rng(num_experts * 10 + num_gpus)
    load = random_load(rng, 6, num_experts)
    problem = Problem.build(load, Cluster(num_gpus, slots_per_gpu=slots_per_gpu))
    assert_optimal(problem)


def test_two_slots_with_equal_and_idle_experts(poor_start):
    load = np.array([[5.0, 5, 5, 5, 5], [9, 1, 5, 5, 0], [0, 0, 0, 0, 1], [10, 9, 1, 0, 0]])
    assert_optimal(Problem.build(load, Cluster(4, slots_per_gpu=2)))


@pytest.mark.parametrize(
    ("slots", "speed"),
    [
        ((3, 3), (1, 1)),
        ((3, 3, 3), (1, 1, 1)),
        ((1, 1, 1, 1, 1, 1), (1,) * 6),
        ((2, 2, 2), (1, 2, 1.5)),
        ((1, 2, 3), (1, 1, 1)),
        ((1, 4, 2), (3, 1, 2)),
        ((6, 2), (1, 1)),
        ((7, 3), (1, 4)),
    ],
)
def test_other_clusters_against_every_placement(poor_start, slots, speed):
    rng = np.random.default_rng(sum(slots))
    problem = Problem.build(random_load(rng, 2, 5), Cluster(len(slots), slots=slots, speed=speed))
    assert_optimal(problem)


@pytest.mark.parametrize("alive", [(True, False, True, True), (False, True, True, False)])
def test_dead_gpus_are_left_empty(poor_start, alive):
    load = random_load(np.random.default_rng(1), 2, 4)
    for slots in [(2, 2, 2, 2), (2, 3, 1, 4)]:
        problem = Problem.build(load, Cluster(4, slots=slots, alive=alive))
        assert_optimal(problem)


@pytest.mark.parametrize(
    ("slots", "num_groups"), [((2, 2, 2, 2), 2), ((2, 2, 2, 2), 4), ((3, 1, 1, 4), 2)]
)
def test_groups_against_every_placement(slots, num_groups):
    load = random_load(np.random.default_rng(num_groups), 3, 4)
    cluster = Cluster(4, 2, slots=slots)
    problem = Problem.build(load, cluster, num_groups)
    assert problem.hierarchical
    assert_optimal(problem)


@pytest.mark.parametrize(
    ("load", "slots", "reached", "bound"),
    [
        ([1, 1, 1], [3, 1, 3, 3], 9 / 11, 0.9),
        ([9, 3, 3], [2, 2, 2], 10 / 11, 20 / 21),  # four replicas of the first, two on one GPU
    ],
)
def test_the_bound_holds_for_placements_with_duplicates(load, slots, reached, bound):
    problem = Problem.build([load], Cluster(len(slots), slots=slots))
    assert_optimal(problem)
    answer = exact(problem)
    assert answer.placement.balancedness([load]) == pytest.approx([reached], rel=1e-8)
    assert answer.bound == pytest.approx([bound], rel=1e-8)
    (note,) = answer.notes
    assert note == (
        "best without duplicates: in 1 of 1 layers (0) more than the mean balancedness of "
        f"{reached:.6f} takes an expert twice on one GPU, and at most {bound:.6f} is possible"
    )


def test_a_second_proof_is_short():
    load = np.random.default_rng(2).integers(1, 16, (4, 8))[1:2].astype(float)
    problem = Problem.build(load, Cluster(4, 2, slots_per_gpu=3))
    answer = exact(problem)
    np.testing.assert_allclose(answer.placement.balancedness(load), 219 / 220, rtol=1e-8)
    np.testing.assert_allclose(answer.bound, balancedness_bound(problem))
    (note,) = answer.notes
    assert note.startswith("best without duplicates: ")
    assert note.endswith("and at most 1.000000 is possible")


@pytest.mark.parametrize("seed", range(40))
def test_no_placement_beats_the_bound_on_any_cluster(seed):
    """Uneven slots, speeds, dead GPUs, strict groups."""
    rng = np.random.default_rng(seed)
    while True:
        (slots, speed, alive, nodes), E, groups = small_cluster(rng, most_ways=3000)
        cluster = Cluster(len(slots), nodes, slots=slots, speed=speed, alive=alive)
        if max(slots) > 1 and len(cluster.living_gpus) > 1 and E > 1:
            break
    load = rng.integers(0, 6, (2, E)).astype(float)
    assert_optimal(Problem.build(load, cluster, groups))


@pytest.mark.parametrize("slots_per_gpu", [2, 3])
def test_never_worse_than_cheaper_solvers(slots_per_gpu):
    load = random_load(np.random.default_rng(3), 4, 20)
    problem = Problem.build(load, Cluster(12, slots_per_gpu=slots_per_gpu))
    answer = exact(problem, effort=20)
    reached = answer.placement.balancedness(load)
    for solver in (local_search, joint):
        assert (reached >= solver(problem).balancedness(load) * (1 - 1e-12)).all()
    assert (reached <= answer.bound).all()
    assert (answer.bound <= 1.0).all()
    assert not answer.placement.duplicates.any()


def test_the_same_input_gives_the_same_bytes():
    load = random_load(np.random.default_rng(5), 2, 12)
    for cluster in [
        Cluster(8, slots_per_gpu=2),
        Cluster(4, slots=(3, 4, 4, 4), speed=(1, 1, 2, 2)),
    ]:
        problem = Problem.build(load, cluster)
        first, again = (exact(problem, effort=20) for _ in range(2))
        assert first.placement == again.placement
        np.testing.assert_array_equal(first.bound, again.bound)
        assert first.notes == again.notes
        bigger = exact(Problem.build(load * 2.0**20, cluster), effort=20)
        assert first.placement == bigger.placement


@pytest.mark.parametrize("effort", [0, 1])
@pytest.mark.parametrize(
    "cluster",
    [Cluster(20, slots_per_gpu=2), Cluster(6, slots=(4, 5, 6) * 2), Cluster(5, slots_per_gpu=7)],
)
def test_a_limit_that_ends_first_is_told(poor_start, cluster, effort):
    load = random_load(np.random.default_rng(6), 10, 28)
    problem = Problem.build(load, cluster)
    answer = exact(problem, effort=effort)
    reached = answer.placement.balancedness(load)
    assert (reached <= answer.bound).all()
    assert not answer.placement.duplicates.any()
    (note,) = answer.notes
    assert re.fullmatch(
        r"not proven optimal: the effort ended first in \d+ of 10 layers \([\d, .]+\), which "
        r"reach a mean balancedness of 0\.\d{6} and at most [01]\.\d{6} is possible; "
        r"use more effort",
        note,
    )
    assert "limit reached" in solve_exactly(problem, effort=effort).status


def test_a_target_is_enough():
    load = random_load(np.random.default_rng(8), 3, 24)
    for cluster in [Cluster(16, slots_per_gpu=2), Cluster(8, slots_per_gpu=4)]:
        problem = Problem.build(load, cluster)
        answer = exact(problem, target=0.5)
        assert answer.placement == joint(problem)
        assert answer.notes == ()
        assert set(solve_exactly(problem, target=0.5).status) <= {"optimal", "target reached"}


def test_a_target_that_needs_a_search(poor_start):
    load = random_load(np.random.default_rng(8), 1, 24)
    problem = Problem.build(load, Cluster(16, slots_per_gpu=2))
    start = exact(problem, effort=0).placement.balancedness(load)[0]
    best = exact(problem).placement.balancedness(load)[0]
    assert start < best
    answer = exact(problem, target=(start + best) / 2)
    assert (start + best) / 2 <= answer.placement.balancedness(load)[0] <= best * (1 + 1e-9)
    assert answer.bound[0] >= best


def test_no_load_is_perfect():
    for slots in [(2, 2, 2), (1, 2, 3)]:
        answer = exact(Problem.build([[0.0, 0, 0]], Cluster(3, slots=slots)))
        assert answer.bound.tolist() == [1.0]
        assert answer.notes == ()


def test_input_is_not_changed():
    load = random_load(np.random.default_rng(9), 1, 6)
    before = load.copy()
    exact(Problem.build(load, Cluster(4, slots_per_gpu=2)))
    np.testing.assert_array_equal(load, before)


def test_pairs_apart_against_every_pairing():
    def pairings(left):
        if not left:
            yield []
            return
        for i in range(1, len(left)):
            for rest in pairings(left[1:i] + left[i + 1 :]):
                yield [(left[0], left[i]), *rest]

    rng = np.random.default_rng(7)
    for _ in range(60):
        count = rng.integers(1, 4, 4)
        count[0] += count.sum() % 2
        share = rng.integers(0, 12, 4)
        slots = np.repeat(np.arange(4), count).tolist()
        free, apart = [], []
        for pairs in pairings(slots):
            heaviest = max(share[a] + share[b] for a, b in pairs)
            free.append(heaviest)
            if all(a != b for a, b in pairs):
                apart.append(heaviest)
        assert lightest_limit(share, count) == min(free)
        found = best_pairs_apart(share, count, 100)
        assert (found is None) == (not apart)
        if found is not None:
            limit, pairs = found
            assert limit == min(apart) == share[pairs].sum(axis=1).max()
            assert (pairs[:, 0] != pairs[:, 1]).all()
            np.testing.assert_array_equal(np.bincount(pairs.ravel(), minlength=4), count)


def fails(message, load=((3.0, 2, 1),), cluster=None, topology=None, num_groups=1, **options):
    problem = Problem.build(load, cluster or Cluster(2, slots_per_gpu=2), num_groups, topology)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        exact(problem, **options)


def test_illegal_options():
    fails(
        "effort='hard' is unknown; use one of: fast, standard, thorough, or a number of steps",
        effort="hard",
    )
    fails("effort=-1 is less than 0; use 0 or more", effort=-1)
    fails("effort=1.5 is not an integer; use an integer of at least 0", effort=1.5)
    fails("target=2.0 is outside (0, 1]; use 1.0, or None", target=2)
    fails(
        "topology='prefer' is beyond solver 'exact'; use solver 'joint', or topology 'strict' or "
        "'ignore'",
        topology="prefer",
    )


def test_too_large_layers_are_refused():
    load = random_load(np.random.default_rng(0), 1, 256)
    fails(
        "num_experts=256 x 33 replica counts x 96 GPUs are 811008 variables, and solver 'exact' "
        "takes 500000 at most; use fewer spare slots, or solver 'joint'",
        load=load,
        cluster=Cluster(96, slots_per_gpu=3),
    )


def test_ortools_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ortools.sat.python.cp_model", None)
    fails(
        "solver 'exact' needs OR-tools, which is not installed; use "
        f"{how_to_install('exact')}, or solver 'joint'"
    )
