"""What a placement does with a load, against NumPy."""

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.kernels import evaluate
from evenload.kernels.invert import invert, rank_by_slot


@st.composite
def maps(draw, num_experts=None, num_gpus=None, num_layers=None):
    """A map [L, S], every expert placed, with the number of experts and of GPUs."""
    L = num_layers or draw(st.integers(1, 4))
    G = num_gpus or draw(st.integers(1, 5))
    K = draw(st.integers(-(-num_experts // G) if num_experts else 1, 6))
    E = num_experts or draw(st.integers(1, G * K))
    expert = st.integers(0, E - 1)
    rows = []
    for _ in range(L):
        spare = draw(st.lists(expert, min_size=G * K - E, max_size=G * K - E))
        rows.append(draw(st.permutations([*range(E), *spare])))
    return np.array(rows, np.int64), E, G


@st.composite
def loads(draw, shape):
    values = st.one_of(st.integers(0, 5), st.floats(1e-9, 1e9))
    flat = draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(flat, np.float64).reshape(shape)


@settings(max_examples=100, deadline=None)
@given(maps())
def test_replicas_are_counted(problem):
    placed, E, _ = problem
    np.testing.assert_array_equal(
        evaluate.count_replicas(placed, E), twins.count_replicas(placed, E)
    )


@settings(max_examples=100, deadline=None)
@given(maps(), st.data())
def test_gpu_load_shares_evenly(problem, data):
    placed, E, G = problem
    load = data.draw(loads((len(placed), E)))
    count = evaluate.count_replicas(placed, E)
    result = evaluate.gpu_load(load, placed, count, G)
    np.testing.assert_allclose(result, twins.gpu_load(load, placed, G), rtol=1e-12, atol=0)
    np.testing.assert_allclose(result.sum(axis=1), load.sum(axis=1), rtol=1e-12, atol=0)


@settings(max_examples=100, deadline=None)
@given(maps())
def test_duplicates_are_counted(problem):
    placed, E, G = problem
    np.testing.assert_array_equal(evaluate.duplicates(placed, E, G), twins.duplicates(placed, G))


def test_duplicates_by_hand():
    placed = np.array([[0, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
    assert evaluate.duplicates(placed, 2, 2).tolist() == [1, 0, 2]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_moves_are_counted_between_any_two_slot_numbers(data):
    before, E, G = data.draw(maps())
    after, *_ = data.draw(maps(E, G, len(before)))
    np.testing.assert_array_equal(
        evaluate.moves(before, after, E, G), twins.moves(before, after, G)
    )


def test_moves_by_hand():
    before = np.array([[0, 1, 2, 3]])
    for after, wanted in [
        ([1, 0, 3, 2], 0),  # inside each GPU
        ([0, 2, 1, 3], 2),
        ([2, 3, 0, 1], 4),
        ([0, 1, 2, 0, 3, 3], 2),  # another slot count: 2 on GPU 0, 0 on GPU 1
    ]:
        assert evaluate.moves(before, np.array([after]), 4, 2).tolist() == [wanted]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_balancedness_is_mean_over_max(L, G, data):
    load = data.draw(loads((L, G)))
    result = evaluate.balancedness(load)
    np.testing.assert_allclose(result, twins.balancedness(load), rtol=1e-13)
    assert (result <= 1.0).all()
    assert (result > 0.0).all()


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e308])
def test_balancedness_at_the_ends_of_float64(scale):
    assert evaluate.balancedness(np.array([[scale, scale, 0.0, 0.0]])).tolist() == [0.5]


@pytest.mark.parametrize("G", [3, 7, 49])
def test_balancedness_of_equal_loads_is_one(G):
    assert evaluate.balancedness(np.full((1, G), 0.1)).tolist() == [1.0]


@settings(max_examples=100, deadline=None)
@given(maps())
def test_slots_of_each_expert_are_listed_in_order(problem):
    placed, E, _ = problem
    wanted = twins.slots_of_experts(placed, E)
    most = max(len(slots) for layer in wanted for slots in layer)
    rank = rank_by_slot(placed, E)
    result = invert(placed, rank, E, most)
    padded = [[slots + [-1] * (most - len(slots)) for slots in layer] for layer in wanted]
    assert result.tolist() == padded


@settings(max_examples=60, deadline=None)
@given(maps())
def test_inversion_follows_any_numbering(problem):
    placed, E, _ = problem
    backward = rank_by_slot(np.ascontiguousarray(placed[:, ::-1]), E)[:, ::-1]
    wanted = [[slots[::-1] for slots in layer] for layer in twins.slots_of_experts(placed, E)]
    most = max(len(slots) for layer in wanted for slots in layer)
    result = invert(placed, np.ascontiguousarray(backward), E, most)
    assert [
        [[s for s in slots if s >= 0] for slots in layer] for layer in result.tolist()
    ] == wanted
