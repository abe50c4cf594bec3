"""One plan for the batches of several phases."""

import numpy as np
import pytest

from evenload import Cluster, Plan, Trace, solve
from evenload.batches import judge
from evenload.cost import ExpertTime
from evenload.phases import heaviest, joined
from evenload.seconds import layer_seconds
from evenload.solvers.answer import Answer
from evenload.synth import two_phase_trace

CLUSTER = Cluster(8, num_slots=40)
L, E = 6, 32
TRACES = two_phase_trace(17, L, E, seed=3)
SEEN = {name: load[:-1] for name, load in TRACES.items()}
NEXT = {name: load[-1] for name, load in TRACES.items()}
LOADS = {name: load.sum(axis=0) for name, load in SEEN.items()}


def reached(plan):
    return {name: float(plan.placement.balancedness(load).mean()) for name, load in NEXT.items()}


def test_a_plan_for_both_phases_leaves_none_behind():
    """The sum follows prefill, which has 15 times the tokens; of decode it knows nothing."""
    assert TRACES["prefill"].sum() == 15 * TRACES["decode"].sum()
    alone = {name: reached(solve(load, CLUSTER)) for name, load in SEEN.items()}
    summed = reached(solve(sum(SEEN.values()), CLUSTER))
    joint = reached(solve(SEEN, CLUSTER))
    assert summed["decode"] < 0.7
    assert joint["decode"] > 0.9
    assert joint["prefill"] > 0.9
    for name in SEEN:
        assert joint[name] > alone[name][name] - 0.03
        other = "decode" if name == "prefill" else "prefill"
        assert joint[other] > alone[name][other] + 0.2


def test_each_phase_is_told_of():
    plan = solve(LOADS, CLUSTER)
    assert plan.solver == "incremental"
    assert plan.reason == "it plans for several phases together"
    assert list(plan.by_phase) == ["prefill", "decode"]
    for name, of in plan.by_phase.items():
        np.testing.assert_allclose(of.balancedness, plan.placement.balancedness(LOADS[name]))
        assert of.straggler_time == pytest.approx(float((1 / of.balancedness).mean()))
        assert of.weight == 0.5
        line = next(line for line in plan.summary().splitlines() if line.startswith(name))
        assert f"mean {of.balancedness.mean():.4f}" in line
        assert "weight 0.50" in line
        assert f"{name} {of.balancedness.mean():.4f}" in repr(plan)
    assert solve(LOADS["decode"], CLUSTER).by_phase == {}
    assert list(solve({"decode": LOADS["decode"]}, CLUSTER).by_phase) == ["decode"]


def test_the_load_is_that_of_both_by_their_weight():
    plan = solve(LOADS, CLUSTER, phase_weight={"prefill": 15, "decode": 1})
    np.testing.assert_allclose(plan.problem.load, sum(LOADS.values()))
    samples, weight = plan.problem.likely
    np.testing.assert_allclose(samples.sum(axis=2), 1.0)
    np.testing.assert_allclose(weight, [15 / 16, 1 / 16])
    assert plan.problem.sample_phase.tolist() == [0, 1]
    both = solve(SEEN, CLUSTER)
    for number, phase in enumerate(both.problem.phases):
        own = both.problem.sample_phase == number
        assert own.sum() > 10
        assert both.problem.sample_weight[own].sum() == pytest.approx(phase.weight)


def test_weights_trade_one_phase_for_the_other():
    balance = [
        {
            name: float(of.balancedness.mean())
            for name, of in solve(
                LOADS, CLUSTER, phase_weight={"prefill": 1, "decode": weight}
            ).by_phase.items()
        }
        for weight in (0.02, 1, 50)
    ]
    assert balance[0]["decode"] < balance[1]["decode"] < balance[2]["decode"]
    assert balance[0]["prefill"] > balance[1]["prefill"] > balance[2]["prefill"]


def test_scaling_a_phase_changes_nothing_and_the_plan_has_loads_of_its_own():
    loads = {name: load.copy() for name, load in LOADS.items()}
    plan = solve(loads, CLUSTER)
    before = plan.by_phase["decode"].straggler_time
    loads["decode"][:, 0] = 1e9  # the plan keeps loads of its own
    assert (
        Plan.evaluate(plan.problem, Answer(plan.placement), "", "", ())
        .by_phase["decode"]
        .straggler_time
        == before
    )
    scaled = solve({"prefill": LOADS["prefill"] * 2.0**-40, "decode": LOADS["decode"]}, CLUSTER)
    assert scaled.placement == plan.placement
    whole = solve({name: Trace(load[None]) for name, load in LOADS.items()}, CLUSTER)
    assert whole.placement == plan.placement


def test_it_starts_from_what_runs():
    current = solve(LOADS["prefill"], CLUSTER).placement
    plan = solve(SEEN, CLUSTER, current=current)
    stay = solve(SEEN, CLUSTER, current=current, max_moves=0)
    assert stay.placement == current
    assert 0 < plan.moves.sum() < 0.7 * L * 40
    assert reached(plan)["decode"] > reached(stay)["decode"] + 0.1


@pytest.mark.parametrize("dispatch", ["live", "nearest", "static", "copy"])
def test_every_dispatch_plans_for_both(dispatch):
    plan = solve(LOADS, CLUSTER, dispatch=dispatch, effort="fast")
    for of in plan.by_phase.values():
        assert of.balancedness.mean() > 0.8


def test_samples_of_each_phase_are_kept_where_only_the_heaviest_are():
    weight = np.array([0.3, 0.1, 0.2, 0.25, 0.05, 0.05, 0.04, 0.01])
    phase = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    chosen, kept = heaviest(weight, phase, 4)
    assert chosen.tolist() == [0, 3, 4, 5]
    np.testing.assert_allclose(kept, [0.85 * 0.3 / 0.55, 0.85 * 0.25 / 0.55, 0.075, 0.075])
    chosen, kept = heaviest(weight, None, 3)
    assert chosen.tolist() == [0, 3, 2]
    assert kept.tolist() == [0.3, 0.25, 0.2]


def test_without_weights_a_phase_counts_by_its_batches_where_time_is_planned_for():
    how = {"expert_time": ExpertTime.linear(1e9), "top_k": 4, "dispatch": "even"}
    sizes = {"prefill": 8192, "decode": 64}
    phases = joined(LOADS, None, None, sizes, **how).phases
    batches = {name: LOADS[name][0].sum() / (4 * sizes[name]) for name in LOADS}
    for phase in phases:
        assert phase.tokens_per_batch == sizes[phase.name]
        assert phase.weight == pytest.approx(batches[phase.name] / sum(batches.values()))
    one = joined(LOADS, {"prefill": 1, "decode": 3}, None, 64, **how).phases
    assert [(phase.weight, phase.tokens_per_batch) for phase in one] == [(0.25, 64), (0.75, 64)]


TIMES = {
    "expert_time": ExpertTime([(1, 4e-6), (64, 4.5e-6), (256, 1e-5), (4096, 1.5e-4)]),
    "tokens_per_batch": {"prefill": 4096, "decode": 128},
    "top_k": 4,
}


def seconds_of(placement, loads):
    """Seconds of all layers of a batch of each phase, and of all batches of both."""
    how = {name: TIMES[name] for name in ("expert_time", "top_k")}
    took = {
        name: layer_seconds(placement, load, tokens_per_batch=batch, **how).sum()
        for (name, load), batch in zip(loads.items(), (4096, 128), strict=True)
    }
    batches = {name: loads[name][0].sum() / TIMES["tokens_per_batch"][name] for name in loads}
    return took, sum(batches[name] * took[name] for name in took)


def test_by_time_both_phases_together_take_less_than_with_a_plan_for_one():
    plan = solve(LOADS, CLUSTER, **TIMES)
    took, both = seconds_of(plan.placement, LOADS)
    for name, of in plan.by_phase.items():
        assert float(of.seconds.sum()) == pytest.approx(took[name])
        assert f"{1e6 * of.seconds.mean():.2f} µs per layer and batch, mean" in plan.summary()
        how = TIMES | {"tokens_per_batch": TIMES["tokens_per_batch"][name]}
        alone = solve(LOADS[name], CLUSTER, **how)
        assert both < 0.97 * seconds_of(alone.placement, LOADS)[1]
        assert took[name] < 1.1 * float(alone.seconds.sum())
    weights = [phase.weight for phase in plan.problem.phases]
    mean = np.average([of.seconds for of in plan.by_phase.values()], axis=0, weights=weights)
    np.testing.assert_allclose(plan.seconds, mean)
    assert (plan.seconds >= plan.seconds_bound).all()


def test_one_replica_of_each_active_expert_in_the_batches_of_each_phase():
    plan = solve(LOADS, CLUSTER, dispatch="one", **TIMES, effort="fast")
    for phase in plan.problem.phases:
        judged = judge(plan.problem.of_load(phase.load, phase), plan.placement)
        of = plan.by_phase[phase.name]
        np.testing.assert_array_equal(of.balancedness, judged.balancedness)
        np.testing.assert_array_equal(of.seconds, judged.seconds)
    weights = [phase.weight for phase in plan.problem.phases]
    np.testing.assert_allclose(plan.problem.sample_weight, weights)


def test_a_live_split_weighs_phases_by_what_their_batches_take():
    even, live = (
        joined(LOADS, **TIMES, dispatch=dispatch).sample_weight for dispatch in ("even", "live")
    )
    assert live[0] / live[1] > 4 * even[0] / even[1]


@pytest.mark.parametrize(
    ("load", "how", "message"),
    [
        ({}, {}, "load is an empty mapping; give at least one phase"),
        ({"a": LOADS["prefill"], "b": LOADS["decode"][:2]}, {}, r"load\['b'\] has 2 layers, and l"),
        (
            {"a": LOADS["prefill"], "b": LOADS["decode"][:, :8]},
            {},
            r"load\['b'\] has 8 experts, an",
        ),
        ({"a": LOADS["prefill"], "b": -LOADS["decode"]}, {}, r"load\['b'\]: load.* is not a fini"),
        (LOADS, {"phase_weight": {"x": 1}}, "phase_weight has 'x', and load no such phase; use 'p"),
        (LOADS, {"phase_weight": {"prefill": 1}}, "phase_weight has nothing for 'decode'; use a"),
        (LOADS, {"phase_weight": 2}, "phase_weight=2 is not by phase; use a dict with 'prefill', "),
        *(
            (
                LOADS,
                {"phase_weight": {"prefill": 1, "decode": bad}},
                rf"phase_weight\['decode'\]={float(bad)} is not finite and above 0",
            )
            for bad in (0, -1, np.nan, np.inf)
        ),
        (LOADS, {"solver": "joint"}, "solver='joint' plans for one load, and there are several"),
        (LOADS, {"solver": "greedy"}, "solver='greedy' plans for one load, and there are several"),
        (
            LOADS,
            {"num_groups": 4, "topology": "prefer"},
            "topology='prefer' is beyond loads by phase; use topology",
        ),
        (LOADS, {"estimator": "last"}, "estimator='last' needs loads over time, and each phase"),
        (
            LOADS["decode"],
            {"phase_weight": {"decode": 1}},
            "phase_weight={'decode': 1} is for loads by phase; give them as",
        ),
        (
            LOADS,
            {"expert_time": ExpertTime.linear(1e9), "tokens_per_batch": {"decode": 4}},
            "tokens_per_batch has nothing for 'prefill'",
        ),
        (
            LOADS,
            {"expert_time": ExpertTime.linear(1e9), "tokens_per_batch": {"decode": 4, "x": 1}},
            "tokens_per_batch has 'x', and load no such phase",
        ),
    ],
)
def test_what_does_not_go_together(load, how, message):
    with pytest.raises(ValueError, match=message):
        solve(load, CLUSTER, **how)
