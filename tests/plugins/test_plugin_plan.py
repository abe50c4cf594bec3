"""What an engine gets back for its loads and the map that runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement, solve
from evenload.io import write_placement
from evenload.planner import solve_problem
from evenload.plugins import plan
from evenload.plugins.agreement import fingerprint
from evenload.plugins.plan import (
    NO_LOAD,
    PlacementMismatchError,
    Request,
    placement_ahead,
    plan_map,
)
from evenload.plugins.settings import Settings

PLAIN = Settings()


@st.composite
def requests(draw):
    """Requests of all shapes: windows, groups, ranks that came, went or are gone, odd loads."""
    nodes, per_node, slots = (draw(st.integers(1, n)) for n in (2, 3, 4))
    ranks, L = nodes * per_node, draw(st.integers(1, 3))
    alive = draw(st.none() | st.lists(st.booleans(), min_size=ranks, max_size=ranks).filter(any))
    E = draw(st.integers(1, (ranks if alive is None else sum(alive)) * slots))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    windows = rng.integers(0, 1000, (draw(st.integers(1, 4)), L, E)) ** draw(st.integers(0, 2))
    windows[:, draw(st.integers(0, L - 1))] *= draw(st.sampled_from([0, 1, 1]))
    windows[-1, draw(st.integers(0, L - 1))] *= draw(st.sampled_from([0, 1, 1, -1]))
    current = None
    if draw(st.booleans()):
        width = slots * draw(st.sampled_from([ranks, ranks, *range(1, ranks + 3)]))
        current = np.argsort(rng.random((L, width))) % E
        current[rng.random((L, width)) < draw(st.sampled_from([0, 0, 0.3]))] = -1
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if g <= E]))
    return Request(windows, current, ranks * slots, ranks, nodes, groups,
                   None if alive is None else tuple(alive))  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(requests())
def test_every_expert_lives_and_what_stays_keeps_its_slot(request):
    windows, current = request.windows.copy(), request.current
    before = None if current is None else current.copy()
    planned = plan_map(request, PLAIN)
    _, L, E = windows.shape
    living = request.cluster.living_slot
    assert planned.map.shape == (L, request.num_slots)
    assert planned.map.dtype == np.int64
    assert planned.map.flags.c_contiguous
    assert (request.windows == windows).all()
    assert current is None or (current == before).all()
    assert (planned.map[:, ~living] == -1).all()
    assert all(set(row[living].tolist()) == set(range(E)) for row in planned.map)
    bad = ~((windows >= 0).all(axis=(0, 2)) & (windows > 0).any(axis=(0, 2)))
    assert (planned.map[bad] == request.kept[bad]).all()
    assert (planned.kept == NO_LOAD) == bad.all()
    if current is None:  # nothing runs yet, so there is no slot to keep
        return
    for row, old in zip(planned.map[~bad], request.old[~bad], strict=True):
        for now, was in zip(
            row.reshape(request.num_ranks, -1), old.reshape(request.num_ranks, -1), strict=True
        ):
            for expert in set(now.tolist()) & set(was.tolist()) - {-1}:
                stay = min((now == expert).sum(), (was == expert).sum())
                assert ((now == expert) & (was == expert)).sum() == stay


@settings(max_examples=100, deadline=None)
@given(requests())
def test_what_is_kept_is_what_runs_with_every_expert_in_a_slot(request):
    E, living, kept = request.windows.shape[2], request.cluster.living_slot, request.kept
    assert (kept[:, ~living] == -1).all()
    for row, old in zip(kept[:, living], request.old[:, living], strict=True):
        assert set(row.tolist()) == set(range(E))
        count = np.bincount(old[old >= 0], minlength=E)
        changed = (row != old) & (old >= 0)
        if request.current is None or (count > 0).all():
            assert not changed.any()
        assert (count[old[changed]] > 1).all()


@settings(max_examples=20, deadline=None)
@given(requests())
def test_the_same_request_gives_the_same_bytes(request):
    assert plan_map(request, PLAIN).map.tobytes() == plan_map(request, PLAIN).map.tobytes()


def linear(L, E, slots):
    return np.tile(np.arange(slots) % E, (L, 1))


def skewed(L=4, E=32):
    rng = np.random.default_rng(5)
    return rng.integers(1, 100, (1, L, E)) ** 3


def held(placed, ranks):
    return [[set(rank.tolist()) for rank in row.reshape(ranks, -1)] for row in placed]


def test_each_window_counts_as_its_tokens_say(monkeypatch):
    seen = []
    solved = plan.solve_problem
    monkeypatch.setattr(
        plan, "solve_problem", lambda problem, *a, **k: seen.append(problem) or solved(problem)
    )
    plan_map(Request(np.array([[[9, 1, 2]], [[1, 1, 2]], [[2, 2, 0]]]), None, 4, 2), PLAIN)
    (problem,) = seen
    assert problem.load.tolist() == [[12, 4, 4]]
    assert problem.sample_weight.tolist() == [0.6, 0.2, 0.2]
    assert problem.samples[2].tolist() == [[0.5, 0.5, 0.0]]


def test_it_is_no_duplicate_that_can_be_avoided():
    placed = plan_map(Request(skewed(), linear(4, 32, 48), 48, 8), PLAIN).map
    assert all(len(rank) == 6 for row in held(placed, 8) for rank in row)


def test_a_second_plan_for_the_same_load_moves_nothing():
    first = plan_map(Request(skewed(), linear(4, 32, 40), 40, 8), Settings(start_share=1.0))
    again = plan_map(Request(skewed(), first.map, 40, 8), PLAIN)
    assert first.after > first.before
    assert again.moves == 0
    assert (again.map == first.map).all()


@pytest.mark.parametrize("share", [0.0, 0.05, 0.125, 0.3])
def test_the_start_is_left_in_small_steps(share):
    """No more than that share of all slots at a time, or one layer, until no layer runs it."""
    settings = Settings(start_share=share)
    runs, reached = linear(4, 32, 40), []
    for _ in range(5):
        outcome = plan_map(Request(skewed(), runs, 40, 8), settings)
        if (runs == linear(4, 32, 40)).all(axis=1).any():
            layers = (runs != outcome.map).any(axis=1).sum()
            assert outcome.moves <= share * runs.size or (layers == 1 and share)
        runs = outcome.map
        reached.append(outcome.after)
    whole = plan_map(Request(skewed(), linear(4, 32, 40), 40, 8), Settings(start_share=1.0))
    assert reached == sorted(reached)
    assert (runs == (whole.map if share else linear(4, 32, 40))).all()
    told = Settings(start_share=share, max_total_moves=1)
    assert plan_map(Request(skewed(), linear(4, 32, 40), 40, 8), told).moves <= 1


def test_a_plan_for_several_windows_moves_little_once_it_is_good():
    rng = np.random.default_rng(1)
    windows = np.stack([rng.poisson(rng.pareto(1.5, (4, 32)) * 100 + 5)] * 4)
    first = plan_map(Request(windows, None, 40, 8), PLAIN)
    assert np.isnan(first.before)
    again = plan_map(Request(windows, first.map, 40, 8), PLAIN)
    assert again.moves <= 4
    assert again.after >= again.before - 0.01
    moved = plan_map(Request(windows, linear(4, 32, 40), 40, 8), PLAIN)
    assert moved.after > moved.before
    new, old = (
        Placement(m, Cluster(8, slots_per_gpu=5), 32) for m in (moved.map, linear(4, 32, 40))
    )
    assert moved.moves == new.moves_from(old).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_bad_layer_keeps_its_map_and_the_others_are_planned(bad):
    windows, old = skewed().astype(float), linear(4, 32, 40)
    windows[0, 1, 3], windows[0, 2] = bad, 0.0
    planned = plan_map(Request(windows, old, 40, 8), PLAIN)
    assert (planned.map[1:3] == old[1:3]).all()
    fine = plan_map(Request(windows[:, [0, 3]], old[[0, 3]], 40, 8), PLAIN)
    assert (planned.map[[0, 3]] == fine.map).all()


def test_ranks_that_come_get_experts_and_the_others_keep_theirs():
    grown = np.concatenate([linear(4, 32, 40), np.full((4, 10), -1)], axis=1)
    planned = plan_map(Request(skewed(), grown, 50, 10), PLAIN)
    now, before = held(planned.map, 10), held(linear(4, 32, 40), 8)
    assert planned.moves == sum(
        len(now[layer][r] - (before[layer][r] if r < 8 else set()))
        for layer in range(4)
        for r in range(10)
    )
    assert planned.moves < 4 * 50


def test_no_expert_is_lost_with_the_ranks_that_go():
    planned = plan_map(Request(skewed(), linear(4, 32, 50), 40, 8), PLAIN)
    assert all(set(row.tolist()) == set(range(32)) for row in planned.map)


def test_a_dead_rank_costs_the_others_no_slot():
    windows = np.random.default_rng(3).integers(1, 99, (2, 2, 16))
    gone = (True, False, True, True)
    found = plan_map(Request(windows, linear(2, 16, 24), 24, 4, alive=gone), PLAIN)
    assert (found.map[:, 6:12] == -1).all()
    assert (found.map[:, 12:] >= 0).all()
    with pytest.raises(ValueError, match="the 2 living of 4 GPUs have 12 slots for num_experts=16"):
        Request(windows, linear(2, 16, 24), 24, 4, alive=(True, False, False, True))


@pytest.mark.parametrize("windows", [skewed(), np.concatenate([skewed(), skewed()[:, ::-1]])])
@pytest.mark.parametrize("old", [None, linear(4, 32, 40)])
def test_groups_stay_on_a_node_unless_told_to_ignore_them(windows, old):
    request = Request(windows, old, 40, 8, 2, 4)
    placed = plan_map(request, PLAIN).map.reshape(4, 2, 20) // 8
    assert all(not set(a.tolist()) & set(b.tolist()) for a, b in placed)
    ignored = plan_map(request, Settings(topology="ignore")).map
    assert any(set(a.tolist()) & set(b.tolist()) for a, b in ignored.reshape(4, 2, 20) // 8)


def by_groups(request, topology):
    """Plan, and return the map and the experts that no slot on their group's first node holds."""
    outcome = plan_map(request, Settings(topology=topology))
    nodes = outcome.map.reshape(4, request.num_nodes, -1)
    size = 32 // request.num_groups
    apart = sum(
        not any(set(range(g * size, g * size + size)) <= set(node.tolist()) for node in layer)
        for layer in nodes
        for g in range(request.num_groups)
    )
    return outcome, apart


@pytest.mark.parametrize("groups", [4, 8])
def test_each_group_is_whole_on_a_node_where_that_is_preferred(groups):
    request = Request(skewed(), None, 48, 8, 2, groups)
    (strict, _), (prefer, apart), (ignore, apart_ignored) = (
        by_groups(request, topology) for topology in ("strict", "prefer", "ignore")
    )
    assert apart == 0
    assert apart_ignored > 0
    assert strict.after < prefer.after <= ignore.after + 1e-9
    wanted = solve(skewed()[0], request.cluster, num_groups=groups, topology="prefer")
    assert (np.sort(prefer.map.reshape(4, 8, 6)) ==
            np.sort(wanted.placement.physical_to_logical.reshape(4, 8, 6))).all()  # fmt: skip


def test_groups_that_do_not_divide_over_the_nodes_can_be_preferred_and_none_are_ignored():
    assert by_groups(Request(skewed(), None, 60, 12, 3, 4), "prefer")[1] == 0
    alone = Request(skewed(), linear(4, 32, 40), 40, 8, 2, 1)
    ignored = plan_map(alone, Settings(topology="ignore"))
    assert (plan_map(alone, Settings(topology="prefer")).map == ignored.map).all()


def test_options_reach_the_solver_and_limits_of_moves_wait_for_a_map():
    request = Request(skewed(), linear(4, 32, 40), 40, 8)
    assert plan_map(request, Settings(max_moves=1)).moves <= 4
    assert plan_map(request, Settings(max_total_moves=3)).moves <= 3
    none = Settings(max_total_moves=0)
    assert plan_map(request, none).moves == 0
    assert plan_map(Request(skewed(), None, 40, 8), none).after > 0.9
    greedy = solve(skewed()[0], Cluster(8, slots_per_gpu=5), solver="greedy")
    whole = Settings(solver="greedy", start_share=1.0)
    assert plan_map(request, whole).after == greedy.balancedness.mean()


def test_numbers_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_slots=41 is not a multiple of num_ranks=8"):
        Request(skewed(), None, 41, 8)
    with pytest.raises(ValueError, match="num_slots=24 is fewer than num_experts=32"):
        Request(skewed(), None, 24, 8)


def kept(old, num_experts, num_slots, num_ranks):
    return Request(np.ones((1, 1, num_experts)), np.array(old), num_slots, num_ranks).kept.tolist()


def test_a_kept_map_fills_what_is_empty_with_what_the_rank_has_not():
    assert kept([[0, 1, 2, 3, -1, -1]], 4, 6, 3) == [[0, 1, 2, 3, 0, 1]]
    assert kept([[0, 1, 2, 3]], 5, 6, 3) == [[0, 1, 2, 3, 4, 0]]
    # What the ranks that go had, takes the last slot of an expert with most.
    assert kept([[0, 1, 0, 1, 2, 3]], 4, 4, 2) == [[0, 1, 2, 3]]


# ---- a placement that was planned ahead, in place of a plan at each rebalance --------------------

LOAD = np.random.default_rng(3).integers(1, 90, (3, 16)) ** 2
CLUSTER = Cluster(4, slots_per_gpu=6)
LINEAR = linear(3, 16, 24)


@pytest.fixture
def ahead(tmp_path):
    path = tmp_path / "placement.json"
    write_placement(path, solve(LOAD.astype(float), CLUSTER).placement)
    return Settings(placement=str(path))


def by_rank(placed):
    return np.sort(np.reshape(placed, (3, 4, 6))).tolist()


@pytest.mark.parametrize("load", [LOAD, LOAD[::-1], 0 * LOAD])
def test_every_rebalance_returns_it(ahead, load):
    planned = plan_map(Request(load[None], LINEAR, 24, 4), ahead)
    wanted = placement_ahead(ahead.placement)
    assert by_rank(planned.map) == by_rank(wanted.physical_to_logical)
    assert planned.moves == wanted.moves_from(Placement(LINEAR, CLUSTER, 16)).sum() > 0
    again = plan_map(Request(load[None], planned.map, 24, 4), ahead)
    assert again.moves == 0
    assert (again.map == planned.map).all()


def test_one_of_another_shape_keeps_what_runs(ahead):
    with pytest.raises(ValueError, match=r"is for \(layers, slots, experts, GPUs\) = "):
        plan_map(Request(LOAD[None], None, 32, 4), ahead)
    with pytest.raises(PlacementMismatchError, match="each pipeline stage or the draft model"):
        plan_map(Request(LOAD[None, :1], None, 24, 4), ahead)


def test_one_that_is_not_there_is_named(tmp_path):
    path = str(tmp_path / "none.json")
    with pytest.raises(ValueError, match=rf"^EVENLOAD_PLACEMENT={path} cannot be read: No such fi"):
        fingerprint(Settings(placement=path))


def test_ranks_with_other_files_are_told_apart(ahead, tmp_path):
    other, same = tmp_path / "other.json", tmp_path / "same.json"
    write_placement(other, Placement(LINEAR, CLUSTER, 16))
    same.write_bytes((tmp_path / "placement.json").read_bytes())
    prints = [fingerprint(Settings(placement=str(path))) for path in (same, other)]
    assert fingerprint(ahead) == prints[0] != prints[1]


def test_plans_are_for_and_measured_by_the_dispatch(monkeypatch):
    """But a solver that plans for even sharing alone is asked for that."""
    windows = np.random.default_rng(1).lognormal(0.0, 1.0, (2, 3, 12))
    planned = []

    def spy(problem, *args, **options):
        planned.append(problem.dispatch)
        return solve_problem(problem, *args, **options)

    monkeypatch.setattr("evenload.plugins.plan.solve_problem", spy)
    request = Request(windows, None, 18, 6, 3, dispatch="static")
    for solver in ("auto", "joint"):
        done = plan_map(request, Settings(solver=solver))
        placed = Placement(done.map, request.cluster, 12)
        load = windows.sum(axis=0)
        reached = placed.balancedness(load, dispatch="static").mean()
        assert done.after == request.balancedness(done.map) == reached
        assert reached != placed.balancedness(load).mean()
    assert planned == ["static", "even"]
