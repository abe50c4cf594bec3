"""Policies over a trace, against a slow twin and by hand."""

import copy
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import twins
from costs import LARGE
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, CostModel, Placement, Trace, read_trace, solve
from evenload import replay as replays
from evenload.checkpoint import plan_order
from evenload.replay import Past, get_policy, policy_names
from evenload.replay.run import old_part
from evenload.solvers import solver_names
from evenload.synth import synthetic_trace

replay = partial(replays.replay, cost=LARGE)
SLOW = settings(deadline=None, max_examples=25)
CLUSTER = Cluster(4, slots_per_gpu=3)
LOADS = synthetic_trace(12, 3, 8, topic_windows=4, seed=1, tokens=4000)
# Slow links, so that moves take windows.
CRAWL = CostModel(
    tokens_per_second=1e4,
    expert_bytes=1e6,
    bandwidth_in_node=2e7,
    bandwidth_between_nodes=1e7,
    latency=1e-3,
    overlap=1.0,
)


@dataclass
class Recorder:
    """Keeps what it is shown, and returns what it was given, in turn."""

    answers: list = field(default_factory=list)
    memory: int = 3
    name: str = "recorder"
    seen: list = field(default_factory=list)

    def decide(self, past: Past) -> Placement | None:
        self.seen.append(past)
        return self.answers.pop(0) if self.answers else None


def plans(loads=LOADS, cluster=CLUSTER):
    return [solve(load, cluster, solver="greedy").placement for load in loads]


# --- the twin -----------------------------------------------------------------------------------


def slow_balancedness(load, placement):
    slots, speed = placement.cluster.slots, placement.cluster.speed
    gpus = twins.experts_on_gpus(placement.physical_to_logical, slots)
    return twins.balancedness_at_speed(twins.load_on_gpus(load, gpus), speed)


def slow_mix(mean, old, new, due):
    """Walk through a window in small steps of tokens, each layer from where it is served then.

    Returns the seconds of each layer, which add up to those of the window.
    """
    steps = 4000
    seconds = np.zeros_like(mean)
    for _ in range(steps):
        now = seconds.sum()
        at = np.where(due > now, old, new)
        seconds += mean / at / steps
    return seconds


def slow_replay(loads, cluster, policy, interval, warm_start, cost, start):
    """Everything in the plainest way."""
    current, before, due = start, None, None
    reached, never, mean_seconds, rebalances, asked = [], [], [], [], 0
    for t in range(warm_start, len(loads)):
        if (t - warm_start) % interval == 0 and due is None:
            past = loads[max(t - policy.memory, 0) : t].astype(float)
            wanted = policy.decide(Past(past, t, asked, current, cluster, 1, cost))
            asked += 1
            if wanted is not None and wanted != current:
                schedule = cost.schedule(current, wanted)
                rebalances.append((t, wanted.moves_from(current), schedule.seconds))
                before, current = current, wanted
                due = cost.overlap * np.cumsum(schedule.layer_seconds)
                if due[-1] == 0:
                    due = None
        mean = loads[t].sum(axis=1) / cluster.num_gpus / cost.tokens_per_second
        new = slow_balancedness(loads[t], current)
        old = new if before is None else slow_balancedness(loads[t], before)
        seconds = mean / new
        if due is not None:
            seconds = slow_mix(mean, old, new, due)
            due = due - seconds.sum()
            if due[-1] <= 0:
                due = None
        reached.append(mean / seconds)
        never.append(slow_balancedness(loads[t], start))
        mean_seconds.append(mean)
    return np.array(reached), np.array(never), np.array(mean_seconds), rebalances


@SLOW
@given(
    interval=st.integers(1, 4),
    warm_start=st.integers(1, 5),
    memory=st.integers(1, 4),
    overlap=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 50),
)
def test_against_the_slow_twin(interval, warm_start, memory, overlap, seed) -> None:
    loads = synthetic_trace(9, 3, 8, topic_windows=3, seed=seed, tokens=4000)
    answers = [None, *plans(loads[:2]), None, *plans(loads[3:6])]
    cost = CostModel(**{**CRAWL.__dict__, "overlap": overlap})
    start = Placement.trivial(3, 8, CLUSTER)
    twin, ours = Recorder(list(answers), memory), Recorder(list(answers), memory)
    expected = slow_replay(loads, CLUSTER, twin, interval, warm_start, cost, start)
    result = replay(
        loads, CLUSTER, ours, interval=interval, warm_start=warm_start, cost=cost, oracle=None
    )
    reached, never, mean, rebalances = expected
    np.testing.assert_allclose(result.balancedness, reached, rtol=2e-3)
    np.testing.assert_allclose(result.start_balancedness, never, rtol=1e-12)
    np.testing.assert_allclose(result.mean_seconds, mean, rtol=1e-12)
    assert [r[0] for r in rebalances] == result.rebalance_window.tolist()
    assert [r[1].tolist() for r in rebalances] == result.moves.tolist()
    np.testing.assert_allclose(result.transfer_seconds, [r[2] for r in rebalances])
    np.testing.assert_allclose(
        result.move_seconds, (1 - overlap) * result.transfer_seconds, atol=1e-15
    )
    # What was seen is the same, window for window, and of the past alone.
    assert len(twin.seen) == len(ours.seen) == result.asked
    for past, other in zip(ours.seen, twin.seen, strict=True):
        assert (past.window, past.asked, past.current) == (other.window, other.asked, other.current)
        assert np.array_equal(past.load, other.load)
    # And so is what each rebalance saved while its placement was kept.
    saved = (mean / never - mean / reached).sum(axis=1)
    ends = [*result.rebalance_window, len(loads)][1:]
    for r, (first, end) in enumerate(zip(result.rebalance_window, ends, strict=True)):
        total = saved[first - warm_start : end - warm_start].sum()
        assert result.saved_seconds[r] == pytest.approx(total, rel=0.02, abs=2e-3)


@settings(deadline=None)
@given(
    seconds=st.lists(
        st.tuples(st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.floats(0.0, 5.0)), min_size=1,
        max_size=5,
    ),
    start=st.floats(-5.0, 5.0),
)  # fmt: skip
def test_the_part_of_a_window_from_the_old_place(seconds, start) -> None:
    old, new, stay = np.array(seconds).T
    due = start + np.cumsum(stay)
    part = old_part(old, new, due)
    assert ((part >= 0) & (part <= 1)).all()
    assert (np.diff(part) >= 0).all()
    assert (part[due <= 0] == 0).all()
    # The layers that have changed over by the time that p of the window is served have served just
    # so much from the old place: time passed until then is due.
    for layer in np.flatnonzero((part > 0) & (part < 1)):
        p = part[layer]
        passed = (np.minimum(part, p) * old + np.maximum(p - part, 0) * new).sum()
        assert passed == pytest.approx(due[layer], rel=1e-9)
    whole = (part * old + (1 - part) * new).sum()
    assert ((due < whole + 1e-9) | (part > 1 - 1e-9)).all()


# --- what a policy sees -------------------------------------------------------------------------


def test_a_policy_sees_the_past_only_and_cannot_change_it() -> None:
    policy = Recorder(memory=4)
    replay(LOADS, CLUSTER, policy, interval=2, warm_start=3, oracle=None)
    assert [past.window for past in policy.seen] == [3, 5, 7, 9, 11]
    assert [past.asked for past in policy.seen] == [0, 1, 2, 3, 4]
    for past in policy.seen:
        t = past.window
        assert np.array_equal(past.load, LOADS[max(t - 4, 0) : t])
        with pytest.raises(ValueError, match="read-only"):
            past.load[0] = 0


def test_what_is_still_to_come_changes_nothing() -> None:
    changed = LOADS.copy()
    changed[8:] = changed[8:, :, ::-1]
    for name in ("deepseek", "every-2:joint", "evenload"):
        one, other = (replay(x, CLUSTER, name, oracle=None) for x in (LOADS, changed))
        until = int(np.searchsorted(one.windows, 8))
        assert np.array_equal(one.balancedness[:until], other.balancedness[:until])
        assert np.array_equal(one.placements[: one.served[until]],
                              other.placements[: one.served[until]])  # fmt: skip


def test_it_is_not_asked_while_experts_are_on_their_way() -> None:
    slow = CostModel(**{**CRAWL.__dict__, "bandwidth_in_node": 8e6})
    policy = Recorder(plans()[:3])
    result = replay(LOADS, CLUSTER, policy, cost=slow, oracle=None)
    assert result.put_off > 0
    assert result.asked + result.put_off == len(result.windows)
    first, second = result.rebalance_window[:2]
    served = (result.straggler_seconds[first - 1 : second - 1]).sum()
    assert served >= result.transfer_seconds[0]
    at_once = replay(LOADS, CLUSTER, Recorder(plans()[:3]), cost=slow, oracle=None, delay=False)
    assert at_once.put_off == 0
    assert at_once.rebalance_window[:2].tolist() == [1, 2]


# --- policies by name ---------------------------------------------------------------------------


def test_never() -> None:
    result = replay(LOADS, CLUSTER, "never")
    assert result.num_rebalances == 0
    assert result.moves.shape == (0, 3)
    assert result.total_seconds == pytest.approx(result.straggler_seconds.sum())
    trivial = Placement.trivial(3, 8, CLUSTER)
    for t, reached in zip(result.windows, result.balancedness, strict=True):
        assert np.array_equal(reached, trivial.balancedness(LOADS[t]))
    assert np.array_equal(result.start_balancedness, result.balancedness)
    assert result.figures()["moved_share"] == 0.0


def test_once() -> None:
    result = replay(LOADS, CLUSTER, "once:greedy", warm_start=2, delay=False)
    assert result.rebalance_window.tolist() == [2]
    plan = solve(LOADS[1], CLUSTER, solver="greedy").placement
    assert np.array_equal(result.placements[1], plan.physical_to_logical)
    for t, reached in zip(result.windows, result.balancedness, strict=True):
        assert np.array_equal(reached, plan.balancedness(LOADS[t]))


def test_a_reordered_checkpoint_starts_from_its_plan() -> None:
    loads = synthetic_trace(8, 2, 16, seed=3, tokens=5000)
    cluster = Cluster(4, slots_per_gpu=4)
    found, never = (replay(loads, cluster, name, warm_start=4) for name in ("reorder", "never"))
    assert found.num_rebalances == 0
    place = plan_order(loads[:4], 4)
    np.testing.assert_array_equal(found.placements[0], place.rows)
    np.testing.assert_array_equal(found.start_balancedness, never.balancedness)
    assert found.balancedness.mean() > never.balancedness.mean()
    with pytest.raises(ValueError, match=r"has 20 slots for 16 experts; use --slots 16"):
        replay(loads, Cluster(4, slots_per_gpu=5), "reorder")


def test_every_n() -> None:
    result = replay(LOADS, CLUSTER, "every-3:greedy", interval=2, warm_start=1, delay=False)
    assert result.rebalance_window.tolist() == [1, 7]
    again = replay(LOADS, CLUSTER, "every-1:greedy", delay=False)
    deepseek = replay(LOADS, CLUSTER, "deepseek", delay=False)
    assert np.array_equal(again.placements, deepseek.placements)


def test_vllm_keeps_slots_and_moves_as_much_as_deepseek() -> None:
    deepseek, vllm = (replay(LOADS, CLUSTER, name) for name in ("deepseek", "vllm"))
    assert np.array_equal(deepseek.balancedness, vllm.balancedness)
    assert np.array_equal(deepseek.moves, vllm.moves)

    def changed(result):
        return (np.diff(result.placements, axis=0) != 0).sum()

    assert changed(vllm) < changed(deepseek)


def test_ours_runs_and_is_deterministic() -> None:
    one, other = (replay(LOADS, CLUSTER, "evenload") for _ in range(2))
    assert np.array_equal(one.balancedness, other.balancedness)
    assert one.balancedness.mean() > replay(LOADS, CLUSTER, "never").balancedness.mean()


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
def test_every_solver_by_name(solver) -> None:
    if solver == "exact":
        pytest.importorskip("ortools")
    for name in (f"once:{solver}", f"every-2:{solver}"):
        result = replay(LOADS[:4, :1], CLUSTER, name)
        assert result.policy == name
        assert result.num_rebalances >= 1


def test_options_of_solvers() -> None:
    policy = get_policy("every-4:joint,effort=thorough")
    assert policy.options == {"effort": "thorough"}
    assert get_policy("evenload,move_cost=0.003,max_moves=4").options == {
        "move_cost": 0.003,
        "max_moves": 4,
    }
    with pytest.raises(ValueError, match="has no option 'efort'"):
        replay(LOADS, CLUSTER, "once:joint,efort=3")


@pytest.mark.parametrize(
    "name",
    ["", "nevr", "every-0", "every-x", "every", "every-", "once:", "deepseek:joint", "every--2",
     "never,a=1", "every-2:nothing", "once,effort", "evenload:joint", 3, None, "every-2 "],
)  # fmt: skip
def test_unknown_policies_are_refused_with_the_list(name) -> None:
    if name is None or name == 3:
        with pytest.raises(
            ValueError, match=r"is not a policy; use a name, or an object with name"
        ):
            replay(LOADS, CLUSTER, name)
        return
    listed = "never, once, once:SOLVER|use one of: auto, |is less than 1; use 1|write it as name="
    with pytest.raises(ValueError, match=listed):
        replay(LOADS, CLUSTER, name)


def test_the_list_of_names_is_of_names_that_work() -> None:
    for name in policy_names():
        get_policy(name.replace("N", "2").replace("SOLVER", "joint"))


# --- figures ------------------------------------------------------------------------------------


@SLOW
@given(
    st.sampled_from(["never", "deepseek", "every-2:local-search"]),
    st.sampled_from(["fast", "joint", "greedy"]),
    st.integers(0, 9),
)
def test_the_oracle_is_never_below_what_was_reached(policy, oracle, seed) -> None:
    loads = synthetic_trace(6, 2, 8, seed=seed, tokens=500)
    result = replay(loads, CLUSTER, policy, oracle=oracle, cost=CRAWL)
    assert (result.regret >= -1e-12).all()
    assert (result.oracle >= result.start_balancedness - 1e-12).all()
    assert (result.oracle <= 1.0).all()


def test_an_oracle_of_ones_own_and_none() -> None:
    trivial = Placement.trivial(3, 8, CLUSTER)
    own = replay(LOADS, CLUSTER, "never", oracle=lambda load: trivial)
    assert np.array_equal(own.oracle, own.balancedness)
    without = replay(LOADS, CLUSTER, "never", oracle=None)
    assert np.isnan(without.oracle).all()
    assert without.figures()["regret"] is None
    assert without.to_dict()["per_window"]["oracle"] is None


def test_net_seconds_by_hand_add_up() -> None:
    # Two GPUs with two slots; experts 0 and 1 are hot and lie together at first.
    hot = [[6.0, 6.0, 2.0, 2.0]]
    cluster = Cluster(2, slots_per_gpu=2)
    apart = Placement([[0, 2, 1, 3]], cluster, 4)
    together = Placement([[0, 1, 2, 3]], cluster, 4)
    cost = CostModel(
        tokens_per_second=1.0,
        expert_bytes=10.0,
        bandwidth_in_node=2.0,
        bandwidth_between_nodes=1.0,
        latency=1.0,
        overlap=0.0,
    )
    # The GPUs exchange an expert: 1 + 10 / 2 = 6 s. It saves 12 - 8 = 4 s in every hot window.
    loads = [hot, hot, hot, hot]
    result = replay(loads, cluster, Recorder([apart]), cost=cost, oracle=None)
    assert result.straggler_seconds.tolist() == [[8.0]] * 3
    assert result.saved_seconds.tolist() == [12.0]
    assert result.move_seconds.tolist() == [6.0]
    assert result.net_seconds.tolist() == [6.0]
    assert result.outlasted.tolist() == [False]
    assert result.moved_bytes.tolist() == [20.0]
    assert result.total_seconds == 30.0
    # Moved back after one window it saved 4 s for 6; going back saves nothing, and costs 6 again.
    loads = [hot, hot, hot]
    result = replay(loads, cluster, Recorder([apart, together]), cost=cost, oracle=None)
    assert result.saved_seconds.tolist() == [4.0, 0.0]
    assert result.net_seconds.tolist() == [-2.0, -6.0]
    assert result.total_seconds == 2 * 12.0 + 8.0
    # Never moving takes 12 s in each window: what is saved adds up to that.
    for answers in ([apart], [apart, together], [None, apart]):
        result = replay([hot] * 4, cluster, Recorder(answers), cost=cost, oracle=None)
        assert result.net_seconds.sum() == 3 * 12.0 - result.total_seconds
    # All of it hidden behind serving: 6 s pass with the old place, which at 12 s a window is half
    # of the first; that takes 6 + 4 s, the others 8.
    hidden = CostModel(**{**cost.__dict__, "overlap": 1.0})
    result = replay([hot] * 4, cluster, Recorder([apart]), cost=hidden, oracle=None)
    assert result.straggler_seconds.tolist() == [[10.0], [8.0], [8.0]]
    assert result.move_seconds.tolist() == [0.0]
    assert result.saved_seconds.tolist() == [10.0]
    assert result.net_seconds.tolist() == [10.0]


def test_a_trace_that_is_a_sample_stands_for_more_seconds() -> None:
    whole = replay(LOADS, CLUSTER, "deepseek", delay=False)
    tenth = replay(LOADS, CLUSTER, "deepseek", delay=False, recorded_share=0.1)
    np.testing.assert_allclose(tenth.mean_seconds, 10 * whole.mean_seconds)
    assert np.array_equal(tenth.balancedness, whole.balancedness)
    assert np.array_equal(tenth.move_seconds, whole.move_seconds)


@SLOW
@given(st.sampled_from([2.0**-40, 3.0, 2.0**60]))
def test_scaling_the_load_changes_no_decision(factor) -> None:
    one = replay(LOADS, CLUSTER, "deepseek", delay=False)
    other = replay(LOADS * factor, CLUSTER, "deepseek", delay=False)
    np.testing.assert_allclose(one.balancedness, other.balancedness, rtol=1e-12)
    assert np.array_equal(one.placements, other.placements)


def test_windows_intervals_and_notes() -> None:
    result = replay(LOADS[:11], CLUSTER, "deepseek", merge=2, warm_start=2, interval=2)
    assert result.windows.tolist() == [2, 3, 4]
    left_out = "the last 1 of 11 windows are left out: they do not fill a window of 2"
    assert result.notes == (left_out,)
    by_hand = replay(LOADS[:10].reshape(5, 2, 3, 8).sum(axis=1), CLUSTER, "deepseek", warm_start=2,
                     interval=2)  # fmt: skip
    assert np.array_equal(result.balancedness, by_hand.balancedness)
    assert result.summary().count("note") == 1


def test_only_the_last_placement_where_wanted() -> None:
    every = replay(LOADS, CLUSTER, "deepseek", delay=False)
    last = replay(LOADS, CLUSTER, "deepseek", delay=False, keep_placements=False)
    assert every.placements.shape == (every.num_rebalances + 1, 3, 12)
    assert every.placements.dtype == np.int16
    assert np.array_equal(last.placements, every.placements[-1:])
    for t, served, reached in zip(every.windows, every.served, every.balancedness, strict=True):
        place = Placement(every.placements[served], CLUSTER, 8)
        assert np.array_equal(place.balancedness(LOADS[t]), reached)


def test_from_a_start_of_ones_own_on_gpus_that_differ() -> None:
    cluster = Cluster(4, 2, slots=[2, 3, 3, 4], speed=[1, 1, 2, 2], alive=[True, True, True, False])
    start = solve(LOADS[0], cluster).placement
    result = replay(LOADS, cluster, "evenload", start=start, cost=CRAWL)
    assert np.array_equal(result.placements[0], start.physical_to_logical)
    assert (result.regret >= -1e-12).all()


def test_groups_reach_the_planner() -> None:
    cluster = Cluster(4, 2, slots_per_gpu=3)
    result = replay(LOADS, cluster, "every-1:joint", num_groups=2, delay=False)
    plan = solve(LOADS[0], cluster, num_groups=2, solver="joint").placement
    assert np.array_equal(result.placements[1], plan.physical_to_logical)


def test_input_is_left_alone_and_progress_is_told() -> None:
    loads, told = LOADS.copy(), []
    replay(loads, CLUSTER, "deepseek", progress=lambda done, total: told.append((done, total)))
    assert np.array_equal(loads, LOADS)
    assert told == [(n, 11) for n in range(1, 12)]


def test_the_dictionary_is_plain() -> None:
    import json

    result = replay(LOADS, CLUSTER, "deepseek", cost=CRAWL)
    entry = json.loads(json.dumps(result.to_dict()))
    assert entry["settings"]["cost"]["expert_bytes"] == 1e6
    assert sum(entry["per_rebalance"]["moves"]) == entry["moves"] == result.moves.sum()
    assert len(entry["per_window"]["balancedness"]) == entry["num_windows"]
    assert entry["total_seconds"] == result.total_seconds


def test_a_policy_that_is_used_twice_starts_anew() -> None:
    policy = get_policy("once")
    assert [replay(LOADS, CLUSTER, policy).num_rebalances for _ in range(2)] == [1, 1]
    assert copy.deepcopy(policy) == policy


# --- bad input ----------------------------------------------------------------------------------


def refused(message, **how):
    arguments = {"trace": LOADS, "cluster": CLUSTER, "policy": "never", **how}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        replay(**arguments)


OTHER = Placement.trivial(3, 8, Cluster(4, slots_per_gpu=4))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"merge": 13}, "merge=13 makes fewer than 2 windows of the trace's 12, "),
        ({"merge": 0}, "merge=0 is less than 1; use 1 or more"),
        ({"merge": 12}, "merge=12 makes fewer than 2 windows of the trace's 12, and a replay "
         "plans from one and serves the next; use at most merge=6, or a longer trace"),
        ({"interval": 0}, "interval=0 is less than 1; use 1 or more"),
        ({"interval": 1.5}, "interval=1.5 is not an integer"),
        ({"warm_start": 0}, "warm_start=0 is less than 1; use 1 or more"),
        ({"warm_start": 12}, "warm_start=12 leaves none of the trace's 12 windows to serve; use "
         "11"),
        ({"cluster": 8}, "cluster=8 is not a Cluster"),
        ({"cluster": Cluster(2, slots_per_gpu=2)}, "num_slots=4 is fewer than num_experts=8"),
        ({"cost": 3}, "cost=3 is not a CostModel"),
        ({"cost": None}, "cost=None is not a CostModel"),
        ({"cost": CostModel.preset("h100-ib", "deepseek-v3")}, "model='deepseek-v3' has 58 layers "
         "x 256 experts, and the load 3 x 8; use mixtral-8x7b, mixtral-8x22b, or tokens_per_second "
         "and expert_bytes of your own"),
        ({"start": OTHER}, "start is on Cluster(num_gpus=4, num_nodes=1, slots_per_gpu=4), and "),
        ({"start": Placement.trivial(2, 8, CLUSTER)}, "start has (layers, experts) = (2, 8), and "
         "(3, 8) are wanted"),
        ({"start": 3}, "start=3 is not a Placement"),
        ({"num_groups": 3}, "num_groups=3 does not divide num_experts=8; use 2 or 4"),
        ({"recorded_share": 0}, "recorded_share=0.0 is not finite and above 0"),
        ({"recorded_share": 2}, "recorded_share=2.0 is more than 1; use 1 or less"),
        ({"oracle": "best"}, "solver='best' is unknown; use one of: auto, "),
        ({"oracle": 3}, "oracle=3 is not an oracle; use 'fast', a solver's name, a function or "
                        "None"),
        ({"policy": Recorder([OTHER])}, "what the policy 'recorder' returned is on Cluster("),
        ({"policy": Recorder([LOADS[0]])}, "what the policy 'recorder' returned=array("),
        ({"policy": Recorder(memory=0)}, "memory of the policy 'recorder'=0 is less than 1"),
        ({"trace": LOADS * np.nan}, "window 0: load[0, 0]=nan is not a finite number >= 0"),
        ({"trace": -LOADS}, "window 0: load[0, "),
        ({"trace": np.where(np.arange(12)[:, None, None] == 5, 0, LOADS)}, "window 5 is all zero"),
        ({"trace": LOADS[0]}, "load has 2 dimensions"),
        ({"trace": [LOADS[0], LOADS[0, :, :4]]}, "load: the number of experts changes: window 1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(how, message) -> None:
    refused(message, **how)


# --- real traces --------------------------------------------------------------------------------


def test_a_real_trace_as_published(shared) -> None:
    trace = read_trace(shared / "data" / "gpt-oss-20b.npz")
    result = replay(trace, Cluster(8, num_slots=40), "deepseek", merge=10, delay=False)
    # A full reshuffle on the last window: 0.889 on the next one, about 760 of 960 slots moved.
    assert result.balancedness.mean() == pytest.approx(0.889, abs=0.001)
    assert result.moves.sum(axis=1).mean() == pytest.approx(760, abs=10)
    assert result.oracle.mean() > 0.999
    memory = replay(
        Trace(np.stack(list(trace))), Cluster(8, num_slots=40), "deepseek", merge=10, delay=False
    )
    assert np.array_equal(memory.balancedness, result.balancedness)


def test_threads_change_nothing() -> None:
    program = """
import hashlib
from evenload import Cluster
from evenload.cost import CostModel
from evenload.replay import replay
from evenload.synth import synthetic_trace
cost = CostModel.preset('h100-ib', 'deepseek-v3')
digest = hashlib.sha256()
for policy in ("vllm", "every-2:joint", "evenload"):
    result = replay(synthetic_trace(5), Cluster(32, 4, num_slots=288), policy,
                    cost=cost, recorded_share=1e-3)
    for name in ("balancedness", "oracle", "saved_seconds", "transfer_seconds", "placements"):
        digest.update(getattr(result, name).tobytes())
print(digest.hexdigest())
"""
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"EVENLOAD_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "5")
    }
    assert len(digests) == 1


def test_moves_may_have_to_gain_what_they_take() -> None:
    """The dearer a move is in seconds, the fewer there are once the first placement was left."""
    load = synthetic_trace(12, num_layers=2, num_experts=16, seed=3)
    cluster = Cluster(4, slots_per_gpu=6)

    def moves(expert_bytes: float) -> list[int]:
        cost = CostModel(1e6, expert_bytes, 450e9, 50e9)
        result = replay(load, cluster, "evenload", cost=cost, delay=False)
        return [int(moved) for moved in result.moves.sum(axis=1)]

    cheap, dear = moves(1e3), moves(1e12)
    assert cheap[0] == dear[0] > 0
    assert sum(cheap[1:]) > sum(dear[1:]) == 0


# --- dispatch -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["live", "nearest", "static"])
def test_windows_are_judged_by_the_dispatch(dispatch):
    how = {"dispatch": dispatch, "delay": False}
    for policy in ("once", "every-3:joint", "evenload"):
        result = replay(LOADS, CLUSTER, policy, **how)
        assert result.dispatch == result.settings["dispatch"] == result.figures()["dispatch"]
        for w, number in enumerate(result.windows):
            served = Placement(result.placements[result.served[w]], CLUSTER, LOADS.shape[2])
            reached = served.balancedness(LOADS[number], dispatch=dispatch)
            np.testing.assert_allclose(result.balancedness[w], reached, rtol=1e-12)
        assert (result.oracle >= result.balancedness).all()
        assert f"dispatch {dispatch}" in result.summary()


def test_policies_plan_for_the_dispatch_if_they_can():
    asked = []

    class Told:
        name, memory = "told", 1

        def decide(self, past):
            asked.append(past.dispatch)

    replay(LOADS, CLUSTER, Told(), dispatch="live")
    assert set(asked) == {"live"}
    trivial = Placement.trivial(*LOADS.shape[1:], CLUSTER)
    past = Past(LOADS[:2], 2, 0, trivial, CLUSTER, 1, LARGE, dispatch="live")
    for name, made_for in (("once:joint", "even"), ("once", "live"), ("evenload", "live"),
                           ("evenload,dispatch=even", "even")):  # fmt: skip
        planned = []

        def spy(*args, **how):
            planned.append(how.get("dispatch", "even"))  # noqa: B023
            return solve(*args, **how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("evenload.replay.policies.solve", spy)
            get_policy(name).decide(past)
        assert planned == [made_for], name


def test_an_unknown_dispatch():
    with pytest.raises(ValueError, match=r"^dispatch='lp' is unknown; use one of: even, live"):
        replay(LOADS, CLUSTER, "never", dispatch="lp")
