"""The drop-in module: DeepSeek EPLB's three functions, its shapes, and its very plans."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evenload.eplb as eplb  # noqa: PLR0402 - the line that users of the original change
from evenload import Cluster, Placement, solve
from evenload.solvers import solver_names

CASES = range(7)
LOAD = np.random.default_rng(6).lognormal(3.0, 1.0, (3, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def golden(shared):
    """Inputs, and what DeepSeek's own code gives for them, by case."""
    with np.load(shared / "golden" / "deepseek_rebalance.npz") as file:
        return {name: file[name] for name in file.files}


def case(golden, number):
    names = (
        "weight",
        "physical_to_logical",
        "logical_to_physical",
        "logical_count",
        "balancedness",
    )
    args = [int(n) for n in golden[f"case{number:02}_args"]]
    return args, *(golden[f"case{number:02}_{name}"] for name in names)


def rows_of_groups(physical_to_logical, num_nodes, size):
    """The groups that each node of each layer holds."""
    rows = physical_to_logical.reshape(len(physical_to_logical), num_nodes, -1) // size
    return [[set(node) for node in row] for row in rows.tolist()]


# --- the published plans -------------------------------------------------------------------------


@pytest.mark.parametrize("number", CASES)
def test_golden_plans_of_tensors(golden, number):
    torch = pytest.importorskip("torch")
    args, weight, *maps, _ = case(golden, number)
    results = eplb.rebalance_experts(torch.from_numpy(weight), *args, solver="greedy")
    for result, expected in zip(results, maps, strict=True):
        assert result.dtype == torch.int64
        np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_golden_plans_of_arrays(golden, number, dtype):
    """To the slot; replicas of one expert weigh the same, so their order is nobody's promise."""
    args, weight, p2l, l2p, count, _ = case(golden, number)
    results = eplb.rebalance_experts(weight.astype(dtype), *args, solver="greedy")
    np.testing.assert_array_equal(results[0], p2l)
    assert results[1].shape == l2p.shape
    np.testing.assert_array_equal(np.sort(results[1]), np.sort(l2p))
    np.testing.assert_array_equal(results[2], count)


@pytest.mark.parametrize("number", CASES)
def test_golden_balancedness(golden, number):
    (slots, groups, nodes, gpus), weight, p2l, *_, balancedness = case(golden, number)
    cluster = Cluster(gpus, nodes, num_slots=slots)
    place = Placement(p2l, cluster, weight.shape[1])
    np.testing.assert_allclose(place.balancedness(weight), balancedness, rtol=1e-6)
    if groups % nodes == 0:
        plan = solve(weight, cluster, num_groups=groups, solver="greedy")
        assert plan.placement == place
        np.testing.assert_allclose(plan.balancedness, balancedness, rtol=1e-6)


@pytest.mark.parametrize("number", CASES)
def test_the_default_is_as_good_without_duplicates(golden, number):
    """As good as the published plan of a layer, where that has no duplicates either."""
    args, weight, published, *_, balancedness = case(golden, number)
    slots, _, nodes, gpus = args
    cluster = Cluster(gpus, nodes, num_slots=slots)
    place = Placement(eplb.rebalance_experts(weight, *args)[0], cluster, weight.shape[1])
    assert not place.duplicates.any()
    fair = Placement(published, cluster, weight.shape[1]).duplicates == 0
    assert (place.balancedness(weight)[fair] >= balancedness[fair] * 0.999).all()


# --- the interface -------------------------------------------------------------------------------


def test_names_of_functions_and_arguments():
    expected = {
        "rebalance_experts": ["weight", "num_replicas", "num_groups", "num_nodes", "num_gpus"],
        "replicate_experts": ["weight", "num_phy"],
        "balanced_packing": ["weight", "num_packs"],
    }
    assert set(eplb.__all__) == set(expected)
    for name, arguments in expected.items():
        parameters = inspect.signature(getattr(eplb, name)).parameters
        needed = [p.name for p in parameters.values() if p.default is p.empty]
        assert needed == arguments


def test_arguments_by_keyword():
    by_keyword = eplb.rebalance_experts(
        weight=LOAD, num_replicas=16, num_groups=4, num_nodes=2, num_gpus=8
    )
    for left, right in zip(by_keyword, eplb.rebalance_experts(LOAD, 16, 4, 2, 8), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("solver", ["auto", *solver_names()])
@pytest.mark.parametrize("numbers", [(16, 4, 2, 8), (16, 3, 2, 8), (12, 1, 1, 4), (24, 12, 4, 4)])
def test_shapes_dtypes_padding(kind, solver, numbers):
    weight = LOAD if kind == "array" else pytest.importorskip("torch").tensor(LOAD)
    results = eplb.rebalance_experts(weight, *numbers, solver=solver)
    assert all(type(part) is type(weight) for part in results)
    p2l, l2p, count = map(np.asarray, results)
    assert p2l.dtype == l2p.dtype == count.dtype == np.int64
    assert p2l.shape == (3, numbers[0])
    assert count.shape == (3, 12)
    assert l2p.shape == (3, 12, count.max())
    assert (count >= 1).all()
    for layer, expert in np.ndindex(3, 12):
        own = l2p[layer, expert]
        slots, padding = own[: count[layer, expert]], own[count[layer, expert] :]
        assert (padding == -1).all()
        assert sorted(slots) == np.flatnonzero(p2l[layer] == expert).tolist()


# --- hierarchical, or global ---------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
@pytest.mark.parametrize(("num_groups", "num_nodes"), [(2, 2), (4, 2), (6, 2), (4, 4), (12, 4)])
def test_groups_that_divide_over_the_nodes_stay_whole(solver, num_groups, num_nodes):
    p2l, _, _ = eplb.rebalance_experts(LOAD, 16, num_groups, num_nodes, 8, solver=solver)
    for nodes in rows_of_groups(p2l, num_nodes, 12 // num_groups):
        assert {len(groups) for groups in nodes} == {num_groups // num_nodes}
        assert set.union(*nodes) == set(range(num_groups))


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
@pytest.mark.parametrize(
    ("num_groups", "num_nodes"), [(1, 2), (3, 2), (3, 4), (6, 4), (5, 2), (7, 4), (4, 3), (2, 5)]
)
def test_else_the_policy_is_global(solver, num_groups, num_nodes):
    """As published, neither groups nor nodes are looked at then: 5 does not divide 12 experts."""
    results = eplb.rebalance_experts(LOAD, 16, num_groups, num_nodes, 8, solver=solver)
    everywhere = eplb.rebalance_experts(LOAD, 16, 1, 1, 8, solver=solver)
    for left, right in zip(results, everywhere, strict=True):
        np.testing.assert_array_equal(left, right)


def test_nodes_that_do_not_divide_the_gpus():
    """DeepSeek's module (EPLB, 2025) plans this one by its global policy: 3 % 2 is not 0."""
    weight = np.random.default_rng(24).integers(1, 99, (2, 24))
    p2l, _, count = eplb.rebalance_experts(weight, 27, 3, 2, 3)
    assert p2l.shape == (2, 27)
    assert (count >= 1).all()
    with pytest.raises(ValueError, match=r"^num_gpus=3 is not a multiple of num_nodes=2; use 2 or"):
        eplb.rebalance_experts(weight, 27, 4, 2, 3)


# --- replicas ------------------------------------------------------------------------------------


def replicate_plainly(weight, num_phy):
    """One row: the next replica for the largest share, of equals the first."""
    expert, rank, count = list(range(len(weight))), [0] * len(weight), [1] * len(weight)
    while len(expert) < num_phy:
        shares = [np.float32(w) / np.float32(c) for w, c in zip(weight, count, strict=True)]
        e = shares.index(max(shares))
        expert.append(e)
        rank.append(count[e])
        count[e] += 1
    return expert, rank, count


@settings(max_examples=60, deadline=None)
@given(
    weight=st.lists(
        st.lists(st.integers(0, 9) | st.floats(0, 1e6, width=32), min_size=5, max_size=5),
        min_size=1,
        max_size=4,
    ),
    spare=st.integers(0, 12),
)
def test_replicate_experts(weight, spare):
    results = eplb.replicate_experts(weight, 5 + spare)
    expected = zip(*(replicate_plainly(row, 5 + spare) for row in weight), strict=True)
    for result, rows in zip(results, expected, strict=True):
        assert result.dtype == np.int64
        assert result.tolist() == list(rows)


def test_replicate_experts_of_a_tensor():
    torch = pytest.importorskip("torch")
    results = eplb.replicate_experts(torch.tensor(LOAD), 20)
    for result, expected in zip(results, eplb.replicate_experts(LOAD, 20), strict=True):
        assert result.dtype == torch.int64
        np.testing.assert_array_equal(result.numpy(), expected)
