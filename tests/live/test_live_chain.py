"""Chains of maps: every one can serve, none asks for more room than there is, and all end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenload import Cluster
from evenload.live.chain import chain, check_link


def random_row(draw, cluster, experts):
    row = np.full(cluster.num_slots, -1)
    slots = np.flatnonzero(cluster.living_slot)
    held = np.concatenate([np.arange(experts), draw.integers(0, experts, len(slots) - experts)])
    row[slots] = draw.permutation(held)
    return row


def arriving(before, after, cluster):
    """Experts that each GPU holds after and not before."""
    own = cluster.gpu_of_slot
    return [
        len(set(after[own == g].tolist()) - set(before[own == g].tolist()) - {-1})
        for g in range(cluster.num_gpus)
    ]


@given(st.integers(0, 2**32))
def test_links_fit_and_every_expert_stays(seed):
    draw = np.random.default_rng(seed)
    gpus, slots = int(draw.integers(2, 6)), int(draw.integers(1, 5))
    alive = draw.random(gpus) < 0.8
    alive[draw.integers(gpus)] = True
    cluster = Cluster(gpus, slots_per_gpu=slots, alive=alive.tolist())
    experts = int(draw.integers(1, cluster.num_living_slots + 1))
    after = random_row(draw, cluster, experts)
    everywhere = Cluster(gpus, slots_per_gpu=slots)
    before = random_row(draw, everywhere, experts)  # on GPUs that have died, too
    if draw.random() < 0.3:
        before[everywhere.gpu_of_slot == draw.choice(cluster.living_gpus)] = -1  # it joins
    room = draw.integers(1, slots + 1, gpus).tolist()
    links = chain(before, after, cluster, room)
    running = np.where(cluster.living_slot, before, -1)
    for link in links:
        assert check_link(running, link, cluster, experts) == ""
        assert all(n <= r for n, r in zip(arriving(running, link, cluster), room, strict=True))
        assert not np.array_equal(link, running)
        running = link
    np.testing.assert_array_equal(running, after)
    if np.array_equal(np.where(cluster.living_slot, before, -1), after):
        assert links == []


def test_a_cycle_of_single_copies_is_broken_up_where_there_is_room_for_one():
    cluster = Cluster(2, slots_per_gpu=2)
    links = chain(np.array([0, 1, 2, 3]), np.array([2, 3, 0, 1]), cluster, [1, 1])
    assert [link.tolist() for link in links] == [[2, 1, 0, 3], [2, 3, 0, 1]]
    assert len(chain(np.array([0, 1, 2, 3]), np.array([2, 3, 0, 1]), cluster, [2, 2])) == 1


def test_no_room_is_refused():
    with pytest.raises(ValueError, match=r"room\[1\]=0, and moves need some; use 1 or more"):
        chain(np.array([0, 1]), np.array([1, 0]), Cluster(2, slots_per_gpu=1), [1, 0])


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ([0, 1, -1, -1], ""),
        ([0, 0, -1, -1], "experts [1] would lose their last copy"),
        ([0, 1, 1, -1], "a slot of a GPU that is not alive holds an expert"),
        ([0, -1, -1, -1], "a slot holds no expert"),
        ([0, 2, -1, -1], "a slot holds no expert"),
        ([0, 1], "a map has (2,) slots, and there are (4,)"),
    ],
)
def test_a_rank_refuses_what_cannot_serve(after, why):
    cluster = Cluster(2, slots_per_gpu=2, alive=[True, False])
    assert check_link(np.array([0, 1, 1, 0]), np.array(after), cluster, 2) == why
