"""What a placement does with a load, against NumPy."""

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.core.evaluate import count_arrivals, evaluate
from evenload.core.evaluate import count_replicas as count_into
from evenload.core.evaluate import invert as invert_into

NOTHING = np.empty((0, 0), np.int64)
EVEN = np.empty((0, 0, 0)), np.empty((0, 0, 0), np.int64)


def count_replicas(placed, E):
    count = np.full((len(placed), E), -9)
    assert count_into(placed, (placed[0] >= 0).astype(np.uint8), count) == -1
    return count


def gpu_load(load, placed, count, first_slot, split=EVEN):
    result, unused = np.empty((len(load), len(first_slot) - 1)), np.empty(len(load))
    evaluate(load, placed, count, *split, first_slot, np.ones(len(first_slot) - 1), result, unused)
    return result


def balancedness(load_per_gpu, capacity):
    """One expert on each GPU."""
    L, G = load_per_gpu.shape
    placed, result = np.tile(np.arange(G), (L, 1)), np.empty(L)
    same = np.empty((L, G))
    evaluate(
        load_per_gpu, placed, np.ones((L, G), int), *EVEN, np.arange(G + 1), capacity, same, result
    )
    np.testing.assert_array_equal(same, load_per_gpu)
    return result


def moves(before, before_first, after, after_first, E):
    result = np.full(len(after), -9)
    count_arrivals(before, before_first, after, after_first, E, result)
    return result


def duplicates(placed, E, first_slot):
    return (placed >= 0).sum(axis=1) - moves(NOTHING, 0 * first_slot, placed, first_slot, E)


def invert(placed, rank, E, most):
    result = np.full((len(placed), E, most), -9)
    invert_into(placed, rank, result)
    return result


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
    assert count_replicas(placed, E).tolist() == wanted


@settings(max_examples=100, deadline=None)
@given(maps(), st.data())
def test_gpu_load_shares_evenly(problem, data):
    placed, E, slots = problem
    load = data.draw(loads((len(placed), E)))
    count = count_replicas(placed, E)
    result = gpu_load(load, placed, count, first_slot(slots))
    wanted = twins.load_on_gpus(load, twins.experts_on_gpus(placed, slots))
    np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=0)
    np.testing.assert_allclose(result.sum(axis=1), load.sum(axis=1), rtol=1e-12, atol=0)


@settings(max_examples=100, deadline=None)
@given(maps())
def test_duplicates_are_counted(problem):
    placed, E, slots = problem
    gpus = twins.experts_on_gpus(placed, slots)
    wanted = [sum(len(gpu) - len(set(gpu)) for gpu in layer) for layer in gpus]
    assert duplicates(placed, E, first_slot(slots)).tolist() == wanted


def test_duplicates_by_hand():
    placed = np.array([[0, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
    assert duplicates(placed, 2, first_slot([2, 2])).tolist() == [1, 0, 2]
    assert duplicates(placed, 2, first_slot([3, 1])).tolist() == [2, 1, 1]
    empty = np.array([[0, 1, -1, -1]])
    assert duplicates(empty, 2, first_slot([2, 2])).tolist() == [0]


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
    result = moves(before, first_slot(slots), after, first_slot(other), E)
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
        assert moves(before, ends[0], np.array([after]), ends[1], 4).tolist() == [wanted]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_balancedness_is_mean_over_max(L, G, data):
    load = data.draw(loads((L, G)))
    result = balancedness(load, np.ones(G))
    np.testing.assert_allclose(result, twins.balancedness(load), rtol=1e-13)
    assert (result <= 1.0).all()
    assert (result > 0.0).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.data())
def test_balancedness_of_gpus_that_differ(L, G, data):
    alive = data.draw(st.lists(st.booleans(), min_size=G, max_size=G).filter(any))
    speed = np.array(data.draw(st.lists(st.floats(0.001, 1.0), min_size=G, max_size=G))) * alive
    load = data.draw(loads((L, G))) * alive
    result = balancedness(load, speed)
    np.testing.assert_allclose(result, twins.balancedness_at_speed(load, speed), rtol=1e-13)
    assert (result <= 1.0).all()


def test_balancedness_by_hand():
    load, speed = np.array([[2.0, 1.0], [1.0, 1.0], [3.0, 0.0]]), np.array([1.0, 0.5])
    assert balancedness(load, speed).tolist() == [1.0, 2 / 3, 2 / 3]
    assert balancedness(load[2:], np.array([1.0, 0.0])).tolist() == [1.0]


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e308])
def test_balancedness_at_the_ends_of_float64(scale):
    load = np.array([[scale, scale, 0.0, 0.0]])
    assert balancedness(load, np.ones(4)).tolist() == [0.5]


@pytest.mark.parametrize("G", [3, 7, 49])
def test_balancedness_of_equal_loads_is_one(G):
    assert balancedness(np.full((1, G), 0.1), np.ones(G)).tolist() == [1.0]


@settings(max_examples=100, deadline=None)
@given(maps())
def test_slots_of_each_expert_are_listed_in_order(problem):
    placed, E, _ = problem
    wanted = twins.slots_of_experts(placed, E)
    most = max(len(slots) for layer in wanted for slots in layer)
    result = invert(placed, NOTHING, E, most)
    padded = [[slots + [-1] * (most - len(slots)) for slots in layer] for layer in wanted]
    assert result.tolist() == padded


@settings(max_examples=60, deadline=None)
@given(maps())
def test_inversion_follows_any_numbering(problem):
    placed, E, _ = problem
    wanted = [[slots[::-1] for slots in layer] for layer in twins.slots_of_experts(placed, E)]
    most = max(len(slots) for layer in wanted for slots in layer)
    backward = np.full_like(placed, -1)
    for rank, layer in zip(backward, wanted, strict=True):
        for slots in layer:
            rank[slots] = range(len(slots))
    result = invert(placed, backward, E, most)
    assert [
        [[s for s in slots if s >= 0] for slots in layer] for layer in result.tolist()
    ] == wanted


def test_a_slot_that_must_not_hold_what_it_does_is_found():
    living = np.array([1, 1, 0, 1], np.uint8)
    count = np.empty((2, 2), np.int64)
    for rows, place in [
        ([[0, 1, -1, 0], [1, 0, -1, 1]], -1),
        ([[0, 1, -1, 0], [1, 2, -1, 1]], 5),  # no expert
        ([[0, -1, -1, 0], [1, 0, -1, 1]], 1),  # nothing in a slot that is there
        ([[0, 1, -1, 0], [1, 0, 0, 1]], 6),  # something in one that is not
        ([[0, 1, -2, 0], [1, 0, -1, 1]], 2),
    ]:
        assert count_into(np.array(rows), living, count) == place


@settings(max_examples=60, deadline=None)
@given(maps(), st.data())
def test_gpu_load_as_a_split_says(problem, data):
    placed, E, slots = problem
    load = data.draw(loads((len(placed), E)))
    count = count_replicas(placed, E)
    held = invert(placed, NOTHING, E, int(count.max()))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weights = np.where(held >= 0, rng.uniform(size=held.shape), 0.0)
    result = gpu_load(load, placed, count, first_slot(slots), (weights, held))
    gpu = np.repeat(np.arange(len(slots)), slots)
    wanted = np.zeros(result.shape)
    for layer, e, x in np.argwhere(held >= 0):
        wanted[layer, gpu[held[layer, e, x]]] += load[layer, e] * weights[layer, e, x]
    np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=0)
