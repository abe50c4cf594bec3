"""Moves, who sends them, in which rounds, and how long that takes."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from costs import LARGE
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, CostModel, Placement, solve
from evenload.cost import MODELS, hardware_names, model_names, model_of
from evenload.moves import Moves, keep_slots
from evenload.synth import synthetic_load

SLOW = settings(deadline=None, max_examples=60)


@st.composite
def placements(draw, dead=False):
    """Two placements of one model on one cluster."""
    per_node, nodes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    gpus = per_node * nodes
    slots = [draw(st.integers(1, 4)) for _ in range(gpus)]
    alive = [True] * gpus
    if dead and gpus > 1:
        alive[draw(st.integers(0, gpus - 1))] = False
    cluster = Cluster(gpus, nodes, slots=slots, alive=alive)
    experts = draw(st.integers(1, cluster.num_living_slots))
    layers = draw(st.integers(1, 3))

    def one():
        rows = []
        for _ in range(layers):
            row = list(range(experts))
            more = cluster.num_living_slots - experts
            row += draw(st.lists(st.integers(0, experts - 1), min_size=more, max_size=more))
            full = np.full(cluster.num_slots, -1)
            full[cluster.living_slot] = draw(st.permutations(row))
            rows.append(full)
        return Placement(rows, cluster, experts)

    return one(), one()


def held(placement, layer):
    """Experts on each GPU, as sets."""
    ends = placement.cluster.first_slot
    row = placement.physical_to_logical[layer]
    return [set(row[a:b].tolist()) - {-1} for a, b in itertools.pairwise(ends)]


def wanted_moves(before, after):
    return {
        (layer, expert, gpu)
        for layer in range(after.num_layers)
        for gpu, (old, new) in enumerate(zip(held(before, layer), held(after, layer), strict=True))
        for expert in new - old
    }


@SLOW
@given(placements(dead=True))
def test_every_move_is_listed_once_with_the_nearest_source(pair) -> None:
    before, after = pair
    moves = Moves.between(before, after)
    listed = list(zip(moves.layer, moves.expert, moves.target, strict=True))
    assert len(listed) == len(set(listed)) == len(moves)
    assert set(listed) == wanted_moves(before, after)
    assert np.array_equal(np.diff(moves.first_of_layer), after.moves_from(before))
    node = np.arange(after.cluster.num_gpus) // after.cluster.gpus_per_node
    for layer, expert, source, target, slot in zip(
        moves.layer, moves.expert, moves.source, moves.target, moves.slot, strict=True
    ):
        holders = [g for g, experts in enumerate(held(before, layer)) if expert in experts]
        assert source in holders
        assert node[source] == node[target] or all(node[g] != node[target] for g in holders)
        assert after.physical_to_logical[layer, slot] == expert
        assert after.cluster.gpu_of_slot[slot] == target


@SLOW
@given(placements())
def test_no_gpu_talks_to_two_in_a_round(pair) -> None:
    schedule = LARGE.schedule(*pair)
    moves = schedule.moves
    peers, links = {}, set()
    for layer, number, s, t in zip(
        moves.layer, schedule.round_number, moves.source, moves.target, strict=True
    ):
        assert (layer, number, s, t) not in links  # one expert at a time on a link
        links.add((layer, number, s, t))
        peers.setdefault((layer, number, s), set()).add(t)
        peers.setdefault((layer, number, t), set()).add(s)
    assert all(len(others) == 1 for others in peers.values())
    # No round is empty, and their number is at most twice what the busiest GPU needs.
    for layer in range(moves.after.num_layers):
        here = moves.layer == layer
        used = np.unique(schedule.round_number[here])
        assert len(used) == schedule.num_rounds[layer].sum()
        assert np.array_equal(used, np.arange(len(used)))
        both = np.concatenate([moves.source[here], moves.target[here]])
        degree = np.bincount(both, minlength=1).max() if here.any() else 0
        assert (degree + 1) // 2 <= len(used) <= max(2 * degree - 1, 0)


@SLOW
@given(placements())
def test_stopping_after_any_layer_leaves_every_expert_alive(pair) -> None:
    before, after = pair
    moves = Moves.between(before, after)
    for layers in range(after.num_layers + 1):
        reached = moves.reached(layers)  # the constructor refuses an expert without a slot
        assert int(reached.moves_from(before).sum()) == moves.first_of_layer[layers]
    assert reached == after
    # Inside a layer what is received lies beside what serves, so each source still has it.
    for layer, expert, source in zip(moves.layer, moves.expert, moves.source, strict=True):
        assert expert in held(moves.reached(layer), layer)[source]


def test_an_expert_that_no_living_gpu_has_comes_from_storage() -> None:
    before = Placement([[0, 1, 2]], Cluster(3, slots_per_gpu=1), 3)
    two = Cluster(3, slots=[2, 1, 1], alive=[True, True, False])
    after = Placement([[0, 2, 1, -1]], two, 3)
    moves = Moves.between(before, after)
    assert moves.source.tolist() == [-1]
    assert moves.crosses_nodes.tolist() == [True]
    assert LARGE.schedule(before, after).num_rounds.tolist() == [[0, 1]]


def test_seconds_by_hand() -> None:
    cluster = Cluster(4, 2, slots_per_gpu=2)
    before = Placement([[0, 1, 2, 3, 4, 5, 6, 7]] * 2, cluster, 8)
    # Layer 0: GPUs 0 and 1 exchange an expert (one round, both directions), and so do 2 and 3.
    # Layer 1: GPUs 1 and 2 exchange one across nodes.
    after = Placement([[0, 2, 1, 3, 4, 6, 5, 7], [0, 1, 2, 4, 3, 5, 6, 7]], cluster, 8)
    cost = replace(
        LARGE,
        expert_bytes=100.0,
        bandwidth_in_node=50.0,
        bandwidth_between_nodes=10.0,
        latency=0.5,
        overlap=0.25,
    )
    schedule = cost.schedule(before, after)
    assert schedule.num_rounds.tolist() == [[1, 0], [0, 1]]
    assert schedule.layer_seconds.tolist() == [2.5, 10.5]
    assert schedule.finished.tolist() == [2.5, 13.0]
    assert schedule.seconds == 13.0
    assert cost.move_seconds(schedule) == 0.75 * 13.0
    assert schedule.num_bytes == 600.0
    assert schedule.moves.crosses_nodes.tolist() == [False] * 4 + [True] * 2
    assert cost.schedule(before, before).seconds == 0.0


def test_staying_in_the_node_is_cheaper() -> None:
    load = synthetic_load(4, 32)
    start = Placement.trivial(4, 32, Cluster(8, slots_per_gpu=5))
    far = Placement(start.physical_to_logical, Cluster(8, 4, slots_per_gpu=5), 32)
    plans = [solve(load, p.cluster, solver="greedy").placement for p in (start, far)]
    near_seconds, far_seconds = (
        LARGE.schedule(a, b).seconds for a, b in zip((start, far), plans, strict=True)
    )
    assert near_seconds < far_seconds


def test_straggler_seconds() -> None:
    cost = replace(LARGE, tokens_per_second=100.0)
    assert cost.straggler_seconds([50, 300]) == 3.0
    assert cost.straggler_seconds([[50, 300], [50, 40]], [1.0, 0.5]).tolist() == [6.0, 0.8]
    assert cost.straggler_seconds([50, 300], [1.0, 0.0]) == 0.5


@SLOW
@given(placements(dead=True))
def test_kept_slots(pair) -> None:
    current, plan = pair
    kept = keep_slots(plan, current)
    assert kept.moves_from(plan).sum() == plan.moves_from(kept).sum() == 0
    assert np.array_equal(kept.replica_count, plan.replica_count)
    ends = plan.cluster.first_slot
    for layer in range(plan.num_layers):
        for a, b in itertools.pairwise(ends):
            old, new = (p.physical_to_logical[layer, a:b].tolist() for p in (current, kept))
            for expert in set(old) & set(new) - {-1}:
                stays = sum(o == n == expert for o, n in zip(old, new, strict=True))
                assert stays == min(old.count(expert), new.count(expert))


def complains(message, call):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


NUMBERS = ("tokens_per_second", "expert_bytes", "bandwidth_in_node", "bandwidth_between_nodes",
           "latency")  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_costs_are_above_zero(name, value) -> None:
    complains(
        f"{name}={value} is not finite and above 0; use e.g. 1.0",
        lambda: replace(LARGE, **{name: value}),
    )


def test_other_bad_costs() -> None:
    complains("overlap=1.5 is more than 1; use 1 or less", lambda: replace(LARGE, overlap=1.5))
    complains(
        "overlap=-0.5 is not finite and at least 0; use e.g. 0 or 1.0",
        lambda: replace(LARGE, overlap=-0.5),
    )
    complains(
        "latency='x' is not a number; use a finite number above 0",
        lambda: replace(LARGE, latency="x"),
    )
    with pytest.raises(ValueError, match=r"^hardware='h900' is unknown; use one of: h100-ib, "):
        CostModel.preset("h900", "kimi-k2")
    with pytest.raises(ValueError, match=r"^model='gpt-5' is unknown; use one of: deepseek-v3, "):
        CostModel.preset("h100-ib", "gpt-5")
    with pytest.raises(ValueError, match=r"^speed is not a number of a CostModel; use one"):
        CostModel.preset("h100-ib", "kimi-k2", speed=3.0)


def test_presets() -> None:
    assert CostModel.preset("h100-ib", "deepseek-v3").expert_bytes == 3 * 7168 * 2048
    assert CostModel.preset("h100-ib", "kimi-k2", overlap=1.0).overlap == 1.0
    for hardware in hardware_names():
        for model in model_names():
            assert CostModel.preset(hardware, model).tokens_per_second > 1e5


def test_experts_of_a_preset_are_those_of_a_load() -> None:
    for name, experts in MODELS.items():
        shape = experts.num_layers, experts.num_experts
        cost = CostModel.preset("h100-ib", name)
        assert MODELS[model_of(*shape)] == experts
        assert (cost.model, cost.hardware) == (name, "h100-ib")
        cost.check_shape(*shape)
        cost.check_shape(1, experts.num_experts)  # layers may be left out, experts not
        for other in ((shape[0] + 1, shape[1]), (shape[0], shape[1] + 1)):
            with pytest.raises(ValueError, match=f"^model='{re.escape(name)}' has {shape[0]} lay"):
                cost.check_shape(*other)
    with pytest.raises(
        ValueError, match=r"^no model of the presets has 24 layers x 33 experts; use "
    ):
        model_of(24, 33)
    own = CostModel.preset("h100-ib", "kimi-k2", tokens_per_second=1e6, expert_bytes=1e7)
    assert own.model == ""
    own.check_shape(2, 3)


# Parameters of the whole model in billions, as its name or its card says.
TOTAL = {
    "deepseek-v3": 671, "deepseek-r1": 671, "deepseek-v2-lite": 15.7, "qwen3-235b-a22b": 235,
    "qwen3-30b-a3b": 30.5, "gpt-oss-20b": 20.9, "gpt-oss-120b": 116.8, "kimi-k2": 1026,
    "olmoe-1b-7b": 6.9, "glm-4.5": 355, "mixtral-8x7b": 46.7, "mixtral-8x22b": 141,
}  # fmt: skip


def test_experts_make_up_most_of_their_model() -> None:
    assert set(TOTAL) == set(MODELS)
    for name, experts in MODELS.items():
        share = experts.weights * experts.num_layers * experts.num_experts / 1e9 / TOTAL[name]
        assert 0.9 < share < 1.0, name


def test_a_move_costs_the_time_that_serving_stands_still() -> None:
    """Two of four GPUs send at once; 800 tokens per layer keep each GPU busy for 0.2 s."""
    load = np.full((3, 4), 200.0)
    cost = CostModel(
        tokens_per_second=1000.0, expert_bytes=1e6, bandwidth_in_node=1e9,
        bandwidth_between_nodes=1e8, latency=0.001, overlap=0.5,
    )  # fmt: skip
    one, two = Cluster(4, slots_per_gpu=2), Cluster(4, 2, slots_per_gpu=2)
    assert cost.move_cost(load, one) == pytest.approx(0.5 * 0.002 / 2 / 0.2)
    assert cost.move_cost(load, two) == pytest.approx(0.5 * 0.011 / 2 / 0.2)
    assert cost.move_cost(load, one, windows=4) == pytest.approx(0.5 * 0.002 / 2 / 0.8)
    assert cost.move_cost(load, one, recorded_share=0.1) == pytest.approx(0.5 * 0.002 / 2 / 2.0)
    gone = Cluster(4, slots_per_gpu=2, alive=[True, True, False, False])
    assert cost.move_cost(load, gone) == pytest.approx(0.5 * 0.002 / 1 / 0.4)
    hidden = replace(LARGE, tokens_per_second=1000.0, overlap=1.0)
    assert hidden.move_cost(load, one) == 0.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"load": np.zeros((2, 4))}, "load has no tokens"),
        ({"windows": 0}, "windows=0"),
        ({"recorded_share": 2.0}, "recorded_share=2.0 is more than 1; use 1 or less"),
    ],
)
def test_a_move_cost_of_nothing_is_refused(changed, message) -> None:
    given = {"load": np.ones((2, 4)), "cluster": Cluster(2, slots_per_gpu=2)} | changed
    with pytest.raises(ValueError, match=message):
        LARGE.move_cost(**given)
