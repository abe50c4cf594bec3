"""Groups that are preferred to stay on their home node: what `topology="prefer"` promises."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evenload import Cluster, solve
from evenload.problem import Problem
from evenload.solvers.groups import home_nodes
from evenload.synth import lognormal_load

EFFORTS = st.sampled_from([0, 6, 40])
PRICES = st.sampled_from([0.0, 0.5, 1.0, 1000.0])


def rooms(cluster, size):
    """Whole groups of `size` experts that each node has living slots for."""
    room = [0] * cluster.num_nodes
    for g in cluster.living_gpus:
        room[g // cluster.gpus_per_node] += cluster.slots[g]
    return [slots // size for slots in room]


@st.composite
def cases(draw):
    """Nodes that differ in every way, a dead one among them, and groups they have room for."""
    nodes = draw(st.integers(1, 4))
    per_node = draw(st.integers(1, 3))
    G = nodes * per_node
    kind = draw(st.sampled_from(["equal", "slots", "speed", "dead GPUs", "dead node"]))
    slots = draw(st.lists(st.integers(1, 5), min_size=G, max_size=G))
    alive = [True] * G
    if kind == "dead node" and nodes > 1:
        alive[:per_node] = [False] * per_node
    elif kind == "dead GPUs":
        alive = draw(st.lists(st.booleans(), min_size=G, max_size=G))
        alive[draw(st.integers(0, G - 1))] = True
    cluster = Cluster(
        G,
        nodes,
        slots=slots if kind == "slots" else [slots[0]] * G,
        speed=([1.0, 2.0, 4.0, 1.0] * 3)[:G] if kind == "speed" else None,
        alive=alive,
    )
    size = draw(st.integers(1, max(max(rooms(cluster, 1)) // 2, 1)))
    groups = draw(st.integers(1, sum(rooms(cluster, size))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    load = np.rint(1000.0 * rng.lognormal(0.0, 1.0, (2, groups * size)))
    load[1, rng.random(groups * size) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0.0
    return load, cluster, groups


def prefer(load, cluster, groups, price=1.0, effort=6):
    return solve(
        load,
        cluster,
        num_groups=groups,
        topology="prefer",
        cross_node_price=price,
        effort=effort,
    )


def build(load, cluster, groups):
    return Problem.build(load, cluster, groups, "prefer")


# --- homes ------------------------------------------------------------------------------------


def homes_by_hand(load, cluster, groups):
    """Node of each group of a layer, longest first onto the node that would be done first."""
    size = len(load) // groups
    weight = [sum(Fraction(float(x)) for x in part) for part in load.reshape(groups, size)]
    room = rooms(cluster, size)
    speed = [Fraction(0)] * cluster.num_nodes
    for g in cluster.living_gpus:
        speed[g // cluster.gpus_per_node] += Fraction(float(cluster.capacity[g]))
    placed = [Fraction(0)] * cluster.num_nodes
    home = [-1] * groups
    for q in sorted(range(groups), key=lambda q: (-weight[q], q)):
        node = min(
            (n for n in range(cluster.num_nodes) if room[n]),
            key=lambda n: ((placed[n] + weight[q]) / speed[n], n),
        )
        home[q] = node
        placed[node] += weight[q]
        room[node] -= 1
    return home


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_homes_are_chosen_longest_first(case):
    """Whole numbers of tokens, and nodes whose speeds are powers of two, leave nothing to round."""
    load, cluster, groups = case
    speed = [sum(cluster.capacity[g] for g in gpus) for gpus in cluster.living_by_node]
    exact = all(s == 2.0 ** np.rint(np.log2(s)) for s in speed)
    home = home_nodes(build(load, cluster, groups)).reshape(len(load), groups, -1)
    assert (home == home[:, :, :1]).all()
    room = rooms(cluster, home.shape[2])
    for layer, row in zip(home[:, :, 0].tolist(), load, strict=True):
        assert all(layer.count(n) <= room[n] for n in range(cluster.num_nodes))
        if exact:
            assert layer == homes_by_hand(row, cluster, groups)


def test_homes_by_hand():
    cluster = Cluster(2, 2, slots_per_gpu=4)
    home = home_nodes(build([[1.0, 1.0, 9.0, 0.0, 4.0, 4.0]], cluster, 3))
    assert home.tolist() == [[1, 1, 0, 0, 1, 1]]


def test_a_node_takes_no_more_groups_than_it_has_room_for():
    cluster = Cluster(2, 2, slots=[2, 6])
    home = home_nodes(build([[1.0] * 6], cluster, 3))
    assert home.tolist() == [[0, 0, 1, 1, 1, 1]]


def test_groups_that_do_not_fit_whole_are_told():
    message = (
        "topology='prefer': the nodes have room for 2 whole groups of 3 experts, and num_groups=3; "
        "use more slots, or topology 'ignore'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prefer(np.ones((1, 9)), Cluster(2, 2, slots_per_gpu=5), 3)


# --- plans ------------------------------------------------------------------------------------


# Nothing to do, and the first node is gone.
IDLE = (
    np.array([[1134.0, 876], [0, 0]]),
    Cluster(3, 3, slots_per_gpu=1, alive=[False, True, True]),
    2,
)


@settings(max_examples=200, deadline=None)
@given(case=cases(), price=PRICES, effort=EFFORTS)
@example(case=IDLE, price=1.0, effort=0)
def test_any_plan(case, price, effort):
    load, cluster, groups = case
    before = load.copy()
    plan = prefer(load, cluster, groups, price, effort)
    np.testing.assert_array_equal(load, before)
    expert, E = plan.placement.physical_to_logical, load.shape[1]
    np.testing.assert_array_equal(expert == -1, np.broadcast_to(~cluster.living_slot, expert.shape))
    forced = sum(max(cluster.slots[g] - E, 0) for g in cluster.living_gpus)
    assert plan.duplicates.tolist() == [forced] * len(load)
    assert (plan.balancedness <= plan.bound * (1 + 1e-9)).all()
    home = home_nodes(build(load, cluster, groups))
    node = cluster.gpu_of_slot // cluster.gpus_per_node
    for row, at in zip(expert, home, strict=True):
        for e in range(E):
            assert at[e] in node[row == e]


@settings(max_examples=100, deadline=None)
@given(case=cases(), price=PRICES, factor=st.sampled_from([2.0**-900, 2.0**900, 3.0, 1000.0]))
def test_the_unit_of_the_load_does_not_matter(case, price, factor):
    load, cluster, groups = case
    again = prefer(load * factor, cluster, groups, price)
    assert again.placement == prefer(load, cluster, groups, price).placement


@settings(max_examples=100, deadline=None)
@given(case=cases(), price=PRICES)
def test_layers_are_planned_one_by_one_and_the_same_again(case, price):
    load, cluster, groups = case
    plan = prefer(load, cluster, groups, price).placement.physical_to_logical
    apart = [
        prefer(row, cluster, groups, price).placement.physical_to_logical for row in [*load, *load]
    ]
    np.testing.assert_array_equal(np.concatenate([plan, plan]), np.concatenate(apart))


@settings(max_examples=100, deadline=None)
@given(case=cases(), price=PRICES, seed=st.integers(0, 2**32))
def test_the_names_of_experts_and_groups_do_not_matter(case, price, seed):
    """Groups change places, and so do the experts of each; distinct loads leave no tie."""
    load, cluster, groups = case
    rng = np.random.default_rng(seed)
    load = rng.integers(1, 2**40, load.shape).astype(float)
    members = rng.permuted(np.arange(load.shape[1]).reshape(groups, -1), axis=1)
    old = rng.permutation(members, axis=0).ravel()
    before, after = (prefer(x, cluster, groups, price) for x in (load, load[:, old]))
    np.testing.assert_allclose(after.balancedness, before.balancedness, rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_more_trials_never_cost_more(case):
    """The levels draw the same numbers, so a search that goes on only goes on."""
    load, cluster, groups = case
    if groups == 1 or cluster.num_nodes == 1:
        return
    price, costs = 2.0, []
    for effort in (0, "fast", "standard"):
        plan = prefer(load, cluster, groups, price, effort)
        costs.append(1.0 / plan.balancedness + price * away(plan, groups))
    # Speeds are rounded to 14 bits.
    assert (np.diff(costs, axis=0) <= 1e-3).all()


def away(plan, groups):
    """Part of each layer's load computed away from the home that the search gave it.

    `away_share` calls the node home that computes most of a group.
    """
    load, cluster = plan.problem.load, plan.problem.cluster
    home = home_nodes(build(load, cluster, groups))
    node = cluster.gpu_of_slot // cluster.gpus_per_node
    result = []
    for row, at, tokens in zip(plan.placement.physical_to_logical, home, load, strict=True):
        count = np.bincount(row[row >= 0], minlength=tokens.size)
        elsewhere = sum(
            tokens[e] / count[e] for e, n in zip(row, node, strict=True) if e >= 0 and at[e] != n
        )
        result.append(elsewhere / tokens.sum() if tokens.any() else 0.0)
    return np.array(result)


def test_a_prohibitive_price_keeps_all_tokens_at_home_where_that_can_be():
    """Every node has slots for its groups alone, so nothing has to leave."""
    load = lognormal_load(4, 64, 1.0, seed=4)
    plan = prefer(load, Cluster(8, 4, slots_per_gpu=8), 8, price=1e6, effort="standard")
    assert (plan.away_share == 0.0).all()
    free = prefer(load, Cluster(8, 4, slots_per_gpu=8), 8, price=0.0, effort="standard")
    assert (free.balancedness >= plan.balancedness * (1 - 1e-9)).all()


@pytest.mark.parametrize(
    "cluster",
    [Cluster(4, slots_per_gpu=5), Cluster(4, 2, slots_per_gpu=9, alive=[True, True, False, False])],
)
def test_on_one_living_node_nothing_can_leave(cluster):
    load = lognormal_load(3, 16, 1.0, seed=4)
    plan = prefer(load, cluster, 4, price=100.0, effort="standard")
    assert (away(plan, 4) == 0.0).all()
    ignored = solve(load, cluster, num_groups=4, topology="ignore")
    assert plan.balancedness.mean() >= ignored.balancedness.mean() - 0.05


def test_the_plan_says_what_it_weighs():
    plan = prefer(np.ones((1, 8)), Cluster(4, 2, slots_per_gpu=3), 2)
    assert plan.solver == "joint"
    assert plan.reason == "it weighs balance against tokens that leave their group's node"
