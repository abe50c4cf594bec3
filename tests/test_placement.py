"""Where every expert lives: the maps, what a load makes of them, and that nothing changes them."""

import copy
import pickle

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement


@st.composite
def clusters(draw, num_gpus=None):
    """GPUs that may differ in slots and speed, and some may be gone."""
    nodes, gpus_per_node = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if num_gpus:
        nodes, gpus_per_node = 1, num_gpus
    G = nodes * gpus_per_node

    def each(values):
        return draw(st.lists(values, min_size=G, max_size=G))

    if draw(st.booleans()):
        return Cluster(G, nodes, draw(st.integers(1, 3)))
    alive = each(st.booleans())
    alive[draw(st.integers(0, G - 1))] = True
    speed = each(st.sampled_from([1.0, 1.0, 2.5, 0.3]))
    return Cluster(G, nodes, slots=each(st.integers(1, 4)), speed=speed, alive=alive)


@st.composite
def placements(draw, cluster=None, num_layers=None, num_experts=None):
    """Any placement; its slots in any order."""
    cluster = cluster or draw(clusters())
    num_experts = num_experts or draw(st.integers(1, cluster.num_living_slots))
    num_layers = num_layers or draw(st.integers(1, 3))
    rows = np.full((num_layers, cluster.num_slots), -1)
    spare = cluster.num_living_slots - num_experts
    for row in rows:
        extra = draw(st.lists(st.integers(0, num_experts - 1), min_size=spare, max_size=spare))
        row[cluster.living_slot] = draw(st.permutations([*range(num_experts), *extra]))
    return Placement(rows, cluster, num_experts)


@st.composite
def placements_with_load(draw):
    place = draw(placements())
    shape = place.num_layers, place.num_experts
    load = draw(st.lists(st.integers(0, 1000), min_size=shape[0] * shape[1]).map(np.array))
    return place, np.resize(load, shape).astype(np.float64)


@st.composite
def pairs(draw):
    after = draw(placements())
    shape = after.num_layers, after.num_experts
    cluster = draw(clusters(after.cluster.num_gpus))
    if cluster.num_living_slots < shape[1]:
        cluster = Cluster(after.cluster.num_gpus, slots_per_gpu=shape[1])
    return draw(placements(cluster, *shape)), after


def slots_of_gpus(place):
    """For each layer, the experts in the slots of each GPU, as lists."""
    return twins.experts_on_gpus(place.physical_to_logical, place.cluster.slots)


# --- the maps ------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(place=placements())
def test_maps_agree(place):
    rows = place.physical_to_logical.tolist()
    assert place.num_layers == len(rows)
    assert place.num_slots == len(rows[0]) == place.cluster.num_slots
    slots = [
        [[s for s, e in enumerate(row) if e == expert] for expert in range(place.num_experts)]
        for row in rows
    ]
    most = max(len(own) for layer in slots for own in layer)
    padded = [[own + [-1] * (most - len(own)) for own in layer] for layer in slots]
    assert place.logical_to_physical.tolist() == padded
    assert place.replica_count.tolist() == [[len(own) for own in layer] for layer in slots]
    for array in (place.physical_to_logical, place.logical_to_physical, place.replica_count):
        assert array.dtype == np.int64
        assert array.flags.c_contiguous


def test_one_layer_without_the_layer_axis():
    cluster = Cluster(2, slots_per_gpu=2)
    place = Placement([0, 1, 2, 0], cluster, 3)
    assert place == Placement([[0, 1, 2, 0]], cluster, 3)
    assert place.physical_to_logical.shape == (1, 4)
    assert place.gpu_load([4.0, 2.0, 6.0]).tolist() == [[4.0, 8.0]]


@pytest.mark.parametrize("dtype", ["i1", "i8", "u2", "u8", ">i4"])
def test_any_integer_dtype(dtype):
    rows = np.array([[0, 1, 2, 0], [2, 1, 0, 1]], dtype)
    place = Placement(rows, Cluster(2, slots_per_gpu=2), np.int8(3))
    np.testing.assert_array_equal(place.physical_to_logical, rows)
    assert place.physical_to_logical.dtype == np.dtype(np.int64)
    assert type(place.num_experts) is int


def test_ranks_order_the_replicas():
    cluster = Cluster(2, slots_per_gpu=3)
    rank = [[2, 0, 0, 1, 0, 1]]
    place = Placement([[0, 1, 2, 0, 0, 1]], cluster, 3, replica_rank=rank)
    assert place.logical_to_physical.tolist() == [[[4, 3, 0], [1, 5, -1], [2, -1, -1]]]
    by_slot = Placement([[0, 1, 2, 0, 0, 1]], cluster, 3)
    assert by_slot.logical_to_physical.tolist() == [[[0, 3, 4], [1, 5, -1], [2, -1, -1]]]


def test_ranks_of_a_gpu_that_is_gone_are_not_looked_at():
    cluster = Cluster(2, slots_per_gpu=2, alive=[False, True])
    for nothing in (-1, 0, 9):
        rank = [[nothing, nothing, 1, 0]]
        place = Placement([[-1, -1, 0, 0]], cluster, 1, replica_rank=rank)
        assert place.logical_to_physical.tolist() == [[[3, 2]]]


def test_trivial():
    place = Placement.trivial(2, 3, Cluster(2, slots_per_gpu=4))
    assert place.physical_to_logical.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]] * 2
    assert place.num_experts == 3


# --- what a load makes of it ---------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(problem=placements_with_load())
def test_gpu_load(problem):
    place, load = problem
    expected = twins.load_on_gpus(load, slots_of_gpus(place))
    result = place.gpu_load(load)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    np.testing.assert_allclose(result.sum(axis=1), load.sum(axis=1), rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(problem=placements_with_load())
def test_balancedness(problem):
    place, load = problem
    speed = np.array(place.cluster.speed) * place.cluster.alive
    expected = twins.balancedness_at_speed(twins.load_on_gpus(load, slots_of_gpus(place)), speed)
    result = place.balancedness(load)
    assert result.shape == (place.num_layers,)
    assert ((result > 0) & (result <= 1)).all()
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_balancedness_by_hand():
    place = Placement([[0, 1], [1, 0], [0, 1]], Cluster(2, slots_per_gpu=1), 2)
    result = place.balancedness([[3.0, 1.0], [5.0, 5.0], [0.0, 0.0]])
    assert result.tolist() == [2 / 3, 1.0, 1.0]


def test_balancedness_by_hand_of_gpus_that_differ():
    cluster = Cluster(4, slots=[2, 1, 2, 1], speed=[2, 1, 1, 3], alive=[True, True, False, True])
    place = Placement([[0, 1, 2, -1, -1, 0]], cluster, 3)
    load = [4.0, 2.0, 1.0]
    assert place.gpu_load(load).tolist() == [[4.0, 1.0, 0.0, 2.0]]
    assert place.balancedness(load) == pytest.approx([7 / (2 + 1 + 3) / (4 / 2)])
    assert place.logical_to_physical.tolist() == [[[0, 5], [1, -1], [2, -1]]]
    assert place.duplicates.tolist() == [0]


def test_a_gpu_dies():
    before = Placement.trivial(1, 4, Cluster(3, slots_per_gpu=2))
    after = Placement.trivial(1, 4, Cluster(3, slots_per_gpu=2, alive=[True, False, True]))
    assert before.physical_to_logical.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert after.physical_to_logical.tolist() == [[0, 1, -1, -1, 2, 3]]
    assert after.moves_from(before).tolist() == [2]
    assert before.moves_from(after).tolist() == [4]


def test_largest_floats_do_not_overflow():
    top = np.finfo(np.float64).max
    place = Placement([0, 1, 2, 3], Cluster(2, slots_per_gpu=2), 4)
    assert place.balancedness([top, top, top, 0.0]) == pytest.approx([0.75])


@settings(max_examples=50, deadline=None)
@given(place=placements())
def test_duplicates(place):
    expected = [sum(len(gpu) - len(set(gpu)) for gpu in gpus) for gpus in slots_of_gpus(place)]
    assert place.duplicates.tolist() == expected


@settings(max_examples=50, deadline=None)
@given(pair=pairs())
def test_moves(pair):
    before, after = pair
    expected = [
        sum(len(set(new) - set(old)) for old, new in zip(*layers, strict=True))
        for layers in zip(slots_of_gpus(before), slots_of_gpus(after), strict=True)
    ]
    result = after.moves_from(before)
    assert result.tolist() == expected
    assert result.dtype == np.int64
    assert after.moves_from(after).tolist() == [0] * after.num_layers


def test_moves_by_hand():
    cluster = Cluster(2, slots_per_gpu=3)
    before = Placement([0, 1, 2, 3, 0, 1], cluster, 4)
    for rows, moves in (
        ([2, 0, 1, 1, 3, 0], 0),  # slots change inside a GPU
        ([3, 0, 1, 2, 1, 0], 2),  # 2 and 3 change places
        ([0, 0, 1, 2, 3, 2], 1),  # a duplicate arrives once
        ([0, 1, 1, 3, 0, 2], 1),  # leaving is no move
    ):
        assert Placement(rows, cluster, 4).moves_from(before).tolist() == [moves]


# --- a value -------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(place=placements())
def test_equal_to_a_copy(place):
    other = Placement(place.physical_to_logical, place.cluster, place.num_experts)
    assert other == place
    assert hash(other) == hash(place)
    for again in (copy.copy(place), copy.deepcopy(place), pickle.loads(pickle.dumps(place))):
        assert again == place
        assert hash(again) == hash(place)


def test_equality():
    cluster = Cluster(2, slots_per_gpu=2)
    place = Placement([0, 1, 2, 0], cluster, 3)
    others = [
        Placement([0, 1, 0, 2], cluster, 3),
        Placement([0, 1, 2, 0], Cluster(2, 2, slots_per_gpu=2), 3),
        Placement([0, 1, 2, 0], Cluster(4, slots_per_gpu=1), 3),
        Placement([[0, 1, 2, 0]] * 2, cluster, 3),
        Placement([0, 1, 2, 3], cluster, 4),
        Placement([0, 1, 2, 0], Cluster(2, slots=[3, 1]), 3),
        Placement([0, 1, 2, 0], Cluster(2, slots_per_gpu=2, speed=[1, 2]), 3),
        [[0, 1, 2, 0]],
        None,
    ]
    for other in others:
        assert place != other
    assert len({place, Placement([0, 1, 2, 0], cluster, 3), *others[:7]}) == 8


def test_repr_is_compact():
    place = Placement.trivial(58, 256, Cluster(32, 4, num_slots=288))
    assert repr(place) == (
        "<Placement: 58 layers, 256 experts in 288 slots on 32 GPUs (4 nodes), 1856 experts "
        "replicated>"
    )


# --- immutable -----------------------------------------------------------------------------------

MAPS = ("physical_to_logical", "logical_to_physical", "replica_count")


def example(kind="array", **options):
    rows = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])
    if kind == "tensor":
        rows = pytest.importorskip("torch").tensor(rows)
    return Placement(rows, Cluster(2, slots_per_gpu=2), 3, **options)


def test_arrays_it_was_made_of_are_copied():
    rows, rank = np.array([[0, 1, 2, 0]]), np.array([[1, 0, 0, 0]])
    place = Placement(rows, Cluster(2, slots_per_gpu=2), 3, replica_rank=rank)
    rows[:], rank[:] = 0, 0
    assert place.physical_to_logical.tolist() == [[0, 1, 2, 0]]
    assert place.logical_to_physical.tolist() == [[[3, 0], [1, -1], [2, -1]]]
    assert place.replica_count.tolist() == [[2, 1, 1]]


def test_a_tensor_it_was_made_of_is_copied():
    torch = pytest.importorskip("torch")
    rows = torch.tensor([[0, 1, 2, 0]])
    place = Placement(rows, Cluster(2, slots_per_gpu=2), 3)
    rows.fill_(0)
    assert place.physical_to_logical.tolist() == [[0, 1, 2, 0]]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(
    "again", [lambda p: p, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
@pytest.mark.parametrize("rank", [None, [[1, 0, 0, 0], [0, 1, 0, 0]]])
def test_arrays_cannot_be_written_to(name, again, rank):
    place = example(replica_rank=rank)
    place.logical_to_physical  # noqa: B018 - what is computed once must be kept as safe
    array = getattr(again(place), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    if name == "physical_to_logical":  # from which all else follows
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)


@pytest.mark.parametrize("name", [*MAPS, "duplicates"])
def test_tensors_are_copies(name):
    place = example("tensor")
    before = getattr(place, name).clone()
    getattr(place, name).fill_(9)
    assert getattr(place, name).equal(before)
    assert place == example()


def test_what_is_computed_is_the_callers_own():
    place = example()
    for compute in (
        lambda: place.duplicates,
        lambda: place.moves_from(place),
        lambda: place.gpu_load(np.ones((2, 3))),
        lambda: place.balancedness(np.ones((2, 3))),
        lambda: place.split(np.ones((2, 3))),
    ):
        before = compute().copy()
        compute()[:] = 9
        np.testing.assert_array_equal(compute(), before)


@pytest.mark.parametrize("name", [*MAPS, "duplicates", "cluster", "num_experts", "num_layers"])
def test_attributes_cannot_be_set(name):
    with pytest.raises(AttributeError):
        setattr(example(), name, 3)


def test_a_placement_of_tensors_survives_a_pickle():
    torch = pytest.importorskip("torch")
    place = pickle.loads(pickle.dumps(example("tensor")))
    assert place == example()
    assert isinstance(place.logical_to_physical, torch.Tensor)
