"""Moves priced and limited in modelled seconds."""

import re

import numpy as np
import pytest
from costs import LARGE

from evenload import Cluster, CostModel, Placement, solve
from evenload.replay import replay
from evenload.synth import synthetic_trace

LOADS = synthetic_trace(8, 6, 16, seed=3, tokens=4000).astype(float)
CLUSTER = Cluster(4, slots_per_gpu=6)
COST = CostModel(1e6, 1e6, 1e9, 1e9, latency=1e-4, overlap=0.5)
CURRENT = solve(LOADS[0], CLUSTER).placement


def seconds(plan) -> float:
    return COST.schedule(CURRENT, plan.placement).seconds


@pytest.mark.parametrize("load", [LOADS[1:5], LOADS[4]])
def test_a_price_in_seconds_is_the_default_where_costs_are_given(load) -> None:
    last = load[-1] if load.ndim == 3 else load
    how = {"current": CURRENT, "solver": "incremental"}
    ours = solve(load, CLUSTER, cost=COST, **how)
    by_hand = solve(load, CLUSTER, move_cost=COST.move_cost(last, CLUSTER), **how)
    assert ours.placement == by_hand.placement
    own = solve(load, CLUSTER, cost=COST, move_cost=0.02, **how)
    assert own.placement == solve(load, CLUSTER, move_cost=0.02, **how).placement
    # What a load is served for decides: the more tokens, the more moves pay.
    few, many = (solve(load * by, CLUSTER, cost=COST, **how).moves.sum() for by in (1e-3, 1e3))
    assert few == 0 < many


def test_transfers_take_no_longer_than_they_may() -> None:
    how = {"current": CURRENT, "cost": COST, "move_cost": 0.0}
    free = solve(LOADS[4], CLUSTER, **how)
    most, moved, reached = seconds(free), [], []
    start = CURRENT.balancedness(LOADS[4]).mean()
    for share in (0.0, 0.01, 0.1, 0.3, 0.6, 1.0, 2.0):
        plan = solve(LOADS[4], CLUSTER, max_transfer_seconds=share * most, **how)
        assert seconds(plan) <= share * most
        assert (plan.balancedness >= CURRENT.balancedness(LOADS[4]) - 1e-12).all()
        again = solve(LOADS[4], CLUSTER, max_transfer_seconds=share * most, **how)
        assert again.placement == plan.placement
        moved.append(int(plan.moves.sum()))
        reached.append(float(plan.balancedness.mean()))
    assert moved[0] == 0
    assert reached[0] == start < reached[2]
    assert sorted(reached) == reached
    assert plan.placement == free.placement
    half = solve(LOADS[4], CLUSTER, max_transfer_seconds=0.5 * most, **how)
    assert re.search(r"\d layers keep what runs: all moves would take \S+ s by the", half.notes[-1])


def test_less_than_a_layer_still_moves_some_experts() -> None:
    one = COST.latency + COST.expert_bytes / COST.bandwidth_in_node
    how = {"current": CURRENT, "cost": COST, "max_transfer_seconds": 1.5 * one}
    load = LOADS[4][:1] * 1e6
    how["current"] = Placement(CURRENT.physical_to_logical[:1], CLUSTER, 16)
    plan = solve(load, CLUSTER, **how)
    assert 0 < COST.schedule(how["current"], plan.placement).seconds <= 1.5 * one
    assert plan.balancedness.mean() > how["current"].balancedness(load).mean()


def test_a_policy_keeps_to_its_seconds() -> None:
    how = {"cost": COST, "start": CURRENT, "recorded_share": 1e-3, "delay": False, "oracle": None}
    free = replay(LOADS, CLUSTER, "evenload", **how)
    limit = 0.4 * free.transfer_seconds.max()
    held = replay(LOADS, CLUSTER, f"evenload,max_transfer_seconds={limit}", **how)
    assert 0 < held.transfer_seconds.max() <= limit < free.transfer_seconds.max()


@pytest.mark.parametrize(
    ("how", "wrong"),
    [
        ({"survive": "gpu"}, "survive what it has to"),
        ({"num_groups": 4, "topology": "strict"}, "keep groups on one node"),
    ],
)
def test_moves_that_have_to_be_made_are_not_left_out(how, wrong) -> None:
    load, cluster = LOADS[4, :, :8], Cluster(4, 2, slots_per_gpu=4)
    rows = np.tile([0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 0, 1, 2, 3, 2, 3], (6, 1))
    if "survive" in how:
        rows = np.tile([0, 1, 2, 3, 4, 5, 6, 7, *range(4), 0, 1, 2, 3], (6, 1))
    how |= {"current": Placement(rows, cluster, 8), "cost": COST}
    free = solve(load, cluster, **how)
    with pytest.raises(
        ValueError, match=f"^current does not {wrong}, and max_transfer_sec"
    ) as told:
        solve(load, cluster, max_transfer_seconds=1e-3, **how)
    enough = float(re.search(r"use (\S+), or", str(told.value))[1])
    assert solve(load, cluster, max_transfer_seconds=enough, **how).placement == free.placement


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cost": None}, "max_transfer_seconds=1.0 needs to know what moves take; give cost, or"),
        ({"cost": 3}, "cost=3 is not a CostModel"),
        ({"current": None}, "cost needs to know what runs now; give current, or leave cost out"),
        ({"max_transfer_seconds": -1.0}, "max_transfer_seconds=-1.0 is not finite and at least 0"),
        ({"max_transfer_seconds": np.nan}, "max_transfer_seconds=nan is not finite and at least 0"),
        ({"cost": CostModel.preset("h100-ib", "gpt-oss-20b")}, "model='gpt-oss-20b' has 24 layers"),
        ({"current": Placement.trivial(6, 16, Cluster(4, slots_per_gpu=5))},
         "max_transfer_seconds=1.0 cannot be kept where current is on Cluster(num_gpus=4"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(how, message) -> None:
    given = {"current": CURRENT, "cost": LARGE, "max_transfer_seconds": 1.0} | how
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        solve(LOADS[4], CLUSTER, **given)
