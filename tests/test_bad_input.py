"""What may not be passed to the Python interface, and the exact words that say so."""

import re

import numpy as np
import pytest

from evenload import Cluster, Placement, eplb, solve
from evenload.sizing import advise, clusters_to_try
from evenload.threads import num_threads

CLUSTER = Cluster(2, slots_per_gpu=3)
PLACEMENT = Placement([[0, 1, 2, 3, 0, 1]], CLUSTER, 4)
LOAD = np.array([[9.0, 5.0, 3.0, 1.0]])
BIG = 2**63


def pack(weight, num_packs=2, **options):
    return eplb.balanced_packing(weight, num_packs, **options)


def pack_by_torch(weight, num_packs=2, **options):
    pytest.importorskip("torch")
    return eplb.balanced_packing(weight, num_packs, backend="torch", **options)


# Everything that takes loads [1, 4], by the name that it gives them.
TAKERS = [
    pytest.param("load", lambda load: solve(load, CLUSTER), id="solve"),
    pytest.param("load", PLACEMENT.gpu_load, id="gpu_load"),
    pytest.param("load", PLACEMENT.balancedness, id="balancedness"),
    pytest.param("weight", lambda w: eplb.rebalance_experts(w, 6, 1, 1, 2), id="rebalance"),
    pytest.param("weight", lambda w: eplb.replicate_experts(w, 6), id="replicate"),
    pytest.param("weight", pack, id="packing"),
    pytest.param("weight", pack_by_torch, id="packing-torch"),
]
takers = pytest.mark.parametrize(("name", "take"), TAKERS)


def fails(message, call, *args, **options):
    """The call must raise a ValueError with exactly this message."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(*args, **options)


def with_bad(value, dtype=np.float64):
    load = LOAD.astype(dtype)
    load[0, 2] = value
    return load


# --- values of loads ----------------------------------------------------------------------------


@takers
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1.0"])
def test_not_a_finite_number_from_zero(name, take, value, dtype):
    fails(
        f"{name}[0, 2]={value} is not a finite number >= 0; use 0 or more",
        take,
        with_bad(float(value), dtype),
    )


@takers
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1.0"])
def test_not_a_finite_number_in_a_tensor(name, take, value, dtype):
    torch = pytest.importorskip("torch")
    fails(
        f"{name}[0, 2]={value} is not a finite number >= 0; use 0 or more",
        take,
        torch.tensor(with_bad(float(value)), dtype=getattr(torch, dtype)),
    )


@takers
def test_negative_integers(name, take):
    fails(
        f"{name}[0, 2]=-7 is not a finite number >= 0; use 0 or more", take, with_bad(-7, np.int64)
    )
    exact = -(2**53) - 1
    fails(
        f"{name}[0, 2]={exact} is not a finite number >= 0; use 0 or more",
        take,
        with_bad(exact, np.int64),
    )


@takers
def test_the_first_bad_value_is_named(name, take):
    fails(
        f"{name}[0, 1]=nan is not a finite number >= 0; use 0 or more",
        take,
        [[1.0, np.nan, -1.0, np.inf]],
    )


@pytest.mark.parametrize("take", [lambda load: solve(load, CLUSTER), PLACEMENT.gpu_load])
def test_one_layer_is_named_by_one_index(take):
    fails("load[2]=nan is not a finite number >= 0; use 0 or more", take, with_bad(np.nan)[0])


@takers
@pytest.mark.parametrize(
    ("value", "dtype"), [(2**53 + 1, np.int64), (2**63 - 1, np.int64), (2**64 - 1, np.uint64)]
)
def test_integers_that_float64_does_not_hold(name, take, value, dtype):
    fails(
        f"{name}[0, 2]={value} is past 2**53=9007199254740992, up to which float64 holds every "
        "integer; use at most that, or a floating dtype",
        take,
        with_bad(value, dtype),
    )


@takers
def test_integers_past_2_53_in_a_tensor(name, take):
    torch = pytest.importorskip("torch")
    fails(
        f"{name}[0, 0]=9007199254740993 is past 2**53=9007199254740992, up to which float64 holds "
        "every integer; use at most that, or a floating dtype",
        take,
        torch.tensor([[2**53 + 1, 1, 1, 1]]),
    )


@takers
@pytest.mark.skipif(np.finfo(np.longdouble).maxexp <= 1024, reason="long double is double here")
def test_long_doubles_that_float64_does_not_hold(name, take):
    largest = np.finfo(np.longdouble).max
    fails(
        f"{name}[0, 2]={largest} is not a finite number >= 0; use 0 or more",
        take,
        with_bad(largest, np.longdouble),
    )


# --- dtypes and kinds of loads ------------------------------------------------------------------


@takers
@pytest.mark.parametrize(
    ("load", "dtype"),
    [
        ([[True, False, True, True]], "bool"),
        (LOAD + 1j, "complex128"),
        (LOAD.astype(object), "object"),
        ([[2**70, 1, 1, 1]], "object"),
        ([[None, 1, 1, 1]], "object"),
        ([["9", "5", "3", "1"]], "<U1"),
        (np.array([[b"9", b"5", b"3", b"1"]]), "|S1"),
        (np.ones((1, 4), "datetime64[D]"), "datetime64[D]"),
        (np.ones((1, 4), "timedelta64[s]"), "timedelta64[s]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_dtypes_that_are_no_numbers(name, take, load, dtype):
    fails(
        f"{name} has dtype {dtype}; use an integer or floating dtype (tokens per expert)",
        *(take, load),
    )


@takers
@pytest.mark.parametrize("dtype", ["bool", "complex64"])
def test_dtypes_of_tensors_that_are_no_numbers(name, take, dtype):
    torch = pytest.importorskip("torch")
    fails(
        f"{name} has dtype {dtype}; use an integer or floating dtype (tokens per expert)",
        take,
        torch.ones(1, 4, dtype=getattr(torch, dtype)),
    )


@takers
def test_tensors_without_an_array_behind_them(name, take):
    torch = pytest.importorskip("torch")
    words = "which no array can be made of; use a dense tensor that holds numbers"
    sparse, meta = torch.ones(1, 4).to_sparse(), torch.ones(1, 4, device="meta")
    fails(f"{name} is a tensor of torch.sparse_coo, torch.float32 on cpu, {words}", take, sparse)
    fails(f"{name} is a tensor of torch.strided, torch.float32 on meta, {words}", take, meta)


@takers
def test_masked_arrays(name, take):
    fails(
        f"{name} is a masked array; fill its gaps first, e.g. {name}.filled(0)",
        take,
        np.ma.masked_array(LOAD, mask=[[0, 0, 1, 0]]),
    )


@takers
def test_ragged_lists(name, take):
    message = f"^{name} is not one rectangular array of numbers; use rows of equal length "
    with pytest.raises(ValueError, match=message):
        take([[1, 2], [3]])


@takers
def test_lists_of_tensors_that_require_grad(name, take):
    torch = pytest.importorskip("torch")
    message = rf"^{name} is not one rectangular array of numbers; .*detach\(\)"
    with pytest.raises(ValueError, match=message):
        take([torch.ones(4, requires_grad=True)])


# --- shapes of loads ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1, 1, 4), (1, 1, 1, 4)])
def test_wrong_number_of_dimensions(shape):
    load, n = np.ones(shape), len(shape)
    use = "use [layers, experts] or [experts] (sum a trace over its windows first)"
    if n != 3:  # that is a trace
        fails(f"load has {n} dimensions {shape}; {use}", solve, load, CLUSTER)
    fails(f"load has {n} dimensions {shape}; {use}", PLACEMENT.gpu_load, load)
    fails(f"weight has {n} dimensions {shape}; {use}", eplb.rebalance_experts, load, 6, 1, 1, 2)


@pytest.mark.parametrize("shape", [(), (4,), (1, 1, 4)])
def test_wrong_number_of_dimensions_of_rows(shape):
    weight = np.ones(shape)
    for call in (pack, pack_by_torch):
        fails(f"weight has {len(shape)} dimensions {shape}; use [rows, items]", call, weight)
    fails(
        f"weight has shape {shape}; use [rows, experts], at least 1 of each",
        eplb.replicate_experts,
        weight,
        6,
    )


@pytest.mark.parametrize(
    ("shape", "nothing"), [((0, 4), "layers"), ((1, 0), "experts"), ((0,), "experts")]
)
def test_no_layers_no_experts(shape, nothing):
    load = np.ones(shape)
    fails(f"load has 0 {nothing} {shape}; use at least 1", solve, load, CLUSTER)
    fails(
        f"weight has 0 {nothing} {shape}; use at least 1",
        eplb.rebalance_experts,
        load,
        6,
        1,
        1,
        2,
    )


@pytest.mark.parametrize("shape", [(0, 4), (1, 0), (0, 0)])
def test_no_rows_no_items(shape):
    weight = np.ones(shape)
    for call in (pack, pack_by_torch):
        message = f"weight has shape {shape}; use at least one row and one item"
        fails(message, call, weight)
    fails(
        f"weight has shape {shape}; use [rows, experts], at least 1 of each",
        eplb.replicate_experts,
        weight,
        6,
    )


def test_empty_lists():
    fails("load has 0 experts (0,); use at least 1", solve, [], CLUSTER)
    fails("load has 0 experts (1, 0); use at least 1", solve, [[]], CLUSTER)


def test_a_load_of_another_shape_than_the_placement():
    for call in (PLACEMENT.gpu_load, PLACEMENT.balancedness):
        fails(
            "load has shape (2, 4), and the placement is for [layers, experts] (1, 4); use a load "
            "of that shape",
            call,
            np.ones((2, 4)),
        )


# --- whole numbers ------------------------------------------------------------------------------

ONES = np.ones((1, 4))
WHOLE_NUMBERS = [
    ("num_gpus", 1, lambda n: Cluster(n, slots_per_gpu=3)),
    ("num_nodes", 1, lambda n: Cluster(4, n, slots_per_gpu=3)),
    ("slots_per_gpu", 1, lambda n: Cluster(2, 1, n)),
    ("num_slots", 1, lambda n: Cluster(1, num_slots=n)),
    ("slots[1]", 1, lambda n: Cluster(2, slots=[3, n])),
    ("num_gpus", 1, lambda n: Cluster.smallest_for(4, n)),
    ("num_experts", 1, lambda n: Cluster.smallest_for(n, 4)),
    ("num_groups", 1, lambda n: solve(ONES, CLUSTER, num_groups=n)),
    ("num_experts", 1, lambda n: Placement([0, 1, 2, 0, 1, 2], CLUSTER, n)),
    ("num_experts", 1, lambda n: Placement.trivial(1, n, CLUSTER)),
    ("num_layers", 1, lambda n: Placement.trivial(n, 4, CLUSTER)),
    ("num_replicas", 1, lambda n: eplb.rebalance_experts(ONES, n, 1, 1, 2)),
    ("num_groups", 1, lambda n: eplb.rebalance_experts(ONES, 6, n, 1, 2)),
    ("num_nodes", 1, lambda n: eplb.rebalance_experts(ONES, 6, 1, n, 2)),
    ("num_gpus", 1, lambda n: eplb.rebalance_experts(ONES, 6, 1, 1, n)),
    ("num_phy", 1, lambda n: eplb.replicate_experts(ONES, n)),
    ("num_packs", 1, lambda n: pack(ONES, n)),
    ("num_packs", 1, lambda n: pack_by_torch(ONES, n)),
    ("num_attempts", 1, lambda n: eplb.balanced_packing(ONES, 2, n)),
    ("num_attempts", 1, lambda n: pack_by_torch(ONES, num_attempts=n)),
    ("max_swaps", 0, lambda n: pack(ONES, max_swaps=n)),
    ("max_swaps", 0, lambda n: pack_by_torch(ONES, max_swaps=n)),
    ("num_attempts", 1, lambda n: solve(ONES, CLUSTER, solver="iterated-greedy", num_attempts=n)),
    ("max_swaps", 0, lambda n: solve(ONES, CLUSTER, solver="iterated-greedy", max_swaps=n)),
    ("effort", 0, lambda n: solve(ONES, CLUSTER, solver="local-search", effort=n)),
]


@pytest.mark.parametrize(("name", "least", "call"), WHOLE_NUMBERS)
def test_whole_numbers(name, least, call):
    for value in (least - 1, -5):
        fails(f"{name}={value} is less than {least}; use {least} or more", call, value)
    for value in (2.0, "2", True, np.float64(2), np.bool_(True), float("nan"), [2], 1j):
        message = f"{name}={value!r} is not an integer; use an integer of at least {least}"
        fails(message, call, value)
    most = rf"^{re.escape(name)}={BIG} is more than .*; use \d+ or less$"
    with pytest.raises(ValueError, match=most):
        call(BIG)


MAY_BE_NONE = ("slots_per_gpu", "num_slots", "effort")


@pytest.mark.parametrize(
    ("name", "call"), [(name, call) for name, _, call in WHOLE_NUMBERS if name not in MAY_BE_NONE]
)
def test_none_is_no_whole_number(name, call):
    message = f"^{re.escape(name)}=None is not an integer; use an integer of at"
    with pytest.raises(ValueError, match=message):
        call(None)


def test_slots_are_given_once():
    words = "given; give exactly one"
    fails(f"slots_per_gpu, num_slots, slots: none {words}", Cluster, 2)
    names = "slots_per_gpu, num_slots, slots: "
    fails(f"{names}slots_per_gpu and num_slots {words}", Cluster, 2, 1, 3, num_slots=6)
    fails(f"{names}num_slots and slots {words}", Cluster, 2, num_slots=6, slots=[3, 3])
    fails(
        f"{names}slots_per_gpu and num_slots and slots {words}",
        *(Cluster, 2, 1, 3),
        num_slots=6,
        slots=[3, 3],
    )


# --- one entry for each GPU ---------------------------------------------------------------------


def of_cluster(name):
    """What makes a cluster of two GPUs with something said of each."""
    more = {} if name == "slots" else {"slots_per_gpu": 3}
    return lambda value: Cluster(2, **more, **{name: value})


for_each_gpu = pytest.mark.parametrize("name", ["slots", "speed", "alive"])


@for_each_gpu
@pytest.mark.parametrize("value", [3, 1.5, True, "12", {1: 2, 3: 4}, {1, 2}])
def test_no_sequence(name, value):
    message = f"{name}={value!r} is not a sequence; use one entry for each GPU"
    fails(message, of_cluster(name), value)


@for_each_gpu
def test_wrong_number_of_entries(name):
    for n in (0, 1, 3):
        message = f"{name} has {n} entries for num_gpus=2; use 2"
        fails(message, of_cluster(name), [True] * n)
        fails(message, of_cluster(name), np.ones(n))
    fails(f"{name} has 1 entries for num_gpus=2; use 2", of_cluster(name), np.array(3))


@pytest.mark.parametrize(
    ("name", "rule", "use", "too_small", "call"),
    [
        (
            "speed[1]",
            "is not finite and above 0; use e.g. 1.0",
            "a finite number above 0",
            0.0,
            lambda value: of_cluster("speed")([1.0, value]),
        ),
        (
            "cross_node_price",
            "is not finite and at least 0; use e.g. 0 or 1.0",
            "a finite number of at least 0",
            -1e-9,
            lambda value: solve(ONES, CLUSTER, cross_node_price=value),
        ),
    ],
)
def test_real_numbers(name, rule, use, too_small, call):
    for value in (too_small, -2.0, float("nan"), float("inf"), float("-inf")):
        fails(f"{name}={value} {rule}", call, value)
    fails(f"{name}=-3.0 {rule}", call, -3)
    for value in ("1", True, None, [1.0], 1j, np.bool_(True)):
        fails(f"{name}={value!r} is not a number; use {use}", call, value)
    huge = 10**400
    fails(f"{name}={huge} is past what a float holds; use {use}", call, huge)


def test_a_speed_next_to_nothing():
    fails(
        "speed[0]=0.5 is less than 1/1000 of the fastest GPU's 600.0; use 0.6 or more, or "
        "alive=False",
        of_cluster("speed"),
        [0.5, 600],
    )


@pytest.mark.parametrize("value", [1, 0, "yes", None, 1.0])
def test_alive_is_yes_or_no(value):
    fails(
        f"alive[1]={value!r} is not a bool; use True or False", of_cluster("alive"), [True, value]
    )


def test_no_gpu_is_alive():
    message = "alive: all 2 GPUs are dead; use True for 1 or more"
    fails(message, of_cluster("alive"), [False, False])
    fails(message, of_cluster("alive"), np.zeros(2, bool))


def test_slots_per_gpu_of_gpus_that_differ():
    fails(
        "slots_per_gpu: the GPUs have from 2 to 5 slots; use slots, which has one number for each",
        lambda: Cluster(3, slots=[2, 5, 4]).slots_per_gpu,
    )


# --- numbers that must fit each other -----------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            "num_slots=3 is fewer than num_gpus=32, and every GPU has one at least; use 32",
            lambda: Cluster(32, num_slots=3),
        ),
        ("num_gpus=7 is not a multiple of num_nodes=3; use 6 or 9", lambda: Cluster(7, 3, 1)),
        ("num_gpus=2 is not a multiple of num_nodes=4; use 4", lambda: Cluster(2, 4, 1)),
        (
            "cross_node_price=2.0 is for topology 'prefer', and the topology is 'strict'; use "
            "topology 'prefer', or a price of 1.0",
            lambda: solve(ONES, CLUSTER, num_groups=2, cross_node_price=2),
        ),
        (
            "cross_node_price=0.0 is for topology 'prefer', and the topology is 'ignore'; use "
            "topology 'prefer', or a price of 1.0",
            lambda: advise(ONES, clusters_to_try(12, 2), cross_node_price=0),
        ),
        (
            "num_replicas=13 is not a multiple of num_gpus=2; use 12 or 14",
            lambda: eplb.rebalance_experts(ONES, 13, 1, 1, 2),
        ),
        (
            "num_gpus=6 is not a multiple of num_nodes=4; use 4 or 8",
            lambda: eplb.rebalance_experts(ONES, 12, 4, 4, 6),
        ),
        (
            "num_groups=5 does not divide num_experts=12; use 4 or 6",
            lambda: solve(np.ones((1, 12)), Cluster(2, slots_per_gpu=6), num_groups=5),
        ),
        (
            "num_groups=50 does not divide num_experts=12; use 12",
            lambda: solve(np.ones(12), Cluster(2, 2, slots_per_gpu=6), num_groups=50),
        ),
        (
            "num_groups=6 does not divide num_experts=4; use 4",
            lambda: eplb.rebalance_experts(ONES, 6, 6, 2, 2),
        ),
        (
            "num_slots=10 is fewer than num_experts=12, and every expert needs a slot; use 12 or "
            "more",
            lambda: solve(np.ones((1, 12)), Cluster(5, num_slots=10)),
        ),
        (
            "num_replicas=10 is fewer than num_experts=12, and every expert needs a slot; use 15 "
            "or more",
            lambda: eplb.rebalance_experts(np.ones((1, 12)), 10, 1, 1, 5),
        ),
        (
            "num_phy=3 is fewer than the 4 experts; use 4 or more",
            lambda: eplb.replicate_experts(ONES, 3),
        ),
        (
            "num_slots=6 is fewer than num_experts=7, and every expert needs a slot; use 7 or more",
            lambda: Placement.trivial(1, 7, CLUSTER),
        ),
        (
            "num_slots: the 2 living of 3 GPUs have 6 slots for num_experts=9, and every expert "
            "needs one; use 3 or more slots more on them",
            lambda: solve(np.ones(9), Cluster(3, slots_per_gpu=3, alive=[True, False, True])),
        ),
        (
            "num_slots: the 1 living of 2 GPUs have 3 slots for num_experts=4, and every expert "
            "needs one; use 1 or more slots more on them",
            lambda: Placement.trivial(1, 4, Cluster(2, slots_per_gpu=3, alive=[False, True])),
        ),
        (
            "num_packs=5 does not divide the number of items=12; use 4 or 6",
            lambda: pack(np.ones((1, 12)), 5),
        ),
        (
            "num_packs=5 does not divide the number of items=12; use 4 or 6",
            lambda: pack_by_torch(np.ones((1, 12)), 5),
        ),
        (
            "num_packs=13 does not divide the number of items=12; use 12",
            lambda: pack(np.ones((1, 12)), 13),
        ),
    ],
)
def test_numbers_that_do_not_fit(message, call):
    fails(message, call)


# --- numbers that may be fractions --------------------------------------------------------------

TARGETS = [
    lambda value: pack(ONES, target=value),
    lambda value: pack_by_torch(ONES, target=value),
    lambda value: solve(ONES, CLUSTER, solver="iterated-greedy", target=value),
    lambda value: solve(ONES, CLUSTER, solver="local-search", target=value),
]
BOOSTS = [
    lambda value: pack(ONES, boost=value),
    lambda value: pack_by_torch(ONES, boost=value),
    lambda value: solve(ONES, CLUSTER, solver="iterated-greedy", boost=value),
]


@pytest.mark.parametrize("call", TARGETS)
def test_target(call):
    for value in (0.0, -1.0, float("nan"), float("-inf")):
        message = f"target={value} is outside (0, 1]; use a number just above 0, or None"
        fails(message, call, value)
    for value in (1.5, float("inf")):
        fails(f"target={value} is outside (0, 1]; use 1.0, or None", call, value)
    for value in ("0.9", True, [0.9], 1j):
        message = f"target={value!r} is not a number; use one above 0 and at most 1, or None"
        fails(message, call, value)


@pytest.mark.parametrize("call", BOOSTS)
def test_boost(call):
    for value in (0.999, 0.0, -2.0, float("-inf")):
        fails(f"boost={value} is not a number from 1 to 1e+09; use 1", call, value)
    for value in (1.1e9, 1e300, float("inf")):
        fails(f"boost={value} is not a number from 1 to 1e+09; use 1e+09", call, value)
    fails("boost=nan is not a number from 1 to 1e+09; use 1", call, float("nan"))
    for value in ("1.05", True, None, [1.05]):
        fails(f"boost={value!r} is not a number; use one from 1 to 1e+09", call, value)
    huge = 10**400
    message = f"boost={huge} is past what a float holds; use one from 1 to 1e+09"
    fails(message, call, huge)


# --- names and nouns ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba", "", 0, "Torch"])
def test_unknown_backend(backend):
    message = f"backend={backend!r} is unknown; use one of: compiled, torch"
    fails(message, pack, ONES, backend=backend)


@pytest.mark.parametrize("cluster", [32, None, (2, 1, 3)])
def test_something_else_than_a_cluster(cluster):
    message = f"cluster={cluster!r} is not a Cluster; use e.g. Cluster(8, slots_per_gpu=9)"
    fails(message, solve, LOAD, cluster)
    fails(message, Placement, [0, 1, 0, 1], cluster, 2)
    fails(message, Placement.trivial, 1, 4, cluster)


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5", "²"])
def test_number_of_threads(monkeypatch, value):
    monkeypatch.setenv("EVENLOAD_NUM_THREADS", value)
    num_threads.cache_clear()
    try:
        message = f"EVENLOAD_NUM_THREADS={value!r} is not a positive integer; use 1 or more"
        fails(message, num_threads)
    finally:
        num_threads.cache_clear()


# --- placements ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("physical_to_logical", "message"),
    [
        ([0, 1, 2, 3, 0, 4], "physical_to_logical[5]=4 is not an expert; use 0 to 3"),
        ([[0, 1, 2, 3, 0, -1]], "physical_to_logical[0, 5]=-1 is not an expert; use 0 to 3"),
        (
            np.array([0, 1, 2, 3, 0, 2**63], np.uint64),
            f"physical_to_logical[5]={2**63} is not an expert; use 0 to 3",
        ),
        (
            [0, 1, 2, 3, 0],
            "physical_to_logical has 5 slots per layer, and the cluster has num_slots=6; use 6",
        ),
        (
            [[0, 1, 2, 3, 0, 1], [0, 1, 1, 3, 0, 1]],
            "physical_to_logical: expert 2 has no slot in layer 1; give every expert at least one",
        ),
        (
            [0.0, 1.0, 2.0, 3.0, 0.0, 1.0],
            "physical_to_logical has dtype float64; use an integer dtype",
        ),
        ([True] * 6, "physical_to_logical has dtype bool; use an integer dtype"),
        (list("012301"), "physical_to_logical has dtype <U1; use an integer dtype"),
        (
            np.zeros((1, 1, 6), int),
            "physical_to_logical has shape (1, 1, 6); use [layers, slots], at least 1 of each",
        ),
        (3, "physical_to_logical has shape (); use [layers, slots], at least 1 of each"),
        ([], "physical_to_logical has shape (0,); use [layers, slots], at least 1 of each"),
        (
            np.zeros((0, 6), int),
            "physical_to_logical has shape (0, 6); use [layers, slots], at least 1 of each",
        ),
        (
            np.ma.masked_array([0, 1, 2, 3, 0, 1]),
            "physical_to_logical is a masked array; fill its gaps first, e.g. "
            "physical_to_logical.filled(0)",
        ),
    ],
)
def test_maps(physical_to_logical, message):
    fails(message, Placement, physical_to_logical, CLUSTER, 4)


@pytest.mark.parametrize(
    ("physical_to_logical", "message"),
    [
        (
            [0, 1, 2, 2, -1, -1],
            "physical_to_logical[3]=2 is on a GPU that is not alive; use -1 there",
        ),
        ([0, -1, 1, -1, -1, -1], "physical_to_logical[1]=-1 is not an expert; use 0 to 2"),
        ([0, 1, 2, -1, -2, -1], "physical_to_logical[4]=-2 is not an expert; use 0 to 2"),
        ([[0, 1, 2, -1, -1, 3]], "physical_to_logical[0, 5]=3 is not an expert; use 0 to 2"),
        (
            [[0, 1, 2, -1, -1, -1], [0, 1, 1, -1, -1, -1]],
            "physical_to_logical: expert 2 has no slot in layer 1; give every expert at least one",
        ),
        (
            [0, 1, 2],
            "physical_to_logical has 3 slots per layer, and the cluster has num_slots=6; use 6",
        ),
    ],
)
def test_maps_of_a_cluster_with_a_gpu_that_is_gone(physical_to_logical, message):
    cluster = Cluster(2, slots_per_gpu=3, alive=[True, False])
    fails(message, Placement, physical_to_logical, cluster, 3)


@pytest.mark.parametrize(
    ("replica_rank", "message"),
    [
        ([[0, 0, 0, 0, 2, 1]], "replica_rank[0, 4]=2 is not a replica; use 0 to 1"),
        ([[0, 0, -1, 0, 1, 1]], "replica_rank[0, 2]=-1 is not a replica; use 0 to 0"),
        (
            [[0, 1, 0, 0, 1, 1]],
            "replica_rank gives two replicas of expert 1 in layer 0 one number; use each of 0 to 1 "
            "once",
        ),
        (
            [0, 0, 0, 0, 1, 1],
            "replica_rank has shape (6,) and dtype int64; use an integer for each slot, (1, 6)",
        ),
        (
            [[0.0, 0, 0, 0, 1, 1]],
            "replica_rank has shape (1, 6) and dtype float64; use an integer for each slot, (1, 6)",
        ),
    ],
)
def test_ranks(replica_rank, message):
    rank = np.array(replica_rank)
    fails(message, Placement, [[0, 1, 2, 3, 0, 1]], CLUSTER, 4, replica_rank=rank)


def test_moves_between_placements_that_do_not_agree():
    words = "use a placement of that model"
    ours = "(layers, experts) = {}, and (1, 4) are wanted; " + words
    for other, found in (
        (Placement.trivial(2, 4, CLUSTER), (2, 4)),
        (Placement.trivial(1, 5, CLUSTER), (1, 5)),
    ):
        fails(f"other has {ours.format(found)}", PLACEMENT.moves_from, other)
    fails(
        "other is on num_gpus=3, and 2 are wanted; use a placement on as many GPUs",
        PLACEMENT.moves_from,
        Placement.trivial(1, 4, Cluster(3, slots_per_gpu=2)),
    )
    fails(
        "other=[0, 1] is not a Placement; use e.g. Placement(physical_to_logical, cluster, "
        "num_experts)",
        PLACEMENT.moves_from,
        [0, 1],
    )
