"""A plan: what it says it reaches must be what its placement reaches."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement, Plan, solve
from evenload.problem import Problem
from evenload.solvers import solver_names
from evenload.solvers.answer import Answer
from evenload.solvers.auto import choose

CLUSTER = Cluster(4, num_nodes=2, slots_per_gpu=3)
LOAD = np.random.default_rng(8).lognormal(3.0, 1.0, (5, 8))


@settings(max_examples=40, deadline=None)
@given(
    load=st.lists(st.lists(st.integers(0, 500), min_size=8, max_size=8), min_size=1, max_size=4),
    num_groups=st.sampled_from([1, 2, 4]),
    solver=st.sampled_from(["auto", *solver_names()]),
)
def test_figures(load, num_groups, solver):
    plan = solve(load, CLUSTER, num_groups=num_groups, solver=solver)
    gpu_load = plan.placement.gpu_load(load)
    assert plan.placement.cluster == CLUSTER
    assert (plan.placement.num_layers, plan.placement.num_experts) == (len(load), 8)
    np.testing.assert_array_equal(plan.balancedness, plan.placement.balancedness(load))
    np.testing.assert_array_equal(plan.duplicates, plan.placement.duplicates)
    np.testing.assert_array_equal(plan.gap, plan.bound - plan.balancedness)
    assert (plan.balancedness > 0).all()
    assert (plan.balancedness <= plan.bound).all()
    assert (plan.bound <= 1).all()
    if gpu_load.any():
        expected = gpu_load.max(axis=1).sum() / gpu_load.mean(axis=1).sum()
        assert plan.straggler_time == pytest.approx(expected, rel=1e-12)
    assert plan.straggler_time >= 1.0


def test_straggler_time_by_hand():
    load = [[6, 2], [2, 2], [0, 0]]
    plan = solve(load, Cluster(2, slots_per_gpu=1))
    assert plan.straggler_time == pytest.approx((6 + 2 + 0) / (4 + 2 + 0))
    assert type(plan.straggler_time) is float


def test_types():
    plan = solve(LOAD, CLUSTER, num_groups=2)
    assert isinstance(plan, Plan)
    assert isinstance(plan.placement, Placement)
    for name in ("balancedness", "bound", "gap", "duplicates"):
        assert getattr(plan, name).shape == (5,), name
    assert type(plan.solver) is type(plan.reason) is str
    assert plan.notes == ()


@pytest.mark.parametrize("solver", solver_names())
def test_a_solver_asked_for_by_name(solver):
    plan = solve(LOAD, CLUSTER, solver=solver)
    assert (plan.solver, plan.reason) == (solver, "asked for by name")


def test_auto_says_what_ran_and_why():
    plan = solve(LOAD, CLUSTER)
    chosen = choose(plan.problem)[2]
    assert plan.solver in solver_names()
    assert plan.reason not in ("", "asked for by name")
    assert plan.placement == solve(LOAD, CLUSTER, solver=plan.solver, **chosen).placement
    assert f"solver          {plan.solver}: {plan.reason}" in plan.summary()


def test_summary():
    load = [[6, 2], [2, 2]]
    plan = solve(load, Cluster(2, 2, slots_per_gpu=1), solver="greedy")
    assert plan.summary().splitlines() == [
        "2 layers, 2 experts in 2 slots on 2 GPUs (2 nodes)",
        "solver          greedy: asked for by name",
        "balancedness    mean 0.8333, worst layer 0.6667",
        "bound           mean 0.8333 (gap 0.0000, largest 0.0000)",
        "dispatch        even; under others: live 0.8333, nearest 0.8333, static 0.8333",
        "straggler time  1.3333 x ideal",
        "duplicates      0",
    ]


def test_summary_and_repr_of_tensors():
    torch = pytest.importorskip("torch")
    plan, same = solve(torch.tensor(LOAD), CLUSTER), solve(LOAD, CLUSTER)
    assert plan.summary() == same.summary()
    assert repr(plan) == repr(same)


def test_notes_end_the_summary():
    plan = solve(np.ones((1, 6)), Cluster(2, 2, slots_per_gpu=7), num_groups=3)
    assert len(plan.notes) == 2
    assert plan.summary().splitlines()[-2:] == [f"note            {note}" for note in plan.notes]


def test_repr():
    plan = solve([[6, 2]], Cluster(2, slots_per_gpu=1), solver="greedy")
    assert repr(plan) == (
        "<Plan by greedy: balancedness 0.6667, bound 0.6667, <Placement: 1 layers, 2 experts in 2 "
        "slots on 2 GPUs (1 nodes), 0 experts replicated>>"
    )


def test_frozen():
    plan = solve(LOAD, CLUSTER)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.solver = "mine"


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_plan_survives_a_pickle(kind):
    load = LOAD if kind == "array" else pytest.importorskip("torch").tensor(LOAD)
    plan = solve(load, CLUSTER)
    again = pickle.loads(pickle.dumps(plan))
    assert again.placement == plan.placement
    assert again.summary() == plan.summary()
    assert type(again.placement.replica_count) is type(plan.balancedness)


# --- placements from elsewhere -------------------------------------------------------------------


def test_evaluate_measures_any_placement():
    problem = Problem.build(LOAD, CLUSTER)
    trivial = Placement.trivial(5, 8, CLUSTER)
    plan = Plan.evaluate(problem, Answer(trivial), "none", "to compare", ("a note",))
    np.testing.assert_array_equal(plan.balancedness, trivial.balancedness(LOAD))
    assert (plan.solver, plan.reason, plan.notes) == ("none", "to compare", ("a note",))


def test_evaluate_brings_all_arrays_to_the_kind_of_the_load():
    torch = pytest.importorskip("torch")
    rows = Placement.trivial(5, 8, CLUSTER).physical_to_logical.copy()
    for load, placed in ((LOAD, torch.tensor(rows)), (torch.tensor(LOAD), rows)):
        answer = Answer(Placement(placed, CLUSTER, 8))
        plan = Plan.evaluate(Problem.build(load, CLUSTER), answer, "mine", "why not", ())
        for part in (plan.balancedness, plan.duplicates, plan.placement.physical_to_logical):
            assert type(part) is type(load)


def test_evaluate_refuses_a_placement_of_something_else():
    problem = Problem.build(LOAD, CLUSTER)
    other = Cluster(4, slots_per_gpu=3)
    with pytest.raises(
        ValueError, match=r"^placement is on Cluster\(num_gpus=4, num_nodes=1, .*; use a placement"
    ):
        Plan.evaluate(problem, Answer(Placement.trivial(5, 8, other)), "mine", "", ())
    with pytest.raises(
        ValueError, match=r"^placement has .* \(4, 8\), and \(5, 8\) are wanted; use a placement"
    ):
        Plan.evaluate(problem, Answer(Placement.trivial(4, 8, CLUSTER)), "mine", "", ())


def test_what_a_solver_proves_and_notes_is_kept():
    problem = Problem.build(LOAD, CLUSTER)
    trivial = Placement.trivial(5, 8, CLUSTER)
    limit = np.array([0.9, 2.0, 2.0, 2.0, 2.0])
    answer = Answer(trivial, bound=limit, notes=("of the solver",))
    plan = Plan.evaluate(problem, answer, "mine", "", ("before",))
    general = Plan.evaluate(problem, Answer(trivial), "mine", "", ()).bound
    np.testing.assert_array_equal(plan.bound, np.minimum(general, limit))
    assert plan.notes == ("before", "of the solver")


def test_evaluate_on_gpus_of_different_speed():
    cluster = Cluster(2, slots_per_gpu=1, speed=[1, 3])
    answer = Answer(Placement([[0, 1]] * 2, cluster, 2))
    plan = Plan.evaluate(Problem.build([[2, 6], [3, 3]], cluster), answer, "mine", "", ())
    assert plan.balancedness.tolist() == pytest.approx([1.0, 0.5])
    assert plan.straggler_time == pytest.approx((2 + 3) / (8 / 4 + 6 / 4))


def test_evaluate_with_a_gpu_that_is_gone():
    cluster = Cluster(3, slots_per_gpu=1, alive=[True, False, True])
    answer = Answer(Placement([[0, -1, 1]] * 2, cluster, 2))
    plan = Plan.evaluate(Problem.build([[6, 2], [2, 2]], cluster), answer, "mine", "", ())
    np.testing.assert_array_equal(plan.placement.gpu_load([[6, 2], [2, 2]])[:, 1], [0.0, 0.0])
    assert plan.balancedness.tolist() == pytest.approx([4 / 6, 1.0])
    assert plan.straggler_time == pytest.approx((6 + 2) / (4 + 2))
