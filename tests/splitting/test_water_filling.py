"""Splits by water-filling: against a slow twin, the exact split, and what they promise."""

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement, solve
from evenload.splitting import MOST_TOKENS, WaterFilling

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@st.composite
def problems(draw, same_speed=False, duplicates=True):
    """A placement of any replicas on GPUs that may differ or be gone, and whole counts for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    G, L = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    alive = np.ones(G, bool) if same_speed else rng.random(G) < 0.8
    alive[rng.integers(G)] = True
    cluster = Cluster(
        G,
        slots_per_gpu=draw(st.integers(1, 4)),
        speed=None if same_speed or rng.random() < 0.5 else rng.choice([1.0, 0.7, 2.0], G),
        alive=alive,
    )
    S = cluster.num_living_slots
    E = draw(st.integers(1, S))
    rows = np.full((L, cluster.num_slots), -1)
    for row in rows:
        held = np.r_[np.arange(E), rng.integers(0, E, S - E)]
        row[cluster.living_slot] = rng.permutation(held)
    if not duplicates:  # an expert on K GPUs in a row
        E, K = G, min(G, cluster.num_slots // G)
        cluster = Cluster(G, slots_per_gpu=K)
        near = np.add.outer(np.arange(G), np.arange(K)) % G
        rows = np.stack([rng.permutation(G)[near].ravel() for _ in range(L)])
    most = draw(st.sampled_from([3, 200, 2**33]))
    counts = rng.integers(0, most, (L, E)) * (rng.random((L, E)) < 0.8)
    return Placement(rows, cluster, E), counts


def fill(count, base, speed):
    """Fill GPUs that bear `base` to one level by exact fractions; whole tokens by index."""
    order = sorted(range(len(base)), key=lambda i: Fraction(base[i], speed[i]))
    tokens = [count + sum(base[i] for i in order[: k + 1]) for k in range(len(order))]
    widths = [sum(speed[i] for i in order[: k + 1]) for k in range(len(order))]
    level = min(Fraction(n, w) for n, w in zip(tokens, widths, strict=True))
    wet = [i for i in range(len(base)) if Fraction(base[i], speed[i]) < level]
    quota = [0] * len(base)
    for i in wet:
        quota[i] = level * speed[i] // 1 - base[i]
    for i in wet[: count - sum(quota)]:
        quota[i] += 1
    return quota


def latest(load, speed):
    return max(1024 * n // s for n, s in zip(load, speed, strict=True))


def twin(filling, counts):
    """The same in plain Python, expert after expert."""
    place, slots = filling.placement, filling.placement.logical_to_physical
    table, gpu_of = filling.schedule, filling.placement.cluster.gpu_of_slot
    speed, G = [int(s) for s in table.speed], place.cluster.num_gpus
    out = np.zeros(slots.shape, np.int64)
    for layer, count in enumerate(counts.tolist()):
        load, holders = [0] * G, {}
        for e in range(place.num_experts):
            gpus = {}  # the first replica on each GPU
            for x, slot in enumerate(slots[layer, e]):
                if slot >= 0:
                    gpus.setdefault(int(gpu_of[slot]), x)
            holders[e] = sorted(gpus.items())
            for i, (gpu, x) in enumerate(holders[e]):
                out[layer, e, x] = count[e] // len(gpus) + (i < count[e] % len(gpus))
                load[gpu] += int(out[layer, e, x])
        even, before = out[layer].copy(), latest(load, speed)
        turns = [e for row in table.owner[layer] for e in dict.fromkeys(row.tolist())]
        for r in range(filling.rounds):
            for e in turns:
                if e == place.num_experts:
                    continue
                quota = [int(out[layer, e, x]) for _, x in holders[e]]
                seen = [load[g] * (2 if r + 1 == filling.rounds else 3) // 2 for g, _ in holders[e]]
                base = [a - b for a, b in zip(seen, quota, strict=True)]
                new = fill(count[e], base, [speed[g] for g, _ in holders[e]])
                for (gpu, x), a, b in zip(holders[e], quota, new, strict=True):
                    load[gpu] += b - a
                    out[layer, e, x] = b
        if latest(load, speed) > before:
            out[layer] = even
    return out


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 5))
def test_compiled_and_torch_give_what_the_slow_twin_gives(problem, rounds):
    torch = pytest.importorskip("torch")
    place, counts = problem
    filling = WaterFilling(place, rounds=rounds)
    expected = twin(filling, counts)
    np.testing.assert_array_equal(filling.quotas(counts), expected)
    found = filling.quotas(torch.tensor(counts), backend="torch")
    np.testing.assert_array_equal(found.numpy(), expected)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_quotas_add_up_and_weights_are_a_split(problem):
    place, counts = problem
    filling = WaterFilling(place)
    quotas, weights = filling.quotas(counts), filling.weights(counts)
    held = place.logical_to_physical >= 0
    assert quotas.dtype == np.int64
    assert (quotas >= 0).all()
    assert (quotas[~held] == 0).all()
    np.testing.assert_array_equal(quotas.sum(axis=2), counts)
    load = place.gpu_load(counts, weights)
    by_hand = np.zeros_like(load)
    layer, e, x = np.nonzero(held)
    gpu = place.cluster.gpu_of_slot[place.logical_to_physical[layer, e, x]]
    np.add.at(by_hand, (layer, gpu), quotas[layer, e, x])
    np.testing.assert_allclose(load, by_hand, rtol=1e-9)
    even = (held / place.replica_count[:, :, None])[counts == 0]
    np.testing.assert_array_equal(weights[counts == 0], even)


@settings(max_examples=150, deadline=None)
@given(problems(same_speed=True, duplicates=False), st.integers(1, 4))
def test_never_worse_than_the_even_split_but_for_whole_tokens(problem, rounds):
    place, counts = problem
    after = place.gpu_load(counts, WaterFilling(place, rounds=rounds).weights(counts)).max(axis=1)
    even = place.gpu_load(counts).max(axis=1)
    per_gpu = place.num_slots // place.cluster.num_gpus
    assert (after < even + per_gpu + 1e-6 * even).all()


@settings(max_examples=50, deadline=None)
@given(problems(), st.sampled_from([2**7, 1000]))
def test_hardly_depends_on_the_scale(problem, scale):
    place, counts = problem
    counts = np.minimum(counts, 2**20) * 2**6
    reached = [place.balancedness(c, WaterFilling(place).weights(c)) for c in
               (counts, counts * scale)]  # fmt: skip
    tokens = counts.sum(axis=1) / place.cluster.num_gpus
    slack = 16 * place.num_slots / np.maximum(tokens, 1)
    assert (np.abs(reached[0] - reached[1]) <= slack).all()


def test_rounds_come_to_the_best_split():
    rng = np.random.default_rng(0)
    cluster = Cluster(8, slots_per_gpu=3, speed=[1.0] * 6 + [0.5, 2.0])
    rows = np.stack([rng.permutation(np.r_[0:16, 0:8]) for _ in range(20)])
    place, counts = Placement(rows, cluster, 16), rng.integers(0, 10**7, (20, 16))
    best = place.balancedness(counts, place.split(counts))
    for rounds, near in ((8, 0.02), (200, 1e-4)):
        reached = place.balancedness(counts, WaterFilling(place, rounds=rounds).weights(counts))
        assert (reached <= best + 1e-3).all()  # speeds are rounded
        assert best.mean() - reached.mean() < near


def linked(place, load, rng):
    """Deal experts out anew, layer by layer the best of 12 by the best split: GPUs get linked."""
    rows, E = place.physical_to_logical.copy(), place.num_experts
    best, S, K = np.zeros(len(rows)), rows.shape[1], place.num_slots // place.cluster.num_gpus
    for _ in range(12):
        dealt = np.stack([np.stack([rng.permutation(row[k::K]) for k in range(K)], 1).ravel()
                          for row in place.physical_to_logical])  # fmt: skip
        other = Placement(dealt.reshape(-1, S), place.cluster, E)
        reached = other.balancedness(load, other.split(load))
        rows[reached > best] = other.physical_to_logical[reached > best]
        best = np.maximum(best, reached)
    return Placement(rows, place.cluster, E)


@pytest.mark.parametrize(
    ("name", "array", "num_gpus", "num_slots"),
    [
        ("gpt-oss-20b", "load", 16, 48),
        ("gpt-oss-20b", "load_mixed", 16, 48),
        ("deepseek-v2-lite", "load", 16, 80),
        ("deepseek-v2-lite", "load_mixed", 16, 80),
        ("qwen3-30b-a3b", "load", 16, 144),
        ("olmoe-domains", "load", 16, 80),
    ],
)
def test_eight_rounds_are_near_the_best_split_on_recorded_loads(name, array, num_gpus, num_slots):
    if not DATA.is_dir():
        pytest.skip(f"no recorded loads in {DATA}")
    trace = np.load(DATA / f"{name}.npz")[array]
    rng, gaps = np.random.default_rng(0), []
    for t in (len(trace) // 2, len(trace) - 1):
        past = trace[max(0, t - 8) : t].sum(axis=0) + 1e-3
        cluster = Cluster(num_gpus, num_slots=num_slots)
        even = solve(past, cluster, effort="fast").placement
        live = solve(trace[max(0, t - 8) : t] + 1e-3, cluster, dispatch="live").placement
        for place in (even, linked(even, past, rng), live):
            best = place.balancedness(trace[t], place.split(trace[t])).mean()
            for rounds in (4, 8):
                weights = WaterFilling(place, rounds=rounds).weights(trace[t])
                gaps.append((rounds, best - place.balancedness(trace[t], weights).mean()))
    assert max(gap for rounds, gap in gaps if rounds == 8) < 0.012
    assert max(gap for rounds, gap in gaps if rounds == 4) < 0.03


PLACE = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)


def test_tensors_come_back_as_tensors_and_one_layer_needs_no_axis():
    torch = pytest.importorskip("torch")
    for backend in (None, "compiled", "torch"):
        filling = WaterFilling(PLACE)
        counts = torch.tensor([4.0, 2.0, 7.0])
        quotas, weights = filling.quotas(counts, backend), filling.weights(counts, backend)
        assert quotas.tolist() == [[[4, 0], [2, 0], [7, 0]]]
        assert weights.dtype == torch.float64
        assert weights.tolist() == [[[1, 0], [1, 0], [1, 0]]]
        nothing = filling.weights(counts * 0, backend)
        assert nothing.tolist() == [[[0.5, 0.5], [1, 0], [1, 0]]]


@pytest.mark.parametrize(
    ("counts", "backend", "says"),
    [
        ([[4, 2]], None, r"counts has shape \(1, 2\).*\(1, 3\)"),
        ([[4, 2, -1]], None, r"\[0, 2\]=-1"),
        ([[4, 2, 0.5]], None, r"counts\[0, 2\]=0.5 is not a whole number"),
        ([[MOST_TOKENS, 2, 1]], None, "1099511627779.*is past 1099511627776"),
        ([[4, 2, 1]], "torch", "backend='torch' takes a tensor"),
        ([[4, 2, 1]], "cuda", "backend='cuda' is unknown; use one of: compiled, torch, triton"),
    ],
)
def test_what_cannot_be_split_is_refused(counts, backend, says):
    with pytest.raises(ValueError, match=says):
        WaterFilling(PLACE).quotas(counts, backend)


def test_other_mistakes_are_refused_too(monkeypatch):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="placement=None is not a Placement"):
        WaterFilling(None)
    for bad, says in [
        ([4, 2, -1], "=-1"),
        ([4, 2, 0.5], "0.5 is not a whole"),
        ([2**40, 1, 1], "past"),
    ]:
        with pytest.raises(ValueError, match=says):
            WaterFilling(PLACE).quotas(torch.tensor(bad), backend="torch")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ValueError, match=r"needs triton.*'torch'"):
        WaterFilling(PLACE).quotas(torch.ones(1, 3), backend="triton")
    with pytest.raises(ValueError, match="rounds=0"):
        WaterFilling(PLACE, rounds=0)
    with pytest.raises(ValueError, match=r"counts has shape \(3, 1\)"):
        WaterFilling(PLACE).quotas(torch.ones(3, 1), backend="torch")
    many = Placement.trivial(1, 4, Cluster(130, slots_per_gpu=1))
    with pytest.raises(ValueError, match=r"'triton' is for at most 128 GPUs, and the .* has 130"):
        WaterFilling(many).quotas(torch.ones(1, 4), backend="triton")


def test_no_torch_operation_depends_on_values():
    """Tensors without values do: so nothing waits for a device, and all shapes are fixed."""
    pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    from evenload.splitting import tensors

    place = Placement(np.tile([0, 1, 0, 2], (2, 1)), Cluster(2, slots_per_gpu=2), 3)
    tables = WaterFilling(place).schedule
    with FakeTensorMode():
        import torch

        fakes = tuple(torch.empty(t.shape, dtype=torch.int64) for t in tables)
        out = torch.zeros(2, 3, 2, dtype=torch.int64)
        tensors.water_fill(torch.empty(2, 3, dtype=torch.int64), fakes, 8, out)
        assert out.shape == (2, 3, 2)
