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
    """A map [L, S], every expert placed, with the number of experts and the slots of each GPU.

    GPUs differ in slots, and some hold nothing.
    """
    L = num_layers or draw(st.integers(1, 4))
    G = num_gpus or draw(st.integers(1, 5))
    slots = draw(st.lists(st.integers(1, 6), min_size=G, max_size=G))
    alive = draw(st.lists(st.booleans(), min_size=G, max_size=G).filter(any))
    living = np.repeat(alive, slots)
    if num_experts and living.sum() < num_experts:
        slots, living = [num_experts] * G, np.ones(G * num_experts, bool)
    n = int(living.sum())
    E = num_experts or draw(st.integers(1, n))
    placed = np.full((L, len(living)), -1)
    for row in placed:
        spare = draw(st.lists(st.integers(0, E - 1), min_size=n - E, max_size=n - E))
        row[living] = draw(st.permutations([*range(E), *spare]))
    return placed, E, slots


def first_slot(slots):
    """Where each GPU's slots begin."""
    return np.r_[0, np.cumsum(slots)]


@st.composite
def loads(draw, shape):
    values = st.one_of(st.integers(0, 5), st.floats(1e-9, 1e9))
    flat = draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(flat, np.float64).reshape(shape)


@settings(max_examples=100, deadline=None)
@given(maps())
def test_replicas_are_counted(problem):
    placed, E, slots = problem
    gpus = twins.experts_on_gpus(placed, slots)
    wanted = [[sum(gpu.count(e) for gpu in layer) for e in range(E)] for layer in gpus]
    assert evaluate.count_replicas(placed, E).tolist() == wanted


@settings(max_examples=100, deadline=None)
@given(maps(), st.data())
def test_gpu_load_shares_evenly(problem, data):
    placed, E, slots = problem
    load = data.draw(loads((len(placed), E)))
    count = evaluate.count_replicas(placed, E)
    result = evaluate.gpu_load(load, placed, count, first_slot(slots))
    wanted = twins.load_on_gpus(load, twins.experts_on_gpus(placed, slots))
    np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=0)
    np.testing.assert_allclose(result.sum(axis=1), load.sum(axis=1), rtol=1e-12, atol=0)


@settings(max_examples=100, deadline=None)
@given(maps())
def test_duplicates_are_counted(problem):
    placed, E, slots = problem
    gpus = twins.experts_on_gpus(placed, slots)
    wanted = [sum(len(gpu) - len(set(gpu)) for gpu in layer) for layer in gpus]
    assert evaluate.duplicates(placed, E, first_slot(slots)).tolist() == wanted


def test_duplicates_by_hand():
    placed = np.array([[0, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
    assert evaluate.duplicates(placed, 2, first_slot([2, 2])).tolist() == [1, 0, 2]
    assert evaluate.duplicates(placed, 2, first_slot([3, 1])).tolist() == [2, 1, 1]
    empty = np.array([[0, 1, -1, -1]])
    assert evaluate.duplicates(empty, 2, first_slot([2, 2])).tolist() == [0]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_moves_are_counted_between_any_two_slot_numbers(data):
    before, E, slots = data.draw(maps())
    after, _, other = data.draw(maps(E, len(slots), len(before)))
    layers = zip(
        twins.experts_on_gpus(before, slots), twins.experts_on_gpus(after, other), strict=True
    )
    wanted = [
        sum(len(set(new) - set(old)) for old, new in zip(*layer, strict=True)) for layer in layers
    ]
    result = evaluate.moves(before, first_slot(slots), after, first_slot(other), E)
    assert result.tolist() == wanted


def test_moves_by_hand():
    before = np.array([[0, 1, 2, 3]])
    for after, slots, wanted in [
        ([1, 0, 3, 2], [2, 2], 0),  # inside each GPU
        ([0, 2, 1, 3], [2, 2], 2),
        ([2, 3, 0, 1], [2, 2], 4),
        ([0, 1, 2, 0, 3, 3], [3, 3], 2),  # another slot count: 2 on GPU 0, 0 on GPU 1
        ([0, 1, 3, 2], [3, 1], 1),  # 3 on GPU 0
        ([-1, -1, 3, 2, 0, 1], [2, 4], 2),  # GPU 0 is gone: 0 and 1 on GPU 1
    ]:
        ends = first_slot([2, 2]), first_slot(slots)
        assert evaluate.moves(before, ends[0], np.array([after]), ends[1], 4).tolist() == [wanted]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_balancedness_is_mean_over_max(L, G, data):
    load = data.draw(loads((L, G)))
    result = evaluate.balancedness(load, np.ones(G))
    np.testing.assert_allclose(result, twins.balancedness(load), rtol=1e-13)
    assert (result <= 1.0).all()
    assert (result > 0.0).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_balancedness_of_gpus_that_differ(L, G, data):
    alive = data.draw(st.lists(st.booleans(), min_size=G, max_size=G).filter(any))
    speed = np.array(data.draw(st.lists(st.floats(0.001, 1.0), min_size=G, max_size=G))) * alive
    load = data.draw(loads((L, G))) * alive
    result = evaluate.balancedness(load, speed)
    np.testing.assert_allclose(result, twins.balancedness_at_speed(load, speed), rtol=1e-13)
    assert (result <= 1.0).all()


def test_balancedness_by_hand():
    load, speed = np.array([[2.0, 1.0], [1.0, 1.0], [3.0, 0.0]]), np.array([1.0, 0.5])
    assert evaluate.balancedness(load, speed).tolist() == [1.0, 2 / 3, 2 / 3]
    assert evaluate.heaviest_time(load, speed).tolist() == [2.0, 2.0, 3.0]
    assert evaluate.balancedness(load[2:], np.array([1.0, 0.0])).tolist() == [1.0]


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e308])
def test_balancedness_at_the_ends_of_float64(scale):
    load = np.array([[scale, scale, 0.0, 0.0]])
    assert evaluate.balancedness(load, np.ones(4)).tolist() == [0.5]


@pytest.mark.parametrize("G", [3, 7, 49])
def test_balancedness_of_equal_loads_is_one(G):
    assert evaluate.balancedness(np.full((1, G), 0.1), np.ones(G)).tolist() == [1.0]


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
    assert ((backward < 0) == (placed < 0)).all()
    wanted = [[slots[::-1] for slots in layer] for layer in twins.slots_of_experts(placed, E)]
    most = max(len(slots) for layer in wanted for slots in layer)
    result = invert(placed, np.ascontiguousarray(backward), E, most)
    assert [
        [[s for s in slots if s >= 0] for slots in layer] for layer in result.tolist()
    ] == wanted
