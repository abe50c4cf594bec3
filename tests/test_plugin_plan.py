"""What an engine gets back for its load and old map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.engines.common.carried import carried_map
from evenload.engines.common.options import default_options, read_options
from evenload.engines.common.plan_map import NO_LOAD, Request, plan_map
from evenload.engines.common.selftest import problems

PLAIN = default_options()


@st.composite
def requests(draw):
    """Requests of all shapes: groups or none, old maps of fewer and more ranks, odd loads."""
    nodes, per_node, slots = (draw(st.integers(1, n)) for n in (2, 3, 4))
    ranks, L = nodes * per_node, draw(st.integers(1, 3))
    E = draw(st.integers(1, ranks * slots))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = rng.integers(0, 1000, (L, E)) ** draw(st.integers(0, 2))
    weight[draw(st.integers(0, L - 1))] *= draw(st.sampled_from([0, 1, 1, -1]))
    old = None
    if draw(st.booleans()):
        width = slots * draw(st.integers(1, ranks + 2))
        old = rng.integers(-1, E, (L, width))
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if g <= E]))
    return Request(weight, old, ranks * slots, groups, nodes, ranks)


def held(placed, ranks):
    return [[set(rank.tolist()) for rank in row.reshape(ranks, -1)] for row in placed]


@settings(max_examples=60, deadline=None)
@given(requests())
def test_every_expert_lives_and_what_stays_keeps_its_slot(request):
    weight = request.weight.copy()
    planned = plan_map(request, PLAIN)
    L, E = weight.shape
    assert planned.map.shape == (L, request.num_slots)
    assert planned.map.dtype == np.int64
    assert planned.map.flags.c_contiguous
    assert (request.weight == weight).all()
    carried = request.carried
    for row, before in zip(planned.map, carried, strict=True):
        assert set(row.tolist()) == set(range(E))
        if request.old is None:  # nothing runs yet, so there is no slot to keep
            continue
        for now, old in zip(
            row.reshape(request.num_ranks, -1),
            before.reshape(request.num_ranks, -1),
            strict=True,
        ):
            for expert in set(now.tolist()) & set(old.tolist()):
                assert (now[old == expert] == expert).any()
    bad = ~((weight >= 0).all(axis=1) & (weight > 0).any(axis=1))
    assert (planned.map[bad] == carried[bad]).all()
    assert (planned.kept == NO_LOAD) == bad.all()


@settings(max_examples=20, deadline=None)
@given(requests())
def test_the_same_request_gives_the_same_bytes(request):
    assert plan_map(request, PLAIN).map.tobytes() == plan_map(request, PLAIN).map.tobytes()


def linear(L, E, slots):
    return np.tile(np.arange(slots) % E, (L, 1))


def skewed(L=4, E=32):
    rng = np.random.default_rng(5)
    return rng.integers(1, 100, (L, E)) ** 3


def test_it_is_no_duplicate_that_can_be_avoided():
    placed = plan_map(Request(skewed(), linear(4, 32, 48), 48, 1, 1, 8), PLAIN).map
    assert all(len(rank) == 6 for row in held(placed, 8) for rank in row)


def test_a_second_plan_for_the_same_load_moves_nothing():
    first = plan_map(Request(skewed(), linear(4, 32, 40), 40, 1, 1, 8), PLAIN)
    again = plan_map(Request(skewed(), first.map, 40, 1, 1, 8), PLAIN)
    assert first.after > first.before
    assert again.moves == 0
    assert (again.map == first.map).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_bad_layer_keeps_its_map_and_the_others_are_planned(bad):
    weight, old = skewed().astype(float), linear(4, 32, 40)
    weight[1, 3], weight[2] = bad, 0.0
    planned = plan_map(Request(weight, old, 40, 1, 1, 8), PLAIN)
    assert (planned.map[1:3] == old[1:3]).all()
    fine = plan_map(Request(weight[[0, 3]], old[[0, 3]], 40, 1, 1, 8), PLAIN)
    assert (planned.map[[0, 3]] == fine.map).all()


def test_ranks_that_come_get_experts_and_the_others_keep_theirs():
    grown = np.concatenate([linear(4, 32, 40), np.full((4, 10), -1)], axis=1)
    planned = plan_map(Request(skewed(), grown, 50, 1, 1, 10), PLAIN)
    now, before = held(planned.map, 10), held(linear(4, 32, 40), 8)
    assert planned.moves == sum(
        len(now[layer][r] - (before[layer][r] if r < 8 else set()))
        for layer in range(4)
        for r in range(10)
    )
    assert planned.moves < 4 * 50


def test_no_expert_is_lost_with_the_ranks_that_go():
    planned = plan_map(Request(skewed(), linear(4, 32, 50), 40, 1, 1, 8), PLAIN)
    assert all(set(row.tolist()) == set(range(32)) for row in planned.map)


def test_groups_stay_on_a_node_unless_told_to_ignore_them():
    request = Request(skewed(), linear(4, 32, 40), 40, 4, 2, 8)
    placed = plan_map(request, PLAIN).map.reshape(4, 2, 20) // 8
    assert all(not set(a.tolist()) & set(b.tolist()) for a, b in placed)
    ignored = plan_map(request, read_options({"EVENLOAD_TOPOLOGY": "ignore"})).map
    assert any(set(a.tolist()) & set(b.tolist()) for a, b in ignored.reshape(4, 2, 20) // 8)


def test_limits_of_moves_are_kept():
    request = Request(skewed(), linear(4, 32, 40), 40, 1, 1, 8)
    assert plan_map(request, read_options({"EVENLOAD_MAX_MOVES": "1"})).moves <= 4
    assert plan_map(request, read_options({"EVENLOAD_MAX_TOTAL_MOVES": "3"})).moves <= 3


def test_numbers_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_slots=41 is not a multiple of num_ranks=8"):
        Request(skewed(), None, 41, 1, 1, 8)
    with pytest.raises(ValueError, match="fewer than the 32 experts"):
        Request(skewed(), None, 24, 1, 1, 8)


def test_a_carried_map_fills_what_is_empty_with_what_the_rank_has_not():
    old = np.array([[0, 1, 2, 3, -1, -1]])
    assert carried_map(old, 1, 4, 6, 3).tolist() == [[0, 1, 2, 3, 0, 1]]
    assert carried_map(old[:, :4], 1, 5, 6, 3).tolist() == [[0, 1, 2, 3, 4, 0]]
    # What the ranks that go had, takes the last slot of an expert with most.
    assert carried_map(np.array([[0, 1, 0, 1, 2, 3]]), 1, 4, 4, 2).tolist() == [[0, 1, 2, 3]]


def test_the_self_test_goes_every_way():
    assert {p.num_slots - (0 if p.old is None else p.old.shape[1]) for p in problems()} == {
        0,
        -12,
        24,
    }
    assert any((p.old == -1).any() for p in problems() if p.old is not None)
    assert any(p.num_groups % p.num_nodes == 0 and p.num_nodes > 1 for p in problems())
