"""Orders that are planned, and those that a placement asks for."""

import numpy as np
import pytest
from checkpoints import make, random_order
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Trace, solve
from evenload.checkpoint import open_checkpoint, order_of_placement, plan_order
from evenload.checkpoint.planned import over_windows
from evenload.io import PlacementFile
from evenload.layers import ModelLayers
from evenload.placement import Placement

RANDOM = np.random.default_rng(0)


def groups_stay_together(rows, groups):
    of = (rows // (rows.shape[1] // groups)).reshape(len(rows), groups, -1)
    return bool((of == of[:, :, :1]).all())


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(2, 1), (4, 1), (8, 1), (2, 4), (4, 4), (8, 4), (16, 4), (2, 8), (4, 2)]),
    st.sampled_from(["even", "copy"]), st.integers(0, 9), st.booleans(),
)  # fmt: skip
def test_each_expert_once_and_groups_together(shape, dispatch, seed, over_time):
    gpus, groups = shape
    load = np.random.default_rng(seed).integers(1, 1000, (5, 2, 16)).astype(float)
    load = load if over_time else load[0]
    place = plan_order(load, gpus, num_groups=groups, dispatch=dispatch)
    assert (np.sort(place.rows) == np.arange(16)).all()
    assert groups_stay_together(place.rows, groups)
    whole = load.sum(axis=0) if over_time else load
    trivial = Placement.trivial(2, 16, place.cluster)
    if not over_time:
        assert (place.balancedness(whole) >= trivial.balancedness(whole) - 1e-12).all()


def test_a_plan_is_that_of_solve_where_there_are_no_groups():
    load = RANDOM.integers(1, 1000, (2, 16)).astype(float)
    reached = solve(load, Cluster(4, slots_per_gpu=4)).balancedness
    np.testing.assert_allclose(plan_order(load, 4).balancedness(load), reached)


def test_windows_far_back_count_as_much():
    """A long trace whose last windows are another topic: both are planned for."""
    first, last = np.random.default_rng(1).integers(1, 1000, (2, 1, 32)).astype(float)
    trace = np.concatenate([np.tile(first, (100, 1, 1)), np.tile(last, (100, 1, 1))])
    late = solve(trace, Cluster(8, slots_per_gpu=4)).placement
    place = plan_order(Trace(trace), 8)

    def worse(p):
        return min(float(p.balancedness(load)[0]) for load in (first, last))

    assert worse(place) > worse(late) + 0.05
    before, after = over_windows(Trace(trace), place)
    assert after > before


def test_gpus_that_cannot_share():
    load = np.ones((1, 24))
    with pytest.raises(ValueError, match=r"num_experts=24 is not a multiple of num_gpus=5; use"):
        plan_order(load, 5)
    with pytest.raises(ValueError, match="3 GPUs of 8 experts would split groups of 12"):
        plan_order(load, 3, num_groups=2)


# ---- placements ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    return open_checkpoint(make(tmp_path_factory.mktemp("planned") / "model", "deepseek_v3"))


def placed(rows, cluster=None, layers=None, experts=8):
    cluster = cluster or Cluster(4, slots_per_gpu=2)
    layers = None if layers is None else ModelLayers(layers)
    return PlacementFile(Placement(rows, cluster, experts), "p.json", layers=layers)


def test_rows_are_the_layers_that_the_config_says(deepseek):
    rows = random_order("deepseek_v3", 3)
    rows = np.sort(rows.reshape(3, 4, 2), axis=2).reshape(3, 8)
    still = np.arange(8)
    dense = np.stack([still, *rows])
    for file, wanted in (
        (placed(rows), rows),  # the draft's layer too
        (placed(rows[:2]), [*rows[:2], still]),
        (placed(rows, layers=[1, 2, 3]), rows),
        (placed(rows[:2], layers=[1, 2]), [*rows[:2], still]),
        (placed(dense, layers=[0, 1, 2, 3]), rows),  # as SGLang's, with the dense layer
        (placed(dense), rows),
    ):
        order = order_of_placement(file, deepseek)
        np.testing.assert_array_equal(order.experts, wanted)
        assert order.layers.ids == (1, 2, 3)
        assert order.num_drafts == 1
        assert order.source_digest == deepseek.digest


@pytest.mark.parametrize(
    ("file", "match"),
    [
        (placed([[0, 1, 2, 3]] * 2, Cluster(2, slots_per_gpu=2), experts=4),
         "^4 experts per layer are given, and the checkpoint has 8; use loads or a placement"),
        (placed([[*range(8), 0, 1, 2, 3]] * 2, Cluster(4, slots_per_gpu=3)),
         "12 slots per layer for 8 experts, and an order has each expert once; plan with --slots "
         "8"),
        (placed([[*range(8)]] * 2, Cluster(3, num_slots=8)), "from 2 to 3 slots on a GPU"),
        (placed([[*range(8), -1, -1]] * 2, Cluster(5, slots_per_gpu=2,
                                                   alive=[True, True, True, True, False])),
         "GPU 4 of the placement is gone"),
        (placed([[*range(8)]] * 5), "^5 layers are given, and the checkpoint has experts in 2, or"),
        (placed([[*range(8)]], layers=[1]), "has no layer 2 of the model"),
        (placed([[0, 2, 1, 3, 4, 5, 6, 7]] * 2), r"in 2 layers \(model layers 1, 2\): each 2 pla"),
    ],
)  # fmt: skip
def test_placements_that_no_order_brings_about(deepseek, file, match):
    with pytest.raises(ValueError, match=match) as refused:
        order_of_placement(file, deepseek)
    assert "; " in str(refused.value)


def test_what_evenload_plan_says_instead_of_split_groups_does(deepseek):
    load = RANDOM.integers(1, 1000, (2, 8)).astype(float)
    plan = solve(load, Cluster(8, 4, slots_per_gpu=1), num_groups=4, topology="strict")
    order_of_placement(PlacementFile(plan.placement), deepseek)
