"""What must work: every kind of array, legal shape and size of load; and what comes back."""

import subprocess
import sys

import numpy as np
import pytest

from evenload import Cluster, Placement, eplb, solve
from evenload.solvers import solver_names

CLUSTER = Cluster(4, num_nodes=2, slots_per_gpu=3)
# Whole numbers up to 15: every dtype down to float8 holds them exactly.
LOAD = np.random.default_rng(5).integers(0, 16, (3, 8)).astype(np.float64)
PLAN = solve(LOAD, CLUSTER, num_groups=2)
PACKED = eplb.balanced_packing(LOAD, 4)
DOUBLED = eplb.replicate_experts(LOAD, 12)

NUMPY_DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "longlong", "ulonglong"]
NUMPY_DTYPES += ["f2", "f4", "f8", "longdouble", ">f4", ">f8", ">i4", ">u2"]
TORCH_DTYPES = ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
TORCH_DTYPES += ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn"]


def as_numpy(value):
    return value if isinstance(value, np.ndarray) else value.numpy()


def assert_same(results, expected):
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(as_numpy(result), right)


def assert_taken(load):
    """Every function that takes loads must see in `load` the numbers of LOAD."""
    plan = solve(load, CLUSTER, num_groups=2)
    assert plan.placement == PLAN.placement
    assert_same([plan.balancedness], [PLAN.balancedness])
    assert_same([PLAN.placement.gpu_load(load)], [PLAN.placement.gpu_load(LOAD)])
    assert_same(eplb.rebalance_experts(load, 12, 2, 2, 4)[:1], [PLAN.placement.physical_to_logical])
    assert_same(eplb.balanced_packing(load, 4), PACKED)
    assert_same(eplb.replicate_experts(load, 12), DOUBLED)


def assert_every_expert_placed(placement):
    experts = np.sort(as_numpy(placement.physical_to_logical), axis=1)
    assert (as_numpy(placement.replica_count) >= 1).all()
    for row in experts:
        np.testing.assert_array_equal(np.unique(row), np.arange(placement.num_experts))


# --- kinds of arrays ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_numpy_dtypes(dtype):
    load = LOAD.astype(dtype)
    assert_taken(load)
    pytest.importorskip("torch")
    assert_same(eplb.balanced_packing(load, 4, backend="torch"), PACKED)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_torch_dtypes(dtype):
    torch = pytest.importorskip("torch")
    load = torch.tensor(LOAD).to(getattr(torch, dtype))
    assert_taken(load)
    assert_same(eplb.balanced_packing(load, 4, backend="torch"), PACKED)


def test_integers_up_to_2_53():
    load = np.array([[2**53, 2**53 - 1, 1, 0]])
    plan = solve(load, Cluster(2, slots_per_gpu=2))
    assert plan.placement.gpu_load(load).max() == 2**53
    assert_every_expert_placed(plan.placement)


def test_lists_and_tuples():
    assert_taken(LOAD.tolist())
    assert_taken(tuple(map(tuple, LOAD.astype(int).tolist())))
    assert_taken([*LOAD])


def test_numpy_layouts():
    wide = np.zeros((6, 16))
    wide[::2, ::2] = LOAD
    assert_taken(wide[::2, ::2])
    assert_taken(np.asfortranarray(LOAD))
    assert_taken(LOAD[::-1, ::-1].copy()[::-1, ::-1])
    unaligned = np.frombuffer(b"x" + LOAD.tobytes(), np.uint8)[1:].view(np.float64).reshape(3, 8)
    assert not unaligned.flags.aligned
    assert_taken(unaligned)
    assert_taken(np.frombuffer(LOAD.tobytes()).reshape(3, 8))  # read-only


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_read_only_arrays(dtype):
    """Entries are compiled for one kind of array each, and refuse others."""
    load = LOAD.astype(dtype)
    assert_taken(load)
    load.setflags(write=False)
    assert_taken(load)
    assert not load.flags.writeable


def test_expanded_arrays():
    row = LOAD[1]
    expected = solve(np.tile(row, (5, 1)), CLUSTER).placement
    assert solve(np.broadcast_to(row, (5, 8)), CLUSTER).placement == expected
    torch = pytest.importorskip("torch")
    assert solve(torch.tensor(row).expand(5, 8), CLUSTER).placement == expected
    packed = eplb.balanced_packing(np.tile(row, (5, 1)), 4)
    assert_same(eplb.balanced_packing(torch.tensor(row).expand(5, 8), 4), packed)
    assert_same(eplb.balanced_packing(np.broadcast_to(row, (5, 8)), 4, backend="torch"), packed)


def test_tensor_layouts():
    torch = pytest.importorskip("torch")
    load = torch.tensor(LOAD)
    assert_taken(load.t().contiguous().t())
    assert_taken(load.repeat_interleave(2, 1)[:, ::2])
    assert_taken(load.clone().requires_grad_())
    assert_taken(load.clone().requires_grad_() * 1.0)
    assert_taken(torch.complex(load, -load).conj().imag)  # negated lazily
    assert_taken([*load])
    with torch.inference_mode():
        assert_taken(load.clone())


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "list", "tensor"])
def test_one_layer(kind):
    row = LOAD[0]
    if kind == "tensor":
        row = pytest.importorskip("torch").tensor(row)
    plan = solve(row.tolist() if kind == "list" else row, CLUSTER)
    assert plan.placement == solve(LOAD[:1], CLUSTER).placement
    assert tuple(plan.balancedness.shape) == (1,)
    assert tuple(plan.placement.physical_to_logical.shape) == (1, 12)
    assert tuple(eplb.rebalance_experts(row, 12, 1, 1, 4)[2].shape) == (1, 8)


@pytest.mark.parametrize("solver", solver_names())
@pytest.mark.parametrize(
    ("num_experts", "cluster", "duplicates"),
    [
        (1, Cluster(1, slots_per_gpu=1), 0),
        (1, Cluster(4, slots_per_gpu=1), 0),
        (1, Cluster(2, slots_per_gpu=3), 4),
        (5, Cluster(1, slots_per_gpu=5), 0),
        (5, Cluster(1, slots_per_gpu=7), 2),
        (4, Cluster(4, slots_per_gpu=1), 0),
        (4, Cluster(6, slots_per_gpu=1), 0),
        (6, Cluster(4, slots_per_gpu=2), 0),
        (8, Cluster(4, slots_per_gpu=2), 0),
        (3, Cluster(2, slots_per_gpu=4), 2),
    ],
)
def test_small_shapes(solver, num_experts, cluster, duplicates):
    load = np.random.default_rng(1).integers(1, 100, (2, num_experts))
    plan = solve(load, cluster, solver=solver)
    assert_every_expert_placed(plan.placement)
    assert (plan.balancedness <= plan.bound).all()
    if solver != "greedy":  # which is faithful to a planner that makes more
        np.testing.assert_array_equal(plan.duplicates, [duplicates] * 2)


def test_one_slot_a_gpu_is_as_good_as_can_be():
    plan = solve([[8, 4, 2, 1]], Cluster(6, slots_per_gpu=1))
    assert plan.balancedness == pytest.approx([15 / 6 / 4], rel=1e-12)
    assert plan.gap == pytest.approx([0.0], abs=1e-6)
    np.testing.assert_array_equal(plan.placement.replica_count, [[3, 1, 1, 1]])


def test_two_slots_a_gpu():
    plan = solve([[9, 7, 5, 4, 3, 1]], Cluster(3, slots_per_gpu=2))
    np.testing.assert_array_equal(
        np.sort(plan.placement.gpu_load([[9, 7, 5, 4, 3, 1]])), [[9, 10, 10]]
    )


# --- what cannot be had is said -----------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
def test_more_slots_than_experts_on_every_gpu(solver):
    plan = solve(LOAD[:, :4], Cluster(3, slots_per_gpu=6), solver=solver)
    assert_every_expert_placed(plan.placement)
    note = (
        "6 duplicates per layer cannot be avoided: 12 slots hold every expert once on each GPU "
        "that "
        "may have it, and there are 18"
    )
    assert plan.notes == (note,)
    assert f"note            {note}" in plan.summary()
    if solver != "greedy":
        np.testing.assert_array_equal(plan.duplicates, [6, 6, 6])
        np.testing.assert_allclose(plan.balancedness, 1.0, rtol=1e-12)


def test_more_slots_than_experts_on_every_gpu_of_a_node():
    plan = solve(LOAD, Cluster(4, 2, slots_per_gpu=5), num_groups=2)
    assert plan.notes == (
        "4 duplicates per layer cannot be avoided: 16 slots hold every expert once on each GPU "
        "that "
        "may have it, and there are 20",
    )
    np.testing.assert_array_equal(plan.duplicates, [4, 4, 4])


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
def test_groups_that_do_not_divide_over_the_nodes(solver):
    load, cluster = LOAD[:, :6], Cluster(4, num_nodes=2, slots_per_gpu=2)
    plan = solve(load, cluster, num_groups=3, solver=solver)
    assert plan.notes == (
        "groups ignored: num_groups=3 is not a multiple of num_nodes=2, so they cannot be spread "
        "evenly over the nodes",
    )
    assert plan.placement == solve(load, Cluster(4, 2, 2), solver=solver).placement


def test_groups_that_divide_stay_on_a_node():
    plan = solve(LOAD, CLUSTER, num_groups=4)
    assert plan.notes == ()
    groups = plan.placement.physical_to_logical.reshape(3, 2, 6) // 2
    for first, second in groups:
        assert len(set(first)) == len(set(second)) == 2
        assert not set(first) & set(second)


# --- sizes of loads -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
@pytest.mark.parametrize("num_groups", [1, 4])
def test_layers_without_load(solver, num_groups):
    load = np.zeros((4, 8))
    load[1] = LOAD[1]
    load[3, 5] = 7
    plan = solve(load, CLUSTER, num_groups=num_groups, solver=solver)
    assert_every_expert_placed(plan.placement)
    np.testing.assert_array_equal(plan.balancedness[[0, 2]], [1.0, 1.0])
    np.testing.assert_array_equal(plan.bound[[0, 2]], [1.0, 1.0])
    assert (plan.balancedness[[1, 3]] > 0).all()
    alone = solve(load[1:2], CLUSTER, num_groups=num_groups, solver=solver)
    np.testing.assert_array_equal(alone.balancedness, plan.balancedness[1:2])


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
def test_no_load_at_all(solver):
    for load in (np.zeros((2, 8)), np.zeros(8, np.int32)):
        plan = solve(load, CLUSTER, solver=solver)
        assert_every_expert_placed(plan.placement)
        assert (plan.balancedness == 1.0).all()
        assert (plan.bound == 1.0).all()
        assert plan.straggler_time == 1.0
        if solver != "greedy":
            assert not plan.duplicates.any()


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_packing_nothing(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    index, rank = eplb.balanced_packing(np.zeros((2, 6)), 3, backend=backend)
    np.testing.assert_array_equal(index, [[0, 0, 1, 1, 2, 2]] * 2)
    np.testing.assert_array_equal(rank, [[0, 1, 0, 1, 0, 1]] * 2)


@pytest.mark.parametrize("solver", ["auto", *solver_names()])
@pytest.mark.parametrize("num_groups", [1, 4])
@pytest.mark.parametrize("scale", [1e300, 1e-300, 2.0**1019, 2.0**-1074])
def test_huge_and_tiny_loads(solver, num_groups, scale):
    """The plan of a load does not depend on its unit."""
    load = np.random.default_rng(2).integers(1, 16, (4, 8)).astype(np.float64)
    with np.errstate(all="raise", under="ignore"):
        plan = solve(load * scale, CLUSTER, num_groups=num_groups, solver=solver)
    expected = solve(load, CLUSTER, num_groups=num_groups, solver=solver)
    assert plan.placement == expected.placement
    np.testing.assert_allclose(plan.balancedness, expected.balancedness, rtol=1e-9)
    np.testing.assert_allclose(plan.bound, expected.bound, rtol=1e-6)
    assert plan.straggler_time == pytest.approx(expected.straggler_time, rel=1e-9)
    reached = plan.placement.balancedness(load * scale)
    np.testing.assert_allclose(reached, expected.balancedness, rtol=1e-9)


def test_huge_beside_tiny_layers():
    load = LOAD + 1.0
    plan = solve(load * np.array([[1e300], [1.0], [1e-300]]), CLUSTER)
    np.testing.assert_allclose(plan.balancedness, solve(load, CLUSTER).balancedness, rtol=1e-9)


@pytest.mark.parametrize("exponent", [1000, -1000])
def test_packing_and_replicating_huge_and_tiny_weights(exponent):
    scale = 2.0**exponent
    assert_same(eplb.balanced_packing(LOAD * scale, 4), PACKED)
    assert_same(eplb.replicate_experts(LOAD * scale, 12), DOUBLED)


# --- what comes back ----------------------------------------------------------------------------


def outputs(load):
    """Everything array-like that the interface hands out for a load, by name."""
    plan = solve(load, CLUSTER, num_groups=2)
    place = plan.placement
    trivial = Placement.trivial(3, 8, CLUSTER)
    parts = {
        **{name: getattr(plan, name) for name in ("balancedness", "bound", "gap", "duplicates")},
        "physical_to_logical": place.physical_to_logical,
        "logical_to_physical": place.logical_to_physical,
        "replica_count": place.replica_count,
        "placement.duplicates": place.duplicates,
        "moves_from": place.moves_from(trivial),
        "gpu_load": place.gpu_load(load),
        "placement.balancedness": place.balancedness(load),
        "split": place.split(load),
        "gpu_load-split": place.gpu_load(load, place.split(load)),
        "balancedness-split": place.balancedness(load, place.split(load)),
    }
    for name, result in (
        ("rebalance", eplb.rebalance_experts(load, 12, 2, 2, 4)),
        ("replicate", eplb.replicate_experts(load, 12)),
        ("packing", eplb.balanced_packing(load, 4)),
        ("packing-one", eplb.balanced_packing(load, 8)),
    ):
        parts |= {f"{name}[{i}]": part for i, part in enumerate(result)}
    return parts


FLOATS = ("balancedness", "bound", "gap", "gpu_load", "placement.balancedness", "split")
FLOATS += ("gpu_load-split", "balancedness-split")


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_numpy_in_numpy_out(dtype):
    load = LOAD.astype(dtype)
    for name, part in outputs(load).items():
        assert type(part) is np.ndarray, name
        assert part.dtype == (np.float64 if name in FLOATS else np.int64), name
        assert not np.shares_memory(part, load), name


@pytest.mark.parametrize("dtype", ["int64", "bfloat16", "float32", "float64"])
def test_tensor_in_tensors_out(dtype):
    torch = pytest.importorskip("torch")
    load = torch.tensor(LOAD).to(getattr(torch, dtype))
    kept = load.clone()
    expected = outputs(LOAD)
    for name, part in outputs(load).items():
        assert isinstance(part, torch.Tensor), name
        assert part.device == load.device, name
        assert part.dtype == (torch.float64 if name in FLOATS else torch.int64), name
        np.testing.assert_array_equal(part.numpy(), expected[name], err_msg=name)
        part.fill_(77)
        assert torch.equal(load, kept), name


def test_tensors_return_to_their_device():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    load = torch.tensor(LOAD, device="cuda")
    for name, part in outputs(load).items():
        assert part.device == load.device, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_input_is_never_modified(dtype):
    load = LOAD.astype(dtype)
    before = load.tobytes()
    outputs(load)
    for solver in solver_names():
        for num_groups in (1, 2):
            solve(load, CLUSTER, num_groups=num_groups, solver=solver)
    assert load.tobytes() == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_input_is_never_modified_by_the_torch_backend(dtype):
    torch = pytest.importorskip("torch")
    load = LOAD.astype(dtype)
    eplb.balanced_packing(load, 4, backend="torch")
    eplb.balanced_packing(torch.from_numpy(load), 4, backend="torch")
    np.testing.assert_array_equal(load, LOAD)


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_results_of_eplb_are_the_callers_own(kind):
    load = LOAD if kind == "array" else pytest.importorskip("torch").tensor(LOAD)
    for call in (
        lambda: eplb.rebalance_experts(load, 12, 2, 2, 4),
        lambda: eplb.replicate_experts(load, 12),
        lambda: eplb.balanced_packing(load, 4),
        lambda: eplb.balanced_packing(load, 8),
    ):
        first, kept = call(), [as_numpy(part).copy() for part in call()]
        for part in first:
            part[:] = -5
        assert_same(call(), kept)
        for part in first:
            part[0] = 9  # rows own their memory
            assert (as_numpy(part)[1:] == -5).all()


# --- what is imported ---------------------------------------------------------------------------


def in_a_new_process(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_import_alone_loads_nothing_heavy():
    heavy = "'numpy', 'numba', 'torch', 'matplotlib', 'typer', 'rich'"
    code = f"import sys, evenload; print([m for m in [{heavy}] if m in sys.modules])"
    result = in_a_new_process(code)
    assert result.stdout == "[]\n", result.stderr


def test_numpy_only_use_does_not_import_torch():
    code = """
import sys
import numpy as np
import evenload
import evenload.eplb as eplb
load = np.arange(1, 17.0).reshape(2, 8)
cluster = evenload.Cluster(2, slots_per_gpu=5)
plan = evenload.solve(load, cluster)
plan.summary(), plan.placement.logical_to_physical, plan.placement.duplicates
plan.placement.moves_from(evenload.Placement.trivial(2, 8, cluster))
plan.placement.balancedness(load, plan.placement.split(load))
eplb.rebalance_experts(load, 10, 1, 1, 2, solver="greedy")
eplb.replicate_experts(load, 10), eplb.balanced_packing(load, 2)
print([m for m in ("torch", "matplotlib", "typer", "rich") if m in sys.modules])
"""
    result = in_a_new_process(code)
    assert result.stdout == "[]\n", result.stderr
