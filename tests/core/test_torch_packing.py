"""The torch backend of the packing: golden vectors, the oracle, and what must always hold."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packing_oracle import as_arrays, greedy_row, loads_of, pack_row

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from evenload.core import torch_packing  # noqa: E402
from evenload.core.torch_packing import pack  # noqa: E402


def lognormal(shape, seed=0, sigma=1.0, dtype=torch.float64):
    weight = np.random.default_rng(seed).lognormal(8.0, sigma, shape)
    return torch.from_numpy(weight).to(dtype)


def max_loads(weight, pack_index, num_packs):
    return loads_of(weight, pack_index, num_packs).max(1)


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


def assert_valid(weight, num_packs, result):
    """Every slot of every row holds exactly one item."""
    pack_index, rank = result
    size = weight.shape[1] // num_packs
    assert pack_index.dtype == rank.dtype == torch.int64
    assert pack_index.shape == rank.shape == weight.shape
    assert not pack_index.requires_grad
    assert ((rank >= 0) & (rank < size)).all()
    slots = (pack_index * size + rank).sort(1).values
    assert torch.equal(slots, torch.arange(weight.shape[1]).expand_as(slots))


def oracle(weight, num_packs, **options):
    rows = [pack_row(row, num_packs, **options) for row in weight.numpy()]
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))


@st.composite
def problems(draw):
    """Weights [X, n] in float64 and a number of packs; small integers make ties, floats do not."""
    num_rows, num_packs, size = (draw(st.integers(1, top)) for top in (3, 5, 5))
    values = draw(
        st.sampled_from(
            [st.integers(0, 6), st.integers(0, 2**24), st.floats(1e-3, 1e6), st.just(0.0)]
        )
    )
    count = num_rows * num_packs * size
    weight = draw(st.lists(values, min_size=count, max_size=count))
    return torch.tensor(weight, dtype=torch.float64).view(num_rows, -1), num_packs


# --- what the published algorithm gives -----------------------------------------------------


@pytest.mark.parametrize("case", range(11))
def test_golden_assignments(shared: Path, case: int):
    golden = np.load(shared / "golden" / "iterated_greedy_packing.npz")
    weight, num_packs, pack_index, rank, max_load = (
        golden[f"case{case:02}_{key}"]
        for key in ("weight", "num_packs", "pack_index", "rank_in_pack", "max_load")
    )
    result = pack(torch.from_numpy(weight), int(num_packs))
    np.testing.assert_array_equal(result[0], pack_index)
    np.testing.assert_array_equal(result[1], rank)
    np.testing.assert_allclose(max_loads(weight, result[0], int(num_packs)), max_load, rtol=1e-6)


# --- the oracle ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_rows", "num_items", "num_packs"),
    [(4, 72, 8), (2, 144, 16), (3, 64, 2), (3, 48, 24), (2, 9, 1), (2, 7, 7), (1, 6, 3)],
)
def test_agrees_with_oracle(num_rows, num_items, num_packs):
    weight = lognormal((num_rows, num_items), seed=num_items)
    assert_same(pack(weight, num_packs), oracle(weight, num_packs))


@pytest.mark.parametrize(
    "options",
    [
        {"num_attempts": 1, "max_swaps": 0},
        {"num_attempts": 1, "max_swaps": 3},
        {"num_attempts": 9, "boost": 1.5, "max_swaps": 2},
        {"boost": 1.0},
        {"max_swaps": 1000},
        {"target": 0.9},
        {"target": 0.999},
        {"target": 1.0},
    ],
    ids=str,
)
def test_options_agree_with_oracle(options):
    weight = lognormal((6, 40), seed=3, sigma=0.7)
    assert_same(pack(weight, 8, **options), oracle(weight, 8, **options))


@settings(max_examples=60, deadline=None)
@given(problem=problems(), num_attempts=st.integers(1, 4), max_swaps=st.integers(0, 6))
def test_agrees_with_oracle_ties_included(problem, num_attempts, max_swaps):
    weight, num_packs = problem
    options = {"num_attempts": num_attempts, "max_swaps": max_swaps}
    assert_same(pack(weight, num_packs, **options), oracle(weight, num_packs, **options))


def test_agrees_with_oracle_up_to_a_spread_of_1e20():
    """What `balanced_packing` promises of its backends in float64, whatever the magnitude."""
    for seed, unit in enumerate((1e-150, 1.0, 1e130)):
        powers = np.random.default_rng(seed).uniform(0, 20, (20, 24))
        weight = torch.from_numpy(unit * 10**powers)
        assert_same(pack(weight, 4), oracle(weight, 4))


@pytest.mark.parametrize(("num_packs", "size"), [(2, 2), (2, 5), (3, 3), (4, 4), (5, 1), (5, 2)])
def test_agrees_with_oracle_on_ties(num_packs, size):
    values = np.random.default_rng(size).integers(0, 7, (60, num_packs * size))
    weight = torch.from_numpy(values).double()
    for max_swaps in (1, 2, 20):
        options = {"max_swaps": max_swaps, "num_attempts": 3}
        assert_same(pack(weight, num_packs, **options), oracle(weight, num_packs, **options))


# --- what must hold for any weights ----------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    problem=problems(), exponent=st.integers(-60, 60), double=st.booleans(), seed=st.integers(0, 99)
)
def test_invariants(problem, exponent, double, seed):
    weight, num_packs = problem
    weight = weight if double else weight.float()
    before = weight.clone()
    result = pack(weight, num_packs)
    assert torch.equal(weight, before)
    assert_valid(weight, num_packs, result)
    assert_same(pack(weight, num_packs), result)
    assert_same(pack(weight * 2.0**exponent, num_packs), result)
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    assert_same(pack(weight[order], num_packs), (part[order] for part in result))


@settings(max_examples=40, deadline=None)
@given(problem=problems(), max_swaps=st.integers(0, 6), target=st.none() | st.floats(0.5, 1.0))
def test_never_heavier_than_greedy(problem, max_swaps, target):
    weight, num_packs = problem
    greedy = [
        as_arrays(greedy_row(list(row), list(row), num_packs)[0])[0] for row in weight.numpy()
    ]
    pack_index, _ = pack(weight, num_packs, max_swaps=max_swaps, target=target)
    reached = max_loads(weight, pack_index, num_packs)
    assert (reached <= max_loads(weight, np.stack(greedy), num_packs) * (1 + 1e-12)).all()


def test_more_effort_is_never_worse():
    weight = lognormal((16, 64), seed=1)
    efforts = [(1, 0), (1, 5), (1, 20), (5, 20), (10, 20)]
    reached = [max_loads(weight, pack(weight, 8, a, 1.05, s)[0], 8) for a, s in efforts]
    for worse, better in pairwise(reached):
        assert (better <= worse * (1 + 1e-12)).all()
        assert better.sum() < worse.sum()


def test_rows_do_not_influence_each_other():
    weight = torch.cat([lognormal((3, 72), seed=s, sigma=0.4 * s) for s in range(1, 5)]).float()
    for target in (None, 0.99):
        together = pack(weight, 8, target=target)
        alone = [pack(row[None], 8, target=target) for row in weight]
        assert_same(together, (torch.cat(part) for part in zip(*alone, strict=True)))


@pytest.mark.parametrize("block", [1, 50, 200, 2000, 1 << 20])
def test_blocks_of_the_search_do_not_matter(monkeypatch, block):
    weight = lognormal((7, 48), dtype=torch.float32)
    expected = pack(weight, 6)
    monkeypatch.setattr(torch_packing, "BLOCK_CPU", block)
    assert_same(pack(weight, 6), expected)


# --- edges ------------------------------------------------------------------------------------


def test_one_item_a_pack():
    pack_index, rank = pack(lognormal((3, 8)), 8)
    assert torch.equal(pack_index, torch.arange(8).repeat(3, 1))
    assert not rank.any()
    pack_index[0, 0] = 5  # rows own their memory
    assert pack_index[1, 0] == 0


def test_one_pack_ranks_by_descending_weight():
    pack_index, rank = pack(torch.tensor([[1.0, 4.0, 2.0, 4.0]]), 1)
    assert pack_index.tolist() == [[0, 0, 0, 0]]
    assert rank.tolist() == [[3, 0, 2, 1]]


def test_zero_weights_fill_packs_in_order():
    pack_index, rank = pack(torch.zeros(2, 6), 3, target=0.999)
    assert pack_index.tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert rank.tolist() == [[0, 1, 0, 1, 0, 1]] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_at_the_end_of_the_range(dtype):
    weight = lognormal((4, 24), dtype=dtype)
    weight /= weight.amax()
    top = torch.finfo(dtype).max
    result = pack(weight * top, 4)
    assert_valid(weight, 4, result)
    assert_same(result, pack(weight * top / 2.0**70, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    weight = (lognormal((5, 40)) / 64).to(dtype)
    assert_same(pack(weight, 8), pack(weight.float(), 8))


def test_float64_is_computed_in_float64():
    # To float32 all items but the last weigh the same.
    weight = 1.0 + 2.0**-30 * torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 2.0**30]]).double()
    assert_same(pack(weight, 2), oracle(weight, 2))
    assert not torch.equal(pack(weight, 2)[0], pack(weight.float(), 2)[0])


def test_layouts_and_gradients():
    weight = lognormal((6, 40), dtype=torch.float32)
    expected = pack(weight, 8)
    strided = weight.repeat_interleave(2, 1)[:, ::2]
    transposed = weight.t().contiguous().t()
    graph = weight.clone().requires_grad_() * 1.0
    for layout in (strided, transposed, weight.clone().requires_grad_(), graph):
        assert_same(pack(layout, 8), expected)
    expanded = weight[:1].expand(6, -1)
    assert_same(pack(expanded, 8), (part[:1].expand(6, -1) for part in expected))


# --- thresholds --------------------------------------------------------------------------------


def test_loads_normalised_to_one_are_refined_as_well():
    tokens = lognormal((16, 288), seed=5, sigma=0.5, dtype=torch.float32)
    normalised = tokens / tokens.sum(1, keepdim=True)
    excess = [
        (max_loads(w, pack(w, 32)[0], 32) / (w.double().sum(1).numpy() / 32) - 1).mean()
        for w in (tokens, normalised)
    ]
    assert excess[1] == pytest.approx(excess[0], rel=0.1)


def test_target_leaves_good_rows_alone(monkeypatch):
    weight = lognormal((8, 64), seed=2, sigma=0.3)
    calls = []
    greedy = torch_packing.greedy
    monkeypatch.setattr(torch_packing, "greedy", lambda *a: calls.append(1) or greedy(*a))
    plain = pack(weight, 8, num_attempts=1, max_swaps=0)
    assert_same(pack(weight, 8, target=0.5), plain)
    assert len(calls) == 2  # one attempt each


def test_target_is_met_with_fewer_swaps():
    weight = lognormal((8, 64), seed=2, sigma=0.7)
    mean = weight.sum(1).numpy() / 8
    full = mean / max_loads(weight, pack(weight, 8)[0], 8)
    reached = mean / max_loads(weight, pack(weight, 8, target=0.99)[0], 8)
    assert (full >= 0.99).sum() >= 4
    assert (reached[full >= 0.99] >= 0.99 * (1 - 1e-12)).all()
    assert reached.sum() < full.sum()


# --- the host never waits in the greedy pass ----------------------------------------------------


def test_greedy_pass_needs_no_values():
    """Tensors of the meta device have no values: whatever asks for one raises."""
    weight = torch.empty(5, 24, device="meta")
    packed = torch_packing.greedy(weight, weight, 4)
    assert packed.item.shape == packed.weight.shape == (5, 24)
    assert packed.load.shape == (5, 4)
    with pytest.raises(RuntimeError):
        packed.load.sum().item()


class CountSyncs(TorchDispatchMode):
    """Counts the operations for which the host must wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("target", "most"), [(None, 3 * 4), (1.0, 3 * 4 + 3)])
def test_host_waits_once_a_refinement_step(target, most):
    with CountSyncs() as syncs:
        pack(lognormal((4, 40)), 8, num_attempts=3, max_swaps=4, target=target)
    assert 0 < syncs.count <= most


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_devices_agree(dtype):
    weight = lognormal((16, 144), dtype=dtype)
    for target in (None, 0.999):
        result = pack(weight.cuda(), 16, target=target)
        assert result[0].is_cuda
        assert_same((part.cpu() for part in result), pack(weight, 16, target=target))
