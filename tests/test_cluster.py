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
    message = r"^slots=12 is fewer than num_experts=13, and every expert needs a slot; use 16 or m"
    with pytest.raises(ValueError, match=message):
        cluster.check_holds(13, "slots")


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
    for name in ("num_gpus", "num_nodes", "slots_per_gpu"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(cluster, name, 4)
    with pytest.raises(AttributeError):
        cluster.num_slots = 4
