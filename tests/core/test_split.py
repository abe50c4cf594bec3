"""The best uneven split: as good as a linear program, near the even one, and what may be passed."""

import re

import numpy as np
import pytest
import twins

from evenload import Cluster, Placement, solve
from evenload.threads import num_threads


def random_cluster(rng, most_slots=5):
    num_gpus = int(rng.integers(1, 8))
    alive = rng.random(num_gpus) < 0.8
    alive[rng.integers(num_gpus)] = True
    return Cluster(
        num_gpus,
        slots=rng.integers(1, most_slots + 1, num_gpus),
        speed=rng.choice([1.0, 1.0, 2.0, 0.3], num_gpus) if rng.random() < 0.6 else None,
        alive=alive,
    )


def random_placement(rng, cluster, most_experts=99, num_layers=1):
    """Any placement, duplicates included; X is what the draw makes it."""
    S = cluster.num_living_slots
    E = int(rng.integers(1, min(S, most_experts) + 1))
    rows = np.full((num_layers, cluster.num_slots), -1)
    for row in rows:
        row[cluster.living_slot] = rng.permutation(np.r_[np.arange(E), rng.integers(0, E, S - E)])
    return Placement(rows, cluster, E)


def random_load(rng, shape):
    """Loads with zeros and ties among them."""
    load = rng.lognormal(0.0, 1.5, shape) * (rng.random(shape) < 0.8)
    return np.floor(4.0 * load) if rng.random() < 0.5 else load


def problems(seed, n, **options):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        place = random_placement(rng, random_cluster(rng), **options)
        yield place, random_load(rng, (place.num_layers, place.num_experts))


def time(place, load, split=None):
    """When the last GPU of each layer is done."""
    living = place.cluster.capacity > 0
    return (place.gpu_load(load, split)[:, living] / place.cluster.capacity[living]).max(axis=1)


def even(place):
    held = place.logical_to_physical >= 0
    return np.where(held, 1.0 / place.replica_count[:, :, None], 0.0)


# --- as good as can be ---------------------------------------------------------------------------


def time_by_linear_program(load, row, cluster):
    """Least time of the last GPU of one layer; one variable a slot, and the time."""
    optimize = pytest.importorskip("scipy.optimize")
    S, G = cluster.num_slots, cluster.num_gpus
    gpu = np.repeat(np.arange(G), cluster.slots)
    on_gpu = np.zeros((G, S + 1))
    on_gpu[gpu, np.arange(S)] = 1.0
    on_gpu[:, -1] = -cluster.capacity
    of_expert = np.zeros((len(load), S + 1))
    held = np.flatnonzero(row >= 0)
    of_expert[row[held], held] = 1.0
    result = optimize.linprog(
        np.r_[np.zeros(S), 1.0],
        A_ub=on_gpu,
        b_ub=np.zeros(G),
        A_eq=of_expert,
        b_eq=load / (load.sum() or 1.0),
        bounds=[(0, None if e >= 0 else 0) for e in row] + [(0, None)],
        method="highs",
    )
    assert result.status == 0
    return result.fun * load.sum()


@pytest.mark.parametrize("seed", range(4))
def test_as_good_as_a_linear_program(seed):
    for place, load in problems(seed, 60):
        row = place.physical_to_logical[0]
        best = time_by_linear_program(load[0], row, place.cluster)
        assert time(place, load, place.split(load)) == pytest.approx([best], rel=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_as_good_as_the_minimum_cut_allows(seed):
    for place, load in problems(10 + seed, 60, most_experts=7):
        gpu = np.repeat(np.arange(place.cluster.num_gpus), place.cluster.slots)
        gpus = [[gpu[s] for s in slots if s >= 0] for slots in place.logical_to_physical[0]]
        best = twins.time_of_best_split(load[0], gpus, place.cluster.capacity)
        assert time(place, load, place.split(load)) == pytest.approx([float(best)], rel=1e-12)


def test_plans_of_a_real_size_against_a_linear_program():
    rng = np.random.default_rng(3)
    load = rng.lognormal(0.0, 1.0, (2, 256))
    cluster = Cluster(32, num_slots=320)
    place = solve(load, cluster, solver="greedy").placement
    drifted = load * rng.lognormal(0.0, 0.5, load.shape)
    reached = time(place, drifted, place.split(drifted))
    for layer in range(2):
        row = place.physical_to_logical[layer]
        best = time_by_linear_program(drifted[layer], row, cluster)
        assert reached[layer] == pytest.approx(best, rel=1e-6)
    assert (reached < time(place, drifted)).all()


def test_never_below_even():
    for place, load in problems(20, 200, num_layers=3):
        split = place.split(load)
        assert (place.balancedness(load, split) >= place.balancedness(load) * (1 - 1e-12)).all()


def test_load_moves_along_a_chain():
    """Expert e is on GPUs e and e + 1, and all load on the first must end up everywhere."""
    G = 12
    rows = np.array([[max(g - 1, 0), min(g, G - 2)] for g in range(G)]).ravel()
    place = Placement(rows, Cluster(G, slots_per_gpu=2), G - 1)
    load = np.full((1, G - 1), 1.0)
    load[0, 0] = G - (G - 2.0)
    np.testing.assert_allclose(place.gpu_load(load, place.split(load)), np.ones((1, G)), rtol=1e-12)
    assert place.balancedness(load) < 1.0


def test_a_faster_gpu_gets_more():
    place = Placement([0, 0, 1], Cluster(3, slots_per_gpu=1, speed=[1, 3, 1]), 2)
    np.testing.assert_allclose(place.split([8.0, 1.0]), [[[0.25, 0.75], [1.0, 0.0]]], rtol=1e-12)
    assert place.balancedness([8.0, 2.0], [[[0.25, 0.75], [1.0, 0.0]]]).tolist() == [1.0]


def test_the_slowest_gpu_there_may_be():
    place = Placement([0, 1, 0, 2], Cluster(2, slots_per_gpu=2, speed=[1000, 1]), 3)
    split = place.split([1.0, 1.0, 1.0])
    np.testing.assert_allclose(split, [[[1.0, 0.0]] * 3], atol=1e-12)
    assert place.balancedness([1.0, 1.0, 1.0], split) == pytest.approx([3 / 1001])


def test_slow_gpus_that_have_to_bear_nearly_all_load():
    """Times far beyond the load, on the integer grid."""
    cluster = Cluster(4, slots_per_gpu=2, speed=[1000, 1, 1.5, 3])
    place = Placement([2, 3, 0, 1, 0, 1, 0, 1], cluster, 4)
    for load in ([5.0, 3.0, 1e-3, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1e3, 1.0]):
        gpus = [[1, 2, 3], [1, 2, 3], [0], [0]]
        best = twins.time_of_best_split(load, gpus, cluster.capacity)
        reached = time(place, np.array([load]), place.split(load))
        assert reached == pytest.approx([float(best)], rel=1e-12)


# --- what it looks like --------------------------------------------------------------------------


def test_weights():
    for place, load in problems(30, 100, num_layers=2):
        split, slots = place.split(load), place.logical_to_physical
        assert split.shape == slots.shape
        assert split.dtype == np.float64
        np.testing.assert_allclose(split.sum(axis=2), 1.0, rtol=1e-14)
        assert (split >= 0.0).all()
        assert not split[slots < 0].any()
        np.testing.assert_array_equal(split[load == 0], even(place)[load == 0])


def test_duplicates_on_one_gpu_get_the_same():
    place = Placement([0, 0, 1, 0, 2, 2], Cluster(2, slots_per_gpu=3), 3)
    split = place.split([6.0, 5.0, 2.0])[0]
    assert split[0, 0] == split[0, 1] < split[0, 2]
    assert split[2].tolist() == [0.5, 0.5, 0.0]


def test_even_to_the_bit_where_that_is_best():
    everywhere = Placement(np.tile(np.arange(5), 7), Cluster(7, slots_per_gpu=5), 5)
    load = np.random.default_rng(1).lognormal(size=(1, 5))
    np.testing.assert_array_equal(everywhere.split(load), even(everywhere))
    hot = Placement([0, 1, 2, 3, 2, 3], Cluster(3, slots_per_gpu=2), 4)
    np.testing.assert_array_equal(hot.split([9.0, 1.0, 1.0, 3.0]), even(hot))
    rng = np.random.default_rng(2)
    for _ in range(20):
        load = rng.lognormal(size=(1, 3))
        place = Placement([0, 1, 2, 0], Cluster(4, slots_per_gpu=1), 3)
        np.testing.assert_array_equal(place.split(load), even(place))


def test_experts_elsewhere_stay_even():
    """GPUs 0 and 1 have too much to share; what 2 and 3 hold is none of their business."""
    place = Placement([0, 1, 0, 2, 3, 4, 3, 5], Cluster(4, slots_per_gpu=2), 6)
    load = [4.0, 2.0, 6.0, 1.0, 1.0, 2.0]
    split = place.split(load)
    np.testing.assert_allclose(split[0, 0], [1.0, 0.0], atol=1e-12)
    assert split[0, 3].tolist() == [0.5, 0.5]


def test_weights_are_in_the_order_of_the_ranks():
    rows, rank = [[0, 1, 0, 2]], [[1, 0, 0, 0]]
    cluster = Cluster(2, slots_per_gpu=2)
    by_rank = Placement(rows, cluster, 3, replica_rank=rank)
    load = [[4.0, 2.0, 5.0]]
    split, other = by_rank.split(load), Placement(rows, cluster, 3).split(load)
    np.testing.assert_allclose(split[0, 0], other[0, 0, ::-1], rtol=1e-12)
    assert by_rank.balancedness(load, split) == pytest.approx([1.0], rel=1e-12)


def test_no_load_at_all():
    place = random_placement(np.random.default_rng(0), Cluster(3, slots_per_gpu=4), 5)
    load = np.zeros((1, place.num_experts))
    np.testing.assert_array_equal(place.split(load), even(place))
    assert place.balancedness(load, place.split(load)).tolist() == [1.0]


# --- contracts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [3.0, 2.0**1010, 2.0**-1030, 1e300])
def test_scale_changes_nothing(scale):
    for place, load in problems(40, 20):
        whole = np.ceil(load)
        if scale == 1e300:
            np.testing.assert_allclose(
                time(place, whole, place.split(whole * scale)),
                time(place, whole, place.split(whole)),
                rtol=1e-12,
            )
        else:
            np.testing.assert_array_equal(place.split(whole * scale), place.split(whole))


def test_layers_know_nothing_of_each_other():
    rng = np.random.default_rng(5)
    place = random_placement(rng, Cluster(4, slots=[4, 3, 5, 4], speed=[1, 2, 1, 1]), 12, 6)
    load = rng.lognormal(size=(6, place.num_experts))
    together = place.split(load)
    for layer in range(6):
        alone = Placement(place.physical_to_logical[layer], place.cluster, place.num_experts)
        split = alone.split(load[layer])[0]
        np.testing.assert_array_equal(together[layer, :, : split.shape[1]], split)


def test_threads_change_nothing(monkeypatch):
    rng = np.random.default_rng(6)
    load = rng.lognormal(size=(40, 64))
    place = solve(load, Cluster(32, num_slots=256), solver="greedy").placement
    drifted = load * rng.lognormal(0.0, 0.5, load.shape)
    found = []
    for threads in ("1", "2"):
        monkeypatch.setenv("EVENLOAD_NUM_THREADS", threads)
        num_threads.cache_clear()
        found.append(place.split(drifted).tobytes())
    monkeypatch.undo()
    num_threads.cache_clear()
    assert found[0] == found[1]


def test_input_is_never_modified():
    place, load = next(problems(50, 1, num_layers=2))
    before = load.tobytes()
    split = place.split(load)
    given = split.astype(np.float32)
    kept = given.copy()
    place.gpu_load(load, given)
    assert load.tobytes() == before
    np.testing.assert_array_equal(given, kept)
    split[:] = 0.0
    assert place.split(load).any()


def test_tensors():
    torch = pytest.importorskip("torch")
    place, load = next(problems(51, 1, num_layers=2))
    tensor = torch.tensor(load)
    split = place.split(tensor)
    assert isinstance(split, torch.Tensor)
    np.testing.assert_array_equal(split.numpy(), place.split(load))
    wanted = place.balancedness(load, place.split(load))
    for result in (place.balancedness(load, split), place.balancedness(tensor, split).numpy()):
        np.testing.assert_array_equal(result, wanted)
    half = place.gpu_load(tensor, split.float())
    np.testing.assert_allclose(half.numpy(), place.gpu_load(load, place.split(load)), rtol=1e-6)


# --- judging a split -----------------------------------------------------------------------------

PLACE = Placement([0, 1, 2, 0], Cluster(2, slots_per_gpu=2), 3)
SPLIT = np.array([[[0.25, 0.75], [1.0, 0.0], [1.0, 0.0]]])


def test_gpu_load_by_hand():
    assert PLACE.gpu_load([8.0, 1.0, 2.0], SPLIT).tolist() == [[3.0, 8.0]]
    assert PLACE.balancedness([8.0, 1.0, 2.0], SPLIT).tolist() == [5.5 / 8.0]


def test_the_even_split_is_what_no_split_means():
    for place, load in problems(60, 30, num_layers=2):
        np.testing.assert_allclose(
            place.gpu_load(load, even(place)), place.gpu_load(load), rtol=1e-14
        )


def test_no_token_is_lost_to_the_tolerance():
    short = SPLIT * (1.0 - 5e-7)
    assert PLACE.gpu_load([8.0, 1.0, 2.0], short).sum() == pytest.approx(11.0, rel=1e-15)


def test_largest_floats_do_not_overflow():
    top = np.finfo(np.float64).max
    load = [top, top, top]
    assert PLACE.balancedness(load, PLACE.split(load)) == pytest.approx([1.0])


def changed(index, value):
    split = SPLIT.copy()
    split[index] = value
    return split


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            SPLIT[0],
            "split has shape (3, 2), and the placement's logical_to_physical (1, 3, 2); use a "
            "weight for each of its entries",
        ),
        (SPLIT > 0, "split has dtype bool; use a floating dtype"),
        (SPLIT.astype(str), "split has dtype <U32; use a floating dtype"),
        (
            changed((0, 1, 0), np.nan),
            "split[0, 1, 0]=nan is not a finite number >= 0; use 0 or more",
        ),
        (
            changed((0, 0, 1), -0.75),
            "split[0, 0, 1]=-0.75 is not a finite number >= 0; use 0 or more",
        ),
        (
            changed((0, 2), 0.5),
            "split[0, 2, 1]=0.5 is for no replica, logical_to_physical is -1 there; use 0",
        ),
        (
            changed((0, 0), 0.25),
            "split[0, 0] adds up to 0.5; use weights that add up to 1 within 1e-06, e.g. divided "
            "by their sum",
        ),
        (
            changed((0, 1, 0), 1.0 + 2e-6),
            "split[0, 1] adds up to 1.000002; use weights that add up to 1 within 1e-06, e.g. "
            "divided by their sum",
        ),
    ],
)
def test_what_is_no_split(split, message):
    for call in (PLACE.gpu_load, PLACE.balancedness):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call([8.0, 1.0, 2.0], split)


def test_a_load_of_another_shape_than_the_placement():
    message = "load has shape (1, 4), and the placement is for [layers, experts] (1, 3); use a load"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        PLACE.split(np.ones(4))
