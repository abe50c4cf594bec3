"""`balanced_packing`: golden vectors, the oracle, and that both backends agree."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_oracle import loads_of, pack_row

from evenload import threads
from evenload.eplb import balanced_packing

CASES = range(11)
# Rows on which float64 arithmetic decides a near-tie of the float32 golden vectors otherwise.
OTHERWISE = {1: [15], 4: [90], 6: [44, 48, 93]}
SHAPES = [(4, 72, 8), (2, 144, 16), (3, 64, 2), (3, 48, 24), (2, 9, 1), (2, 7, 7), (1, 6, 3)]
OPTIONS = [
    {},
    {"num_attempts": 1, "max_swaps": 0},
    {"num_attempts": 1, "max_swaps": 3},
    {"num_attempts": 9, "boost": 1.5, "max_swaps": 2},
    {"boost": 1.0},
    {"boost": 1e9},
    {"max_swaps": 1000},
    {"target": 0.9},
    {"target": 0.999},
    {"target": 1.0},
    {"target": 1e-300},
    {"target": 0.125},
]


def lognormal(shape, seed=0, sigma=1.0, dtype=np.float64):
    return np.random.default_rng(seed).lognormal(8.0, sigma, shape).astype(dtype)


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def assert_valid(weight, num_packs, result):
    """Every place of every pack holds exactly one item."""
    index, rank = result
    size = weight.shape[1] // num_packs
    assert index.dtype == rank.dtype == np.int64
    assert index.shape == rank.shape == weight.shape
    assert ((rank >= 0) & (rank < size)).all()
    places = np.sort(index * size + rank, axis=1)
    np.testing.assert_array_equal(places, np.tile(np.arange(weight.shape[1]), (len(weight), 1)))


def oracle(weight, num_packs, **options):
    rows = [pack_row(row, num_packs, **options) for row in weight]
    return tuple(np.stack(part) for part in zip(*rows, strict=True))


def max_loads(weight, num_packs, **options):
    return loads_of(weight, balanced_packing(weight, num_packs, **options)[0], num_packs).max(1)


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "iterated_greedy_packing.npz") as file:
        return {name: file[name] for name in file.files}


def case(golden, number):
    names = ("weight", "num_packs", "pack_index", "rank_in_pack", "max_load")
    weight, num_packs, *rest = (golden[f"case{number:02}_{name}"] for name in names)
    return weight, int(num_packs), *rest


# --- golden vectors ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", CASES)
def test_golden_assignments(golden, number):
    weight, num_packs, index, rank, max_load = case(golden, number)
    result = balanced_packing(weight, num_packs)
    assert_same(result, (index, rank))
    np.testing.assert_allclose(loads_of(weight, result[0], num_packs).max(1), max_load, rtol=1e-6)


@pytest.mark.parametrize("number", CASES)
def test_golden_loads_in_float64(golden, number):
    weight, num_packs, *_, max_load = case(golden, number)
    reached = max_loads(weight.astype(np.float64), num_packs)
    same = np.ones(len(weight), bool)
    same[OTHERWISE.get(number, [])] = False
    np.testing.assert_allclose(reached[same], max_load[same], rtol=1e-6)
    np.testing.assert_allclose(reached, max_load, rtol=3e-4)


# --- the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_rows", "num_items", "num_packs"), SHAPES)
def test_agrees_with_oracle(num_rows, num_items, num_packs):
    weight = lognormal((num_rows, num_items), seed=num_items)
    assert_same(balanced_packing(weight, num_packs), oracle(weight, num_packs))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_agree_with_oracle(options):
    weight = lognormal((6, 40), seed=3, sigma=0.7)
    assert_same(balanced_packing(weight, 8, **options), oracle(weight, 8, **options))


@pytest.mark.parametrize(("num_packs", "size"), [(2, 2), (2, 5), (3, 3), (4, 4), (5, 1), (5, 2)])
def test_agrees_with_oracle_on_integers_with_many_ties(num_packs, size):
    weight = np.random.default_rng(size).integers(0, 7, (60, num_packs * size))
    for max_swaps in (1, 2, 20):
        options = {"max_swaps": max_swaps, "num_attempts": 3}
        result = balanced_packing(weight, num_packs, **options)
        assert_same(result, oracle(weight, num_packs, **options))


@st.composite
def problems(draw):
    """Weights [X, n] and a number of packs; small integers make ties, floats do not."""
    num_rows, num_packs, size = (draw(st.integers(1, top)) for top in (3, 5, 5))
    values = draw(st.sampled_from([st.integers(0, 6), st.floats(1e-3, 1e6), st.just(0.0)]))
    count = num_rows * num_packs * size
    weight = draw(st.lists(values, min_size=count, max_size=count))
    return np.array(weight).reshape(num_rows, -1), num_packs


@settings(max_examples=80, deadline=None)
@given(
    problem=problems(),
    num_attempts=st.integers(1, 5),
    max_swaps=st.integers(0, 6),
    target=st.none() | st.floats(0.5, 1.0),
)
def test_agrees_with_oracle_whatever_the_weights(problem, num_attempts, max_swaps, target):
    weight, num_packs = problem
    options = {"num_attempts": num_attempts, "max_swaps": max_swaps, "target": target}
    result = balanced_packing(weight, num_packs, **options)
    assert_valid(weight, num_packs, result)
    assert_same(result, oracle(weight, num_packs, **options))


# --- both backends -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize(("num_rows", "num_items", "num_packs"), SHAPES)
def test_backends_agree_to_the_item(num_rows, num_items, num_packs, dtype):
    torch = pytest.importorskip("torch")
    weight = (lognormal((num_rows, num_items), seed=num_packs, sigma=0.8) / 8).astype(dtype)
    compiled = balanced_packing(weight, num_packs)
    assert_same(balanced_packing(weight, num_packs, backend="torch"), compiled)
    tensor = torch.from_numpy(weight)
    for backend in (None, "compiled", "torch"):
        result = balanced_packing(tensor, num_packs, backend=backend)
        assert all(isinstance(part, torch.Tensor) for part in result)
        assert_same(result, compiled)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_backends_agree_whatever_the_options(options, dtype):
    pytest.importorskip("torch")
    weight = lognormal((8, 40), seed=4, sigma=0.7, dtype=dtype)
    weight[0] = weight[1, 0]  # one row of ties
    weight[2, :20] = 0.0
    left = balanced_packing(weight, 8, **options)
    assert_same(balanced_packing(weight, 8, backend="torch", **options), left)


def test_backends_agree_on_float32_ties():
    pytest.importorskip("torch")
    weight = np.random.default_rng(9).integers(0, 9, (80, 24)).astype(np.float32)
    assert_same(balanced_packing(weight, 6, backend="torch"), balanced_packing(weight, 6))


def test_float32_is_computed_in_float32():
    # To float32 all items but the last weigh the same.
    weight = 1.0 + 2.0**-30 * np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 2.0**30]])
    in_double, in_single = (balanced_packing(weight.astype(t), 2) for t in (float, np.float32))
    assert_same(in_double, oracle(weight, 2))
    assert not np.array_equal(in_double[0], in_single[0])


def test_half_precision_is_computed_in_float32():
    weight = np.random.default_rng(9).integers(0, 100, (200, 24)).astype(np.float16)
    half, single, double = (
        balanced_packing(weight.astype(dtype), 6) for dtype in (np.float16, np.float32, float)
    )
    assert_same(half, single)
    assert not np.array_equal(single[0], double[0])  # else this would show nothing


# --- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_one_item_a_pack(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    index, rank = balanced_packing(lognormal((3, 8)), 8, backend=backend)
    np.testing.assert_array_equal(index, [range(8)] * 3)
    assert not rank.any()
    assert index.dtype == rank.dtype == np.int64


@pytest.mark.parametrize("backend", ["compiled", "torch"])
def test_one_pack(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    index, rank = balanced_packing([[1, 4, 2, 4]], 1, backend=backend)
    assert index.tolist() == [[0, 0, 0, 0]]
    assert rank.tolist() == [[3, 0, 2, 1]]


@pytest.mark.parametrize("backend", ["compiled", "torch"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64"])
def test_integer_weights(backend, dtype):
    torch = pytest.importorskip("torch")
    weight = np.random.default_rng(1).integers(0, 100, (5, 24)).astype(dtype)
    expected = oracle(weight, 6)
    assert_same(balanced_packing(weight, 6, backend=backend), expected)
    assert_same(balanced_packing(torch.from_numpy(weight), 6, backend=backend), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_at_the_end_of_the_range(dtype):
    pytest.importorskip("torch")
    weight = lognormal((4, 24), dtype=dtype)
    weight = weight / weight.max() * np.finfo(dtype).max
    result = balanced_packing(weight, 4)
    assert_valid(weight, 4, result)
    assert_same(balanced_packing(np.ldexp(weight, -70), 4), result)
    assert_same(balanced_packing(weight, 4, backend="torch"), result)


# --- what must hold ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loads_normalised_to_one_are_refined_as_well_as_tokens(dtype):
    tokens = lognormal((32, 288), seed=5, sigma=0.5, dtype=dtype)
    normalised = tokens / tokens.sum(axis=1, keepdims=True, dtype=dtype)
    excess = [
        (max_loads(w, 32) * 32 / w.astype(float).sum(1) - 1).mean() for w in (tokens, normalised)
    ]
    assert excess[1] == pytest.approx(excess[0], rel=0.05)
    assert_same(balanced_packing(tokens * dtype(2.0**-20), 32), balanced_packing(tokens, 32))


def test_the_first_attempt_is_longest_first():
    index, rank = balanced_packing([[7, 9, 1, 5, 8, 3]], 3, num_attempts=1, max_swaps=0)
    assert index.tolist() == [[2, 0, 0, 2, 1, 1]]
    assert rank.tolist() == [[0, 0, 1, 1, 0, 1]]


def test_more_effort_is_never_worse():
    weight = lognormal((16, 64), seed=1)
    efforts = [(1, 0), (1, 5), (1, 20), (5, 20), (10, 20)]
    reached = [max_loads(weight, 8, num_attempts=a, max_swaps=s) for a, s in efforts]
    for worse, better in pairwise(reached):
        assert (better <= worse * (1 + 1e-12)).all()
        assert better.sum() < worse.sum()


@pytest.mark.parametrize("target", [0.9, 0.99])
def test_a_target_is_met_with_less(target):
    weight = lognormal((8, 64), seed=2, sigma=0.7)
    mean = weight.sum(1) / 8
    full, reached = (mean / max_loads(weight, 8, target=t) for t in (None, target))
    within = full >= target
    assert within.sum() >= 4
    assert (reached[within] >= target * (1 - 1e-12)).all()
    assert reached.sum() < full.sum()


def test_rows_do_not_influence_each_other():
    weight = np.concatenate([lognormal((3, 72), seed=s, sigma=0.4 * s) for s in range(1, 5)])
    together = balanced_packing(weight, 8)
    alone = [balanced_packing(row[None], 8) for row in weight]
    assert_same(together, [np.concatenate(part) for part in zip(*alone, strict=True)])


def test_the_number_of_threads_does_not_matter(monkeypatch):
    weight = lognormal((60, 288), seed=7)
    assert weight.size >= 3 * threads.STEPS_A_THREAD  # else one thread does it all
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "num_threads", lambda count=count: count)
        results.append(balanced_packing(weight, 32))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
