"""The GPUs: how many of what, from either way of saying it."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenload import Cluster

sizes = st.integers(1, 64)


@given(nodes=sizes, gpus_per_node=sizes, slots_per_gpu=sizes)
def test_both_ways_of_giving_the_slots_agree(nodes, gpus_per_node, slots_per_gpu):
    gpus = nodes * gpus_per_node
    cluster = Cluster(gpus, nodes, slots_per_gpu)
    assert cluster == Cluster(gpus, nodes, num_slots=gpus * slots_per_gpu)
    assert cluster.num_gpus == gpus
    assert cluster.num_nodes == nodes
    assert cluster.slots_per_gpu == slots_per_gpu
    assert cluster.num_slots == gpus * slots_per_gpu
    assert cluster.gpus_per_node == gpus_per_node


def test_one_node_unless_told():
    assert Cluster(8, slots_per_gpu=9) == Cluster(8, 1, 9) != Cluster(8, 2, 9)


@given(num_experts=st.integers(1, 500), gpus=sizes)
def test_smallest_for(num_experts, gpus):
    cluster = Cluster.smallest_for(num_experts, gpus)
    assert cluster.num_slots - gpus < num_experts <= cluster.num_slots
    cluster.check_holds(num_experts)


def test_holds_as_many_experts_as_slots():
    cluster = Cluster(4, slots_per_gpu=3)
    cluster.check_holds(12)
    message = r"^slots=12 is fewer than num_experts=13, and every expert needs a slot; use 13 or m"
    with pytest.raises(ValueError, match=message):
        cluster.check_holds(13, "slots")
    Cluster(4, num_slots=13).check_holds(13)
    with pytest.raises(ValueError, match=r"; use 16 or more$"):
        cluster.check_holds(13, "slots", step=4)


def test_numpy_integers_become_python_ints():
    cluster = Cluster(np.int32(8), np.uint8(2), num_slots=np.int64(72))
    values = [cluster.num_gpus, cluster.num_nodes, cluster.slots_per_gpu, cluster.num_slots]
    assert values == [8, 2, 9, 72]
    assert {type(value) for value in values} == {int}
    assert repr(cluster) == "Cluster(num_gpus=8, num_nodes=2, slots_per_gpu=9)"


def test_repr_makes_an_equal_cluster():
    cluster = Cluster(32, num_nodes=4, num_slots=288)
    assert eval(repr(cluster)) == cluster


def test_value():
    cluster = Cluster(32, 4, 9)
    assert hash(cluster) == hash(Cluster(32, 4, num_slots=288))
    assert len({cluster, Cluster(32, 4, 9), Cluster(32, 4, 8), Cluster(32, 8, 9)}) == 3
    assert pickle.loads(pickle.dumps(cluster)) == copy.deepcopy(cluster) == cluster
    assert cluster != (32, 4, 9)


def test_frozen():
    cluster = Cluster(8, slots_per_gpu=9)
    for name in ("num_gpus", "num_nodes", "slots", "speed", "alive", "slots_per_gpu"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cluster, name, 4)
    with pytest.raises(AttributeError):
        cluster.num_slots = 4


# --- GPUs that differ ----------------------------------------------------------------------------


def test_the_first_gpus_hold_one_more_where_slots_do_not_divide():
    assert Cluster(4, num_slots=13).slots == (4, 3, 3, 3)
    assert Cluster(4, num_slots=15).slots == (4, 4, 4, 3)
    assert Cluster(4, num_slots=16) == Cluster(4, slots=[4] * 4) == Cluster(4, slots_per_gpu=4)


@given(num_gpus=sizes, more=st.integers(0, 300))
def test_slots_are_spread_evenly(num_gpus, more):
    slots = Cluster(num_gpus, num_slots=num_gpus + more).slots
    assert sum(slots) == num_gpus + more
    assert max(slots) - min(slots) <= 1
    assert list(slots) == sorted(slots, reverse=True)


UNEQUAL = Cluster(4, 2, slots=[3, 1, 2, 2], speed=[1, 2, 4, 2], alive=[True, True, False, True])
VARIANTS = [
    UNEQUAL,
    Cluster(4, 2, slots=[3, 1, 2, 2]),
    Cluster(4, 2, slots=[3, 1, 2, 3]),
    Cluster(4, 2, slots_per_gpu=2, speed=[1, 1, 1, 3]),
    Cluster(4, 2, slots_per_gpu=2, speed=[3, 1, 1, 1]),
    Cluster(4, 2, slots_per_gpu=2, alive=[True, True, True, False]),
    Cluster(4, 2, slots_per_gpu=2, alive=[True, True, False, True]),
    Cluster(4, 2, slots_per_gpu=2),
]


def test_what_follows_from_gpus_that_differ():
    assert UNEQUAL.slots == (3, 1, 2, 2)
    assert UNEQUAL.speed == (1.0, 2.0, 4.0, 2.0)
    assert UNEQUAL.alive == (True, True, False, True)
    assert (UNEQUAL.num_slots, UNEQUAL.num_living_slots) == (8, 6)
    assert UNEQUAL.first_slot.tolist() == [0, 3, 4, 6, 8]
    assert UNEQUAL.living_slot.tolist() == [True] * 4 + [False] * 2 + [True] * 2
    assert UNEQUAL.living_gpus == (0, 1, 3)
    assert UNEQUAL.living_by_node == ((0, 1), (3,))
    assert UNEQUAL.capacity.tolist() == [0.5, 1.0, 0.0, 1.0]
    assert not UNEQUAL.all_alive
    assert not UNEQUAL.gpus_are_equal
    assert not UNEQUAL.nodes_are_equal


def test_what_follows_from_gpus_that_are_alike():
    cluster = Cluster(4, 2, slots_per_gpu=3)
    assert cluster.slots == (3,) * 4
    assert cluster.speed == (1.0,) * 4
    assert cluster.alive == (True,) * 4
    assert cluster.num_living_slots == cluster.num_slots == 12
    assert cluster.first_slot.tolist() == [0, 3, 6, 9, 12]
    assert cluster.capacity.tolist() == [1.0] * 4
    assert cluster.living_by_node == ((0, 1), (2, 3))
    assert cluster.all_alive
    assert cluster.gpus_are_equal
    assert cluster.nodes_are_equal


def test_gpus_are_equal_if_the_living_are():
    alive = [True, False, True]
    assert Cluster(3, slots=[2, 9, 2], speed=[5, 1, 5], alive=alive).gpus_are_equal
    assert not Cluster(3, slots=[2, 9, 3], alive=alive).gpus_are_equal
    assert not Cluster(3, slots_per_gpu=2, speed=[1, 1, 2], alive=alive).gpus_are_equal


def test_a_node_without_living_gpus_is_no_node():
    cluster = Cluster(6, 3, 2, alive=[True, True, False, False, True, True])
    assert cluster.living_by_node == ((0, 1), (4, 5))
    assert cluster.nodes_are_equal


def test_only_some_of_the_gpus():
    assert UNEQUAL.only([3, 0]) == Cluster(2, slots=[2, 3], speed=[2, 1])
    assert UNEQUAL.only([0, 1], 2) == Cluster(2, 2, slots=[3, 1], speed=[1, 2])


def test_only_ratios_of_speeds_matter():
    assert Cluster(2, slots_per_gpu=1, speed=[7, 7]) == Cluster(2, slots_per_gpu=1)
    top = 1.7e308
    assert Cluster(2, slots_per_gpu=1, speed=[top, top]) == Cluster(2, slots_per_gpu=1)
    for unit in (5e-324, 1e-300, 1.0, 1e300):
        capacity = Cluster(3, slots_per_gpu=1, speed=[unit, 4 * unit, 2 * unit]).capacity
        assert capacity.tolist() == [0.25, 1.0, 0.5]


def test_the_speed_of_a_gpu_that_is_gone_does_not_matter():
    for speed in (1e-9, 1e9):
        cluster = Cluster(3, slots_per_gpu=1, speed=[1, speed, 2], alive=[True, False, True])
        assert cluster.capacity.tolist() == [0.5, 0.0, 1.0]


def test_any_sequence_will_do():
    arrays = np.array([3, 1]), np.array([1, 2], np.float32), np.array([True, False])
    cluster = Cluster(2, slots=arrays[0], speed=arrays[1], alive=arrays[2])
    assert cluster == Cluster(2, slots=(3, 1), speed=range(1, 3), alive=[True, np.bool_(False)])
    types = {type(x) for values in (cluster.slots, cluster.speed, cluster.alive) for x in values}
    assert types == {int, float, bool}


@pytest.mark.parametrize("cluster", VARIANTS)
def test_value_of_gpus_that_differ(cluster):
    made = dict(cluster.arguments)
    _ = cluster.first_slot, cluster.capacity, cluster.living_slot  # what is computed is no part
    assert [cluster == other for other in VARIANTS].count(True) == 1
    for again in (
        eval(repr(cluster)),
        Cluster(**made),
        pickle.loads(pickle.dumps(cluster)),
        copy.copy(cluster),
        copy.deepcopy(cluster),
    ):
        assert again == cluster
        assert hash(again) == hash(cluster)
        assert again.arguments == made
        assert again.capacity.tolist() == cluster.capacity.tolist()


def test_repr_says_what_is_not_usual():
    assert repr(Cluster(2, slots_per_gpu=3)) == "Cluster(num_gpus=2, num_nodes=1, slots_per_gpu=3)"
    assert repr(Cluster(2, slots=[3, 1], speed=[1, 2], alive=[True, False])) == (
        "Cluster(num_gpus=2, num_nodes=1, slots=(3, 1), speed=(1.0, 2.0), alive=(True, False))"
    )


@pytest.mark.parametrize("name", ["first_slot", "living_slot", "capacity"])
@pytest.mark.parametrize("again", [lambda c: c, copy.deepcopy])
def test_arrays_cannot_be_written_to(name, again):
    getattr(UNEQUAL, name)
    array = getattr(again(UNEQUAL), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_only_living_slots_hold_experts():
    UNEQUAL.check_holds(6)
    message = (
        r"^num_slots: the 3 living of 4 GPUs have 6 slots for num_experts=8, .*; use 2 or more"
    )
    with pytest.raises(ValueError, match=message):
        UNEQUAL.check_holds(8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 10**9, "slots_per_gpu": 1}, f"num_gpus={10**9} is more than 65536"),
        ({"num_gpus": 2**62, "slots_per_gpu": 1}, f"num_gpus={2**62} is more than 65536"),
        ({"num_gpus": 8, "num_slots": 2**40}, f"num_slots={2**40} is more than 1048576"),
        ({"num_gpus": 8, "num_slots": 2**62}, f"num_slots={2**62} is more than 1048576"),
        ({"num_gpus": 8, "slots_per_gpu": 2**62}, f"slots_per_gpu={2**62} is more than 131072"),
        ({"num_gpus": 2, "slots": [2**20, 1]}, "the sum of slots=1048577 is more than 1048576"),
    ],
)
def test_more_than_any_cluster_has_takes_no_memory(arguments, message):
    most = message.rpartition(" ")[2]
    with pytest.raises(ValueError, match=f"^{message}; use {most} or less$"):
        Cluster(**arguments)


def test_the_largest_cluster():
    cluster = Cluster(2**16, num_slots=2**20)
    assert cluster.slots_per_gpu == 16
    assert cluster.first_slot[-1] == cluster.living_slot.size == 2**20
