"""Placements that survive: every GPU and node killed, the optimum by brute force, and repairs."""

import itertools

import numpy as np
import pytest
from every_placement import best_balancedness, every_placement, small_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement, solve
from evenload.problem import Problem
from evenload.sizing import advise, clusters_to_try
from evenload.survive import repairs

seeds = st.integers(0, 2**32)
LOAD = np.array([[9, 5, 4, 3, 2, 1.0]])


def domains(cluster, what):
    """The living GPUs, or those of each node with any, by number."""
    if what == "gpu":
        return {g: (g,) for g in cluster.living_gpus}
    return {gpus[0] // cluster.gpus_per_node: gpus for gpus in cluster.living_by_node}


def lost(placement, gpus):
    """Experts of each layer that only these GPUs hold, from the slots: [L, E]."""
    cluster = placement.cluster
    left = cluster.living_slot & ~np.isin(cluster.gpu_of_slot, gpus)
    rows = placement.physical_to_logical[:, left]
    return np.stack([~np.isin(np.arange(placement.num_experts), row) for row in rows])


def check_deaths(placement, what, count):
    """Kill any so many, and compare what is lost with what the placement says."""
    kills = itertools.combinations(domains(placement.cluster, what).values(), count)
    killed = [sum(gpus, ()) for gpus in kills]
    for gpus in killed:
        np.testing.assert_array_equal(placement.lost_with(gpus), lost(placement, gpus))
    assert placement.survives(what, count) == (not any(lost(placement, g).any() for g in killed))


def random_problem(seed):
    """Unequal slots and speeds, dead GPUs, up to three nodes: cluster, load, what, count, rng."""
    rng = np.random.default_rng(seed)
    nodes = int(rng.choice([1, 2, 2, 3]))
    G = nodes * int(rng.integers(1, 5))
    what, count = str(rng.choice(["gpu", "node"])), int(rng.choice([1, 1, 2]))
    E = int(rng.integers(1, 13))
    least = max(1, -(-E * (count + 1) // G) - 1)
    how = {"slots": rng.integers(least, least + 4, G).tolist()}
    if rng.random() < 0.5:
        how = {"slots_per_gpu": int(rng.integers(least, least + 3))}
    if rng.random() < 0.3:
        how["speed"] = rng.integers(1, 4, G).tolist()
    alive = rng.random(G) < (0.8 if rng.random() < 0.3 else 1.0)
    alive[rng.integers(G)] = True
    cluster = Cluster(G, nodes, alive=alive.tolist(), **how)
    return cluster, rng.lognormal(0, 1, (2, E)), what, count, rng


def room(cluster, what, num_experts):
    slots = [sum(cluster.slots[g] for g in gpus) for gpus in domains(cluster, what).values()]
    return sum(min(n, num_experts) for n in slots)


@settings(max_examples=250, deadline=None)
@given(seed=seeds)
def test_nothing_is_lost_whatever_dies_and_a_plan_is_found_wherever_there_is_one(seed):
    cluster, load, what, count, _ = random_problem(seed)
    E = load.shape[1]
    if cluster.num_living_slots < E or room(cluster, what, E) < (count + 1) * E:
        with pytest.raises(ValueError, match=r"num_slots|survive"):
            solve(load, cluster, survive=what, survive_count=count)
        return
    plan = solve(load, cluster, survive=what, survive_count=count)
    check_deaths(plan.placement, what, count)
    assert plan.placement.survives(what, count)
    assert (plan.balancedness <= plan.bound * (1 + 1e-12)).all()
    assert f"survives        any {count} {what}" in plan.summary()


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_from_what_does_not_survive(seed):
    """Moves that bring copies apart are made whatever is allowed, and told of."""
    cluster, load, what, count, rng = random_problem(seed)
    E = load.shape[1]
    if cluster.num_living_slots < E or room(cluster, what, E) < (count + 1) * E:
        return
    before = Cluster(cluster.num_gpus, cluster.num_nodes, slots=cluster.slots)
    current = solve(rng.lognormal(0, 1, (2, E)), before).placement
    check_deaths(current, what, count)
    how = {"survive": what, "survive_count": count, "current": current, "effort": 200}
    for limit in ({}, {"max_moves": 0}, {"max_total_moves": 0}):
        plan = solve(load, cluster, **how, **limit)
        assert plan.placement.survives(what, count)
        if limit and plan.moves.sum():
            told = f"{plan.moves.sum()} moves could not be avoided: every expert needs copies on"
            assert any(note.startswith(told) for note in plan.notes)
    again = solve(load, cluster, **{**how, "current": plan.placement}, max_moves=0)
    assert again.placement == plan.placement


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_groups_stay_on_their_node_with_copies_on_its_gpus(seed):
    cluster, load, _, count, rng = random_problem(seed)
    E = load.shape[1]
    groups = int(rng.choice([n for n in range(1, E + 1) if E % n == 0]))
    try:
        problem = Problem.build(load, cluster, groups, survive="gpu", survive_count=count)
    except ValueError:
        return
    how = {"survive": "gpu", "survive_count": count, "num_groups": groups}
    plan = solve(load, cluster, **how)
    assert plan.placement.survives("gpu", count)
    later = solve(load[::-1], cluster, **how, current=plan.placement, effort=200)
    assert later.placement.survives("gpu", count)
    if problem.hierarchical:
        node = cluster.node_of_gpu[cluster.gpu_of_slot]
        for row in later.placement.physical_to_logical:
            for q in range(groups):
                assert len(set(node[row // (E // groups) == q])) == 1


def best_of_all(load, cluster, what, count):
    """Best balancedness of each layer, and of those with the fewest duplicates; None for none."""
    every = every_placement(cluster, load.shape[1])
    numbers = {g: n for n, g in enumerate(cluster.living_gpus)}
    held = np.stack(
        [
            (every[:, [numbers[g] for g in gpus]] > 0).any(axis=1)
            for gpus in domains(cluster, what).values()
        ],
        axis=1,
    )
    every = every[(held.sum(axis=1) > count).all(axis=1)]
    if len(every) == 0:
        return None
    twice = np.maximum(every - 1, 0).sum(axis=(1, 2))
    apart = every[twice == twice.min()]
    return (best_balancedness(load, cluster, part) for part in (every, apart))


def test_small_problems_against_every_placement():
    """A plan is refused only where there is none, and is the best; none beats the bound."""
    found = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        (slots, speed, alive, nodes), E, _ = small_cluster(rng, most_ways=10_000)
        cluster = Cluster(len(slots), nodes, slots=slots, speed=speed, alive=alive)
        what, count = str(rng.choice(["gpu", "node"])), int(rng.choice([1, 1, 2]))
        load = np.stack([rng.lognormal(0, 1, E), np.floor(rng.lognormal(1, 1, E)) + 1.0])
        best = best_of_all(load, cluster, what, count)
        if best is None:
            with pytest.raises(ValueError, match="survive"):
                solve(load, cluster, survive=what, survive_count=count)
            continue
        found += 1
        plan = solve(load, cluster, survive=what, survive_count=count)
        any_, apart = best
        assert (any_ <= plan.bound * (1 + 1e-12)).all()
        np.testing.assert_allclose(plan.balancedness, apart, rtol=1e-4)
    assert found > 30


def test_the_bound_knows_that_no_expert_has_all_the_spare_slots():
    load, cluster = np.array([[90, 1, 1, 1, 1, 1.0]]), Cluster(6, slots_per_gpu=2)
    free, bound = solve(load, cluster).bound[0], solve(load, cluster, survive="gpu").bound[0]
    assert free > 0.98
    assert 95 / 6 / 45.5 <= bound <= 95 / 6 / 45 * (1 + 1e-8)  # 1 / 2 is beside the hot one


@pytest.mark.parametrize(("gpus", "nodes"), [(16, 2), (8, 4)])
@pytest.mark.parametrize("what", ["gpu", "node"])
def test_two_slots_on_each_gpu(gpus, nodes, what):
    """Where only the counts are searched, none falls below what survives."""
    load = np.random.default_rng(gpus).lognormal(0, 1, (3, gpus - 2))
    plan = solve(load, Cluster(gpus, nodes, 2), survive=what)
    assert plan.placement.survives(what)
    assert plan.duplicates.sum() == 0


def test_no_survival_is_as_before_and_one_slot_a_gpu_works():
    cluster = Cluster(12, 2, 1)
    for what in ("gpu", "node"):
        plan = solve(LOAD, cluster, survive=what)
        assert plan.placement.replica_count.tolist() == [[2] * 6]
        assert plan.placement.survives(what)
    assert solve(LOAD, cluster).problem.survive is None


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "how", "message"),
    [
        (Cluster(4, 2, 2), {"survive": "gpu"}, "num_slots=8 .* use 12 or more"),
        (Cluster(4, 2, num_slots=9), {"survive": "node"}, "num_slots=9 .* use 12 or more"),
        (Cluster(4, slots_per_gpu=4), {"survive": "gpu", "survive_count": 2}, "use 20 or more"),
        (Cluster(4, slots=[1, 1, 2, 9]), {"survive": "gpu"}, "use 2 or more slots more, on GPUs"),
        (Cluster(4, slots_per_gpu=6), {"survive": "node"}, "on 2 nodes, and 1 is alive"),
        (Cluster(2, slots_per_gpu=6), {"survive": "gpu", "survive_count": 2}, "survive_count=1$"),
        (Cluster(4, 2, 6), {"survive": "rack"}, "use one of: gpu, node"),
        (Cluster(4, 2, 6), {"survive": "gpu", "survive_count": 0}, "survive_count=0"),
        (Cluster(4, 2, 6), {"survive_count": 2}, "survive_count=2 says how many"),
        (
            Cluster(4, 2, 6),
            {"survive": "node", "num_groups": 2, "topology": "strict"},
            "survive='gpu', or topology 'ignore'$",
        ),
        (
            Cluster(4, 2, slots=[1, 2, 6, 6]),
            {"survive": "gpu", "num_groups": 2, "topology": "strict"},
            "takes 6 slots of a node .* use 3 or more",
        ),
        (Cluster(4, 2, 6), {"survive": "gpu", "num_groups": 2, "topology": "prefer"}, "'strict'"),
        *(
            (Cluster(4, 2, 6), {"survive": "gpu", "solver": name}, "use solver 'auto', 'joint'")
            for name in ("greedy", "iterated-greedy", "local-search")
        ),
    ],
)
def test_what_is_refused(cluster, how, message):
    with pytest.raises(ValueError, match=message):
        solve(LOAD, cluster, **how)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_the_number_of_slots_named_is_the_fewest_that_suffices(seed):
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(1, 4))
    G, E = nodes * int(rng.integers(1, 4)), int(rng.integers(1, 10))
    slots, what, count = int(rng.integers(max(G, E), 40)), str(rng.choice(["gpu", "node"])), 1
    if (G if what == "gpu" else nodes) <= count:
        return
    try:
        Problem.build(np.ones((1, E)), Cluster(G, nodes, num_slots=slots), survive=what)
    except ValueError as error:
        enough = int(str(error).split()[-3])
        step = G if slots % G == 0 else 1
        for n in range(max(E, G), enough + 1):
            cluster = Cluster(G, nodes, num_slots=n)
            if n % step == 0:
                assert (room(cluster, what, E) >= 2 * E) == (n == enough)


def test_groups_are_ignored_with_a_note_unless_asked_for():
    plan = solve(LOAD, Cluster(4, 2, 6), survive="node", num_groups=2)
    assert plan.placement.survives("node")
    assert plan.notes[0] == (
        "groups ignored: survive='node' keeps copies of every expert on several nodes"
    )


def test_a_solver_that_loses_experts_is_found_out(monkeypatch):
    trivial = Placement([[0, 1, 2, 3, 4, 5, 0, 1, 0, 1, 2, 3]], Cluster(3, slots_per_gpu=4), 6)
    monkeypatch.setattr("evenload.planner.get_solver", lambda name: lambda problem: trivial)
    assert not trivial.survives("gpu")
    with pytest.raises(ValueError, match="solver 'other' made a placement that loses"):
        solve(LOAD, trivial.cluster, survive="gpu", solver="other")


def test_slots_to_buy_hold_what_survives():
    clusters = clusters_to_try(LOAD.shape[-1], 4, 2, copies=2)
    advice = advise(LOAD, clusters, survive="node")
    assert advice.none.cluster.num_slots == 2 * LOAD.shape[-1]
    assert len(advice.sizes) > 1


# --- what a placement tells, and repairs ------------------------------------------------------


def test_what_a_placement_says_of_deaths():
    place = Placement([[0, 1, 0, 2, 1, 2, 0, 1]], Cluster(4, 2, 2), 3)
    assert place.survives("gpu")
    assert not place.survives("gpu", 2)
    assert place.survives("node")
    assert not place.survives("node", 2)
    assert place.lost_with([1, 2]).tolist() == [[False, False, True]]
    assert not place.lost_with([]).any()
    with pytest.raises(ValueError, match="gpus=0 is not a collection"):
        place.lost_with(0)
    with pytest.raises(ValueError, match="gpus=4 is more than 3"):
        place.lost_with([4])
    with pytest.raises(ValueError, match="what='rack'"):
        place.survives("rack")
    with pytest.raises(ValueError, match="count=0"):
        place.survives("gpu", 0)


@pytest.mark.parametrize("what", ["gpu", "node"])
def test_repairs_of_what_survives_move_nothing(what):
    load = np.random.default_rng(0).lognormal(0, 1, (3, 12))
    plan = solve(load, Cluster(8, 4, 4), survive=what)
    found = repairs(plan, what=what)
    assert list(found) == list(range(8 if what == "gpu" else 4))
    for number, repair in found.items():
        gpus = domains(plan.placement.cluster, what)[number]
        assert repair.moves.tolist() == [0, 0, 0]
        assert not any(repair.placement.cluster.alive[g] for g in gpus)
    # To survive the next death too, each expert that was there moves at least, none more than once.
    for number, repair in repairs(plan, what=what, survive=what).items():
        gpus = domains(plan.placement.cluster, what)[number]
        assert repair.placement.survives(what)
        held = [set(row[np.isin(plan.placement.cluster.gpu_of_slot, gpus)].tolist())
                for row in plan.placement.physical_to_logical]  # fmt: skip
        assert all(m <= len(h) for m, h in zip(repair.moves, held, strict=True))


def test_repairs_bring_back_what_is_lost_and_no_more():
    load, cluster = np.random.default_rng(1).lognormal(0, 1, (2, 10)), Cluster(4, slots_per_gpu=4)
    place = solve(load, cluster).placement
    assert not place.survives("gpu")
    for gpu, repair in repairs(place, load).items():
        assert repair.moves.tolist() == place.lost_with([gpu]).sum(axis=1).tolist()
        assert (repair.placement.replica_count > 0).all()
    freer = repairs(place, load, max_moves=3, effort="thorough")
    tied = repairs(place, load, effort="thorough")
    assert all((freer[g].balancedness >= tied[g].balancedness - 1e-12).all() for g in freer)


def test_repairs_keep_the_groups_of_a_plan_where_that_can_be_done():
    load = np.random.default_rng(2).lognormal(0, 1, (1, 8))
    plan = solve(load, Cluster(4, 2, 4), num_groups=2, survive="gpu")
    for repair in repairs(plan).values():
        assert repair.problem.hierarchical
    for repair in repairs(plan, what="node").values():
        assert repair.problem.num_groups == 2


@pytest.mark.parametrize(
    "how",
    [
        {"dispatch": "live", "live_share": 0.5},
        {"dispatch": "copy", "copy_slack": 0.2},
        {"dispatch": "nearest", "tokens_from": [1, 2, 0, 1]},
        {"dispatch": "static", "tokens_from": [1, 0, 0, 0]},
    ],
)
def test_repairs_are_for_each_dispatch_of_a_plan(how):
    plan = solve(np.arange(1, 9), Cluster(4, slots_per_gpu=4), survive="gpu", **how)
    for gpu, repair in repairs(plan).items():
        found = repair.problem.sharing
        tokens = found.pop("tokens_from")
        assert found == {n: v for n, v in plan.problem.sharing.items() if n != "tokens_from"}
        left = np.delete(how.get("tokens_from", [0]), gpu if "tokens_from" in how else [])
        assert (tokens is None) == (not left.any())
        if tokens is not None:
            assert tokens[gpu] == 0
            assert np.delete(tokens, gpu).tolist() == left.tolist()
    given = repairs(plan.placement, plan.problem.load, **how)
    assert [r.problem.dispatch for r in given.values()] == [how["dispatch"]] * 4
    other = repairs(plan, dispatch="even")
    assert [r.problem.dispatch for r in other.values()] == ["even"] * 4


def test_repairs_that_cannot_be():
    place = solve(LOAD, Cluster(3, slots_per_gpu=2)).placement
    with pytest.raises(ValueError, match="2 living of 3 GPUs have 4 slots"):
        repairs(place, LOAD)
    with pytest.raises(ValueError, match="load=None"):
        repairs(place)
    with pytest.raises(ValueError, match="running="):
        repairs(LOAD)
    with pytest.raises(ValueError, match="what='rack'"):
        repairs(place, LOAD, what="rack")
    with pytest.raises(ValueError, match="solver='joint' is not for repairs"):
        repairs(place, LOAD, solver="joint")
    with pytest.raises(ValueError, match=r"tokens_from has shape \(2,\)"):
        repairs(place, LOAD, dispatch="nearest", tokens_from=[1, 1])


# --- every dispatch ---------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", ["live", "nearest"])
@pytest.mark.parametrize("what", ["gpu", "node"])
def test_a_plan_for_a_dispatch_survives_and_balances_under_it(dispatch, what):
    """From nothing and from what runs; nothing that even sharing gives is better under it."""
    rng = np.random.default_rng(3)
    cluster = Cluster(8, 4, num_slots=48)
    for tokens in (None, [3, 1, 1, 1, 1, 1, 1, 0])[: 1 if dispatch == "live" else 2]:
        load = rng.lognormal(0, 1, (3, 16))
        how = {"survive": what, "dispatch": dispatch, "tokens_from": tokens}
        plan = solve(load, cluster, **how)
        even = solve(load, cluster, survive=what).placement
        sharing = {"dispatch": dispatch, "tokens_from": tokens}
        later = solve(load[::-1], cluster, **how, current=plan.placement, max_moves=4)
        for found, seen in ((plan, load), (later, load[::-1])):
            check_deaths(found.placement, what, 1)
            assert found.placement.survives(what)
            reached = found.placement.balancedness(seen, **sharing)
            np.testing.assert_allclose(found.balancedness, reached)
            assert (found.balancedness <= found.bound * (1 + 1e-9)).all()
        assert plan.balancedness.mean() >= even.balancedness(load, **sharing).mean()
        assert (plan.balancedness > 0.95).all()
        before = plan.placement.balancedness(load[::-1], **sharing)
        assert later.balancedness.mean() >= before.mean() - 1e-9


@pytest.mark.parametrize("dispatch", ["live", "nearest"])
@pytest.mark.parametrize("what", ["gpu", "node"])
def test_repairs_are_for_the_dispatch_of_the_plan(dispatch, what):
    load = np.random.default_rng(4).lognormal(0, 1, (2, 12))
    tokens = {"tokens_from": np.arange(8.0)} if dispatch == "nearest" else {}
    plan = solve(load, Cluster(8, 4, 4), survive=what, dispatch=dispatch, **tokens)
    free = repairs(plan, what=what, max_moves=6)
    shared = repairs(plan, what=what, max_moves=6, dispatch="even")
    for number, repair in free.items():
        gpus = list(domains(plan.placement.cluster, what)[number])
        sharing = {"dispatch": dispatch}
        if tokens:
            sharing["tokens_from"] = np.where(np.isin(np.arange(8), gpus), 0.0, np.arange(8))
        assert repair.problem.dispatch == dispatch
        reached = repair.placement.balancedness(load, **sharing)
        np.testing.assert_allclose(repair.balancedness, reached)
        other = shared[number].placement.balancedness(load, **sharing)
        assert reached.mean() >= other.mean() - 1e-9
    assert all(repair.problem.dispatch == "even" for repair in shared.values())
    for repair in repairs(plan, what=what, survive=what).values():
        assert repair.placement.survives(what)


def test_repairs_where_all_tokens_started_on_what_dies():
    plan = solve(LOAD, Cluster(3, slots_per_gpu=4), dispatch="nearest", tokens_from=[1, 0, 0])
    sent = [repair.problem.tokens_from for repair in repairs(plan).values()]
    assert sent[0] is None
    assert [list(tokens) for tokens in sent[1:]] == [[1, 0, 0]] * 2


def test_repairs_keep_the_parts_of_a_dispatch():
    for how in ({"dispatch": "live", "live_share": 0.3}, {"dispatch": "copy", "copy_slack": 0.2}):
        plan = solve(LOAD, Cluster(3, slots_per_gpu=4), **how)
        for repair in repairs(plan).values():
            assert {name: getattr(repair.problem, name) for name in how} == how
    with pytest.raises(ValueError, match="tokens_from is for dispatch 'nearest' or 'static'"):
        repairs(plan, tokens_from=[1, 1, 1])
