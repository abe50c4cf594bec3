"""How strictly groups are kept on nodes, and which solvers can do what on which GPUs."""

import re

import numpy as np
import pytest

from evenload import Cluster, Placement, planner, solve
from evenload.problem import Problem

CLUSTER = Cluster(4, num_nodes=2, slots_per_gpu=3)
FOR_EQUAL_GPUS = ("greedy", "iterated-greedy", "local-search")
LOAD = np.random.default_rng(4).lognormal(3.0, 1.0, (3, 8))


def fails(message, call, *args, **options):
    """The call must raise a ValueError with exactly this message."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(*args, **options)


# --- the word ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["loose", "", "Strict", 1, True, ("strict",)])
def test_unknown_topology(word):
    fails(
        f"topology={word!r} is unknown; use one of: strict, prefer, ignore",
        solve,
        LOAD,
        CLUSTER,
        topology=word,
    )


@pytest.mark.parametrize("word", ["strict", "prefer", "ignore"])
def test_known_topologies(word):
    assert Problem.build(LOAD, CLUSTER, 2, word).topology == word


def test_strict_is_kept_where_it_can_be_unless_told():
    assert Problem.build(LOAD, CLUSTER, 2).topology == "strict"
    assert Problem.build(LOAD, CLUSTER, 2).hierarchical
    assert Problem.build(LOAD, CLUSTER).topology == "ignore"
    assert Problem.build(LOAD, CLUSTER, 2, "ignore").topology == "ignore"
    three = Cluster(3, 3, slots_per_gpu=4)
    assert Problem.build(LOAD, three, 4).topology == "ignore"
    small = Cluster(4, 2, slots=[1, 2, 4, 4])
    assert Problem.build(LOAD, small, 2).topology == "ignore"


def test_one_group_may_be_kept_strictly():
    plan = solve(LOAD, Cluster(4, slots_per_gpu=3), topology="strict")
    assert plan.placement == solve(LOAD, Cluster(4, slots_per_gpu=3)).placement


def test_ignoring_groups_is_planning_without():
    for solver in FOR_EQUAL_GPUS:
        ignored = solve(LOAD, CLUSTER, num_groups=2, topology="ignore", solver=solver)
        assert ignored.placement == solve(LOAD, CLUSTER, solver=solver).placement
        assert ignored.notes == ()


# --- what groups cost ----------------------------------------------------------------------------

HOT_GROUP = np.repeat([9.0, 1.0], 4) * np.arange(1, 9) + np.zeros((3, 1))


def test_a_plan_says_what_its_groups_cost():
    plan = solve(HOT_GROUP, CLUSTER, num_groups=2)
    free = solve(HOT_GROUP, CLUSTER, num_groups=2, topology="ignore")
    assert free.balancedness.mean() > plan.balancedness.mean() + planner.WORTH_TELLING
    (note,) = planner.tell_of_groups(plan).notes
    assert note == (
        f"groups stay on one node each: mean balancedness {plan.balancedness.mean():.4f}; a new "
        f"plan under topology 'ignore' reaches {free.balancedness.mean():.4f}, with "
        f"{free.away_share.mean():.0%} of the load away from its group's node"
    )
    later = solve(HOT_GROUP, CLUSTER, num_groups=2, current=plan.placement)
    assert planner.tell_of_groups(later).notes == (note,)


def test_a_plan_whose_groups_cost_little_says_nothing_and_plans_no_more(monkeypatch):
    even = np.ones((3, 8))
    plans = [solve(even, Cluster(4, num_nodes=2, slots_per_gpu=2), num_groups=2)]
    for topology in ("prefer", "ignore"):
        plans.append(solve(HOT_GROUP, CLUSTER, num_groups=2, topology=topology))
    monkeypatch.setattr(planner, "solve_problem", None)
    for plan in plans:
        assert planner.tell_of_groups(plan) is plan


# --- what cannot be kept -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_groups", "cluster", "message"),
    [
        (
            4,
            Cluster(3, 3, slots_per_gpu=4),
            "num_groups=4 does not divide over 3 nodes; use 3 or 6",
        ),
        (2, Cluster(4, 4, slots_per_gpu=4), "num_groups=2 does not divide over 4 nodes; use 4"),
        (
            2,
            Cluster(4, 4, slots_per_gpu=4, alive=[True, True, False, True]),
            "num_groups=2 does not divide over 3 nodes (1 more have no living GPU); use 3",
        ),
    ],
)
def test_groups_that_do_not_divide(num_groups, cluster, message):
    fails(
        f"topology='strict': {message} groups, or topology 'prefer' or 'ignore'",
        solve,
        LOAD,
        cluster,
        num_groups=num_groups,
        topology="strict",
    )


@pytest.mark.parametrize(
    ("cluster", "room"),
    [
        (Cluster(4, 2, slots=[1, 2, 4, 4]), 3),
        (Cluster(4, 2, slots_per_gpu=3, alive=[True, True, True, False]), 3),
        (Cluster(4, 2, slots=[9, 9, 1, 1]), 2),
    ],
)
def test_a_node_that_is_too_small(cluster, room):
    fails(
        f"topology='strict': a node has {room} living slots for the 4 experts of its groups; use "
        f"{4 - room} or more slots more there, or topology 'prefer' or 'ignore'",
        solve,
        LOAD,
        cluster,
        num_groups=2,
        topology="strict",
    )
    assert Problem.build(LOAD, cluster, 2).topology == "ignore"


def test_groups_that_are_ignored_are_noted():
    with_dead = Cluster(4, 2, slots_per_gpu=4, alive=[True, False, True, False])
    assert not any("ignored" in note for note in solve(LOAD, with_dead, num_groups=2).notes)
    three = Cluster(3, 3, slots_per_gpu=4)
    (note,) = solve(LOAD, three, num_groups=4).notes
    assert note.startswith("groups ignored: num_groups=4 is not a multiple of num_nodes=3")
    small = Cluster(4, 2, slots_per_gpu=3, alive=[True, True, True, False])
    notes = solve(LOAD, small, num_groups=2).notes
    assert notes[0] == "groups ignored: a node has too few living slots for its share of them"


# --- GPUs that are gone --------------------------------------------------------------------------


@pytest.mark.parametrize("solver", FOR_EQUAL_GPUS)
@pytest.mark.parametrize(
    ("alive", "nodes", "num_groups"),
    [
        ([True, True, False, True, True, True], 1, 1),  # nodes of 2, 1 and 2 GPUs
        ([True, False, False, True, True, False], 3, 1),
        ([True, False, False, True, True, False], 3, 4),  # 4 groups on 3 nodes: ignored
        ([True, True, False, False, True, True], 2, 4),  # a whole node is gone
        ([False, False, True, False, False, True], 2, 2),
        ([False, False, False, False, False, True], 1, 2),
    ],
)
def test_the_plan_is_that_of_the_living_gpus(solver, alive, nodes, num_groups):
    cluster = Cluster(6, 3, 8, alive=alive)
    plan = solve(LOAD, cluster, num_groups=num_groups, solver=solver)
    smaller = solve(LOAD, Cluster(sum(alive), nodes, 8), num_groups=num_groups, solver=solver)
    rows = plan.placement.physical_to_logical
    living = np.repeat(alive, 8)
    np.testing.assert_array_equal(rows == -1, np.tile(~living, (3, 1)))
    np.testing.assert_array_equal(rows[:, living], smaller.placement.physical_to_logical)
    assert plan.placement == Placement(rows, cluster, 8)
    np.testing.assert_array_equal(plan.balancedness, smaller.balancedness)
    np.testing.assert_array_equal(plan.duplicates, smaller.duplicates)
    assert plan.straggler_time == smaller.straggler_time
    assert (plan.placement.replica_count >= 1).all()


def test_gpus_that_are_gone_are_noted():
    cluster = Cluster(4, slots_per_gpu=4, alive=[True, False, True, False])
    (note,) = solve(LOAD, cluster).notes
    assert note == "2 of 4 GPUs are gone: their 8 slots per layer hold nothing (-1)"


@pytest.mark.parametrize("solver", ["auto", *FOR_EQUAL_GPUS])
def test_too_few_living_slots(solver):
    cluster = Cluster(4, slots_per_gpu=3, alive=[True, False, True, False])
    fails(
        "num_slots: the 2 living of 4 GPUs have 6 slots for num_experts=8, and every expert needs "
        "one; use 2 or more slots more on them",
        solve,
        LOAD,
        cluster,
        solver=solver,
    )


@pytest.mark.parametrize("solver", FOR_EQUAL_GPUS)
def test_groups_on_nodes_with_different_numbers_of_living_gpus(solver):
    cluster = Cluster(4, 2, 8, alive=[True, False, True, True])
    message = r"^cluster=.* nodes with different numbers of living GPUs, .*; use solver .*'ignore'$"
    for topology in (None, "strict"):
        with pytest.raises(ValueError, match=message):
            solve(LOAD, cluster, num_groups=2, topology=topology, solver=solver)
    ignored = solve(LOAD, cluster, num_groups=2, topology="ignore", solver=solver)
    assert (ignored.placement.physical_to_logical[:, 8:16] == -1).all()


# --- GPUs that differ ----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", FOR_EQUAL_GPUS)
@pytest.mark.parametrize(
    "cluster",
    [
        Cluster(2, num_slots=11),
        Cluster(2, slots_per_gpu=6, speed=[1, 2]),
        Cluster(3, slots=[6, 6, 5], alive=[False, True, True]),
    ],
)
def test_gpus_that_differ_need_another_solver(solver, cluster):
    message = r"^cluster=.* GPUs of different slots or speed, and this solver .*; use solver '"
    with pytest.raises(ValueError, match=message):
        solve(LOAD, cluster, solver=solver)


@pytest.mark.parametrize("solver", FOR_EQUAL_GPUS)
def test_only_the_living_have_to_be_equal(solver):
    alive = [True, False, True]
    cluster = Cluster(3, slots=[5, 2, 5], speed=[3, 1, 3], alive=alive)
    plan = solve(LOAD, cluster, solver=solver)
    smaller = solve(LOAD, Cluster(2, slots_per_gpu=5), solver=solver)
    np.testing.assert_array_equal(plan.balancedness, smaller.balancedness)


@pytest.mark.parametrize("solver", FOR_EQUAL_GPUS)
def test_preferring_needs_another_solver(solver):
    with pytest.raises(ValueError, match=r"^topology='prefer' is beyond this solver; use solver '"):
        solve(LOAD, CLUSTER, num_groups=2, topology="prefer", solver=solver)
