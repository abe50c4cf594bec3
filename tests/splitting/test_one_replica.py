"""One replica of each active expert: against every choice there is, HiGHS, and torch."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, Placement
from evenload.batches import choose, slowness
from evenload.cost import ExpertTime
from evenload.splitting import OneReplica

READING = ExpertTime([(1, 3e-6), (8, 3e-6), (16, 6e-6)])


@st.composite
def problems(draw, most_slots=12, same_speed=False):
    """A placement of any replicas on GPUs that may differ or be gone, and counts of a batch."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    G, L = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    alive = rng.random(G) < 0.8
    alive[rng.integers(G)] = True
    speed = None if same_speed or draw(st.booleans()) else rng.choice([1.0, 0.7, 2.0], G)
    per_gpu = draw(st.integers(1, max(1, most_slots // G)))
    cluster = Cluster(G, slots_per_gpu=per_gpu, speed=speed, alive=alive)
    S = cluster.num_living_slots
    E = draw(st.integers(max(1, S // 2), S))
    rows = np.full((L, cluster.num_slots), -1)
    for row in rows:
        row[cluster.living_slot] = rng.permutation(np.r_[np.arange(E), rng.integers(0, E, S - E)])
    counts = rng.integers(0, 20, (L, E)) * (rng.random((L, E)) < draw(st.sampled_from([0.5, 0.9])))
    return Placement(rows, cluster, E), counts


def latest(place, layer, ticks, replica):
    """Return when the last GPU of a layer is done with the replicas chosen."""
    load, unit = np.zeros(place.cluster.num_gpus), slowness(place)
    for e, x in enumerate(replica):
        load[place.cluster.gpu_of_slot[place.logical_to_physical[layer, e, x]]] += ticks[e]
    return (load[load > 0] * unit[load > 0]).max(initial=0.0)


def best_of_all(place, layer, ticks):
    """Try every choice of replicas."""
    ways = [
        range(place.replica_count[layer, e]) if ticks[e] else range(1)
        for e in range(place.num_experts)
    ]
    return min(latest(place, layer, ticks, way) for way in itertools.product(*ways))


@settings(max_examples=150)
@given(problems())
def test_no_choice_has_fewer_active_experts_on_the_fullest_gpu(problem):
    place, counts = problem
    found = choose(place, np.minimum(counts, 1)[None], by_count=True)
    for layer, count in enumerate(counts):
        active = np.minimum(count, 1)
        best = best_of_all(place, layer, active)
        assert latest(place, layer, active, found.replica[0, layer]) == best
        assert found.latest[0, layer] == best
    assert found.total.sum() == (counts > 0).sum()


@settings(max_examples=100)
@given(problems())
def test_by_time_no_worse_than_by_number_and_near_the_best(problem):
    place, counts = problem
    ticks = np.rint(READING.seconds(counts) * 1e9).astype(np.int64)
    found = choose(place, ticks[None], by_count=False)
    by_number = choose(place, ticks[None], by_count=True)
    for layer in range(place.num_layers):
        reached = latest(place, layer, ticks[layer], found.replica[0, layer])
        assert found.latest[0, layer] == reached
        assert reached <= latest(place, layer, ticks[layer], by_number.replica[0, layer])
        assert reached <= 1.34 * best_of_all(place, layer, ticks[layer])


def milp_latest(place, layer, ticks):
    """Solve the choice as an integer program with HiGHS."""
    optimize = pytest.importorskip("scipy.optimize")
    slots, G = place.logical_to_physical[layer], place.cluster.num_gpus
    e, x = np.nonzero(slots >= 0)
    gpu = place.cluster.gpu_of_slot[slots[e, x]]
    n = len(e)
    each = np.zeros((place.num_experts, n + 1))
    each[e, np.arange(n)] = 1.0
    load = np.zeros((G, n + 1))
    load[gpu, np.arange(n)] = ticks[e]
    load[:, n] = -1.0
    rules = [
        optimize.LinearConstraint(each, 1.0, 1.0),
        optimize.LinearConstraint(load, -np.inf, 0.0),
    ]
    upper = np.r_[np.ones(n), np.inf]
    solved = optimize.milp(
        np.r_[np.zeros(n), 1.0],
        constraints=rules,
        integrality=np.r_[np.ones(n), 0],
        bounds=optimize.Bounds(np.zeros(n + 1), upper),
    )
    return solved.fun


def linked(E, S, G, seed, L=3):
    """Place experts in order, and the others by chance."""
    rng = np.random.default_rng(seed)
    rows = [np.r_[np.arange(E), rng.choice(E, S - E, replace=False)] for _ in range(L)]
    return Placement(np.stack(rows).reshape(L, -1, G).transpose(0, 2, 1).reshape(L, S),
                     Cluster(G, num_slots=S), E)  # fmt: skip


@pytest.mark.parametrize(("E", "S", "G"), [(64, 80, 8), (128, 144, 8), (64, 96, 16)])
def test_as_few_as_highs_finds(E, S, G):
    place, rng = linked(E, S, G, 0), np.random.default_rng(1)
    counts = rng.poisson(1.0, (3, E))
    found = choose(place, np.minimum(counts, 1)[None], by_count=True).latest[0]
    for layer in range(3):
        assert found[layer] == round(milp_latest(place, layer, np.minimum(counts[layer], 1)))


@pytest.mark.parametrize(("E", "S", "G"), [(32, 40, 8), (64, 80, 8), (128, 144, 8)])
def test_by_time_within_a_part_of_the_fractional_bound(E, S, G):
    place, rng = linked(E, S, G, 0), np.random.default_rng(1)
    counts = rng.poisson(6.0, (8, 3, E))
    ticks = np.rint(READING.seconds(counts) * 1e9).astype(np.int64)
    found = choose(place, ticks, by_count=False).latest
    bound = [place.gpu_load(row, dispatch="live").max(axis=1) for row in ticks.astype(float)]
    gap = found / np.stack(bound) - 1.0
    assert gap.min() > -1e-9
    assert gap.mean() < {32: 0.08, 64: 0.04, 128: 0.02}[E]


@settings(max_examples=100)
@given(problems(most_slots=40))
def test_torch_falls_short_of_the_least_by_one_where_rounds_are_enough(problem):
    torch = pytest.importorskip("torch")
    place, counts = problem
    active = np.minimum(counts, 1)
    exact = choose(place, active[None], by_count=True).latest[0]
    for rounds in (1, 8, 64):
        chooser = OneReplica(place, rounds=rounds)
        found = chooser.replica(torch.tensor(counts), backend="torch").numpy()
        for layer in range(place.num_layers):
            reached = latest(place, layer, active[layer], found[layer])
            assert reached >= exact[layer] - 1e-9
            if rounds == 64:  # ways of 8 GPUs reach all of them here
                assert reached == pytest.approx(exact[layer], rel=2e-3)


@pytest.mark.parametrize(("E", "S", "G"), [(32, 40, 8), (64, 80, 8), (128, 144, 8), (256, 288, 32)])
def test_torch_after_default_rounds_falls_short_in_few_layers(E, S, G):
    torch = pytest.importorskip("torch")
    place, rng = linked(E, S, G, 0, L=20), np.random.default_rng(1)
    chooser = OneReplica(place)
    short = []
    for _ in range(5):
        counts = rng.poisson(1.0, (20, E))
        active = np.minimum(counts, 1)
        exact = choose(place, active[None], by_count=True).latest[0]
        found = chooser.replica(torch.tensor(counts), backend="torch").numpy()
        short += [latest(place, n, active[n], found[n]) - exact[n] for n in range(20)]
    assert min(short) >= 0.0
    assert max(short) <= 1.0
    assert np.mean(short) <= 0.02


def test_weights_are_one_or_nothing_and_quotas_all_tokens():
    place = Placement([[0, 1, 2, 0, 1, 2]], Cluster(3, slots_per_gpu=2), 3)
    chooser = OneReplica(place)
    counts = np.array([[5, 0, 7]])
    weights, quotas = chooser.weights(counts), chooser.quotas(counts)
    assert set(np.unique(weights)) == {0.0, 1.0}
    np.testing.assert_array_equal(weights.sum(axis=2), 1.0)
    np.testing.assert_array_equal(quotas.sum(axis=2), counts)
    np.testing.assert_array_equal(quotas, weights * counts[:, :, None])
    assert weights[0, 1, 0] == 1.0  # an idle expert has the first
    assert place.gpu_load(np.minimum(counts, 1), weights).max() == 1.0
    by_time = OneReplica(place, expert_time=READING)
    np.testing.assert_array_equal(by_time.quotas(counts).sum(axis=2), counts)
    assert not OneReplica(place).quotas(np.zeros((1, 3))).any()


def test_threads_change_nothing(monkeypatch):
    place, rng = linked(64, 80, 8, 0, L=16), np.random.default_rng(0)
    ticks = rng.poisson(2.0, (32, 16, 64)) * 1000
    found = {}
    for by_count in (True, False):
        for threads in (1, 3):
            monkeypatch.setattr("evenload.threads.num_threads", lambda n=threads: n)
            chosen = choose(place, ticks, by_count=by_count)
            found[by_count, threads] = [part.tobytes() for part in chosen]
        assert found[by_count, 1] == found[by_count, 3]


def test_bad_input_has_its_own_message():
    torch = pytest.importorskip("torch")
    place = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
    with pytest.raises(ValueError, match=r"expert_time=3 is not an ExpertTime; use one, or None"):
        OneReplica(place, expert_time=3)
    with pytest.raises(ValueError, match=r"rounds=0"):
        OneReplica(place, rounds=0)
    with pytest.raises(ValueError, match=r"backend='triton' does not choose one replica"):
        OneReplica(place).quotas(torch.tensor([[1, 2, 3]]), backend="triton")
    with pytest.raises(ValueError, match=r"expert_time is beyond tensors on 'cpu'"):
        OneReplica(place, expert_time=READING).quotas(torch.tensor([[1, 2, 3]]), backend="torch")
    with pytest.raises(ValueError, match=r"is not a whole number"):
        OneReplica(place).quotas([[1.5, 2, 3]])
