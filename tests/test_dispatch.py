"""How a replica is picked for a token: every dispatch against a slow twin, and what is refused."""

import random

import numpy as np
import pytest
import twins

from evenload import Cluster, Placement, solve
from evenload.bounds import balancedness_bound
from evenload.dispatch import DISPATCHES
from evenload.plan import Plan, straggler_time
from evenload.problem import Problem
from evenload.solvers.answer import Answer


def problems(seed, number):
    """Yield placements of random shapes, loads, and tokens from each GPU or None."""
    rng = np.random.default_rng(seed)
    for case in range(number):
        G, N = [(1, 1), (2, 1), (4, 2), (6, 3), (6, 2), (4, 4)][rng.integers(6)]
        slots = rng.integers(2, 5, G)
        alive = rng.random(G) < (0.8 if case % 3 == 0 else 1.1)
        alive[0] = True
        speed = rng.uniform(1, 2, G) if case % 2 else np.ones(G)
        cluster = Cluster(G, N, slots=slots.tolist(), speed=speed.tolist(), alive=alive.tolist())
        E = int(rng.integers(1, cluster.num_living_slots + 1))
        rows = np.full((3, cluster.num_slots), -1)
        for row in rows:
            held = np.r_[np.arange(E), rng.integers(0, E, cluster.num_living_slots - E)]
            row[cluster.living_slot] = rng.permutation(held)
        tokens = None if case % 4 < 2 else np.where(alive, rng.uniform(0.1, 5.0, G), 0.0)
        yield Placement(rows, cluster, E), rng.lognormal(0.0, 1.0, (3, E)), tokens


def picked_slowly(replicas, rank, cluster):
    """Return the slot that a rank takes of an expert's, None if it is any of them."""
    node = cluster.node_of_gpu
    gpus = [int(cluster.gpu_of_slot[slot]) for slot in replicas]
    if len(replicas) == 1:
        return replicas[0]
    own = [s for s, g in zip(replicas, gpus, strict=True) if g == rank]
    near = [s for s, g in zip(replicas, gpus, strict=True) if node[g] == node[rank]]
    return own[0] if own else near[0] if 0 < len(near) < len(replicas) else None


def gpu_load_slowly(place, load, dispatch, tokens):
    """Send every rank's tokens one rank after the other, as SGLang's code does."""
    cluster, draw = place.cluster, random.Random(42)
    tokens = np.array(cluster.alive, float) if tokens is None else tokens
    reached = np.zeros((len(load), cluster.num_gpus))
    for layer, of_layer in enumerate(place.logical_to_physical.tolist()):
        for expert, padded in enumerate(of_layer):
            replicas = [slot for slot in padded if slot >= 0]
            picked = [picked_slowly(replicas, r, cluster) for r in range(cluster.num_gpus)]
            far = [r for r, slot in enumerate(picked) if slot is None]
            if dispatch == "static" and far:
                rounds, rest = divmod(len(far), len(replicas))
                dealt = replicas * rounds + draw.sample(replicas, k=rest)
                draw.shuffle(dealt)
                for r, slot in zip(far, dealt, strict=True):
                    picked[r] = slot
            for rank, slot in enumerate(picked):
                sent = load[layer, expert] * tokens[rank] / tokens.sum()
                for to in replicas if slot is None else [slot]:
                    part = len(replicas) if slot is None else 1
                    reached[layer, cluster.gpu_of_slot[to]] += sent / part
    return reached


@pytest.mark.parametrize("dispatch", ["nearest", "static"])
def test_by_place_against_a_twin(dispatch):
    for place, load, tokens in problems(1, 60):
        expected = gpu_load_slowly(place, load, dispatch, tokens)
        how = {"dispatch": dispatch, "tokens_from": tokens}
        np.testing.assert_allclose(place.gpu_load(load, **how), expected, rtol=1e-12, atol=1e-12)
        capacity = place.cluster.capacity
        time = np.divide(expected, capacity, out=np.zeros_like(expected), where=capacity > 0)
        even = expected.sum(axis=1) / capacity.sum() / time.max(axis=1)
        np.testing.assert_allclose(place.balancedness(load, **how), even, rtol=1e-12)


def test_live_is_the_best_split_and_even_is_none():
    for place, load, _ in problems(2, 20):
        live = place.gpu_load(load, dispatch="live")
        np.testing.assert_allclose(live, place.gpu_load(load, place.split(load)), rtol=1e-12)
        np.testing.assert_array_equal(place.gpu_load(load, dispatch="even"), place.gpu_load(load))
        others = [place.balancedness(load, dispatch=name) for name in DISPATCHES]
        assert (np.stack(others) <= place.balancedness(load, dispatch="live") * (1 + 1e-9)).all()


def test_a_rank_takes_its_own_replica_then_its_nodes_then_any():
    """Expert 0 is on GPU 0 and 3, each on a node of two: nobody has to go to the other node."""
    place = Placement([[0, 1, 2, 3, 4, 5, 0, 6]], Cluster(4, 2, slots_per_gpu=2), 7)
    load = [[8.0, 0, 0, 0, 0, 0, 0]]
    assert place.gpu_load(load, dispatch="nearest").tolist() == [[4.0, 0.0, 0.0, 4.0]]
    from_first = {"dispatch": "nearest", "tokens_from": [1, 1, 0, 0]}
    assert place.gpu_load(load, **from_first).tolist() == [[8.0, 0.0, 0.0, 0.0]]


def test_near_replicas_take_what_is_near_them():
    four = Cluster(4, 2, slots_per_gpu=2)
    # Expert 0 is on GPUs 0, 1 and 3; 1 on GPUs 0 and 1 of one node; 2, 3 and 4 have one replica.
    placement = Placement([[0, 1, 0, 1, 2, 3, 4, 0]], four, 5)
    found = placement.gpu_load([[8, 8, 0, 4, 1]], dispatch="nearest")
    # GPU 2 sends 0 to GPU 3 on its node, and 1 to both of its replicas, as GPU 3 does.
    assert found.tolist() == [[2 + 4, 2 + 4, 4, 4 + 1]]
    assert placement.gpu_load([[8, 8, 0, 4, 1]])[0].tolist() != found[0].tolist()


def test_the_first_replica_is_the_first_of_the_table():
    """Where one GPU has two, and on a node, the order is that of `logical_to_physical`."""
    rows, cluster = [[0, 1, 0, 2, 0, 3]], Cluster(3, 1, slots_per_gpu=2)
    load = [[6.0, 0, 0, 0]]
    spread = Placement(rows, cluster, 4).gpu_load(load, dispatch="nearest")
    assert spread.tolist() == [[2.0, 2.0, 2.0]]
    rows, cluster = [[0, 1, 0, 2, 3, 4, 0, 5]], Cluster(4, 2, slots_per_gpu=2)
    near = {"dispatch": "nearest", "tokens_from": [0, 0, 1, 0]}
    far = Placement([[0, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10]], Cluster(6, 3, slots_per_gpu=2), 11)
    assert Placement(rows, cluster, 6).gpu_load([[1.0] + [0] * 5], **near)[0, 3] == 1.0
    from_last = {"dispatch": "nearest", "tokens_from": [0, 0, 0, 0, 0, 1]}
    assert far.gpu_load([[1.0] + [0] * 10], **from_last)[0].tolist() == [0.5, 0.5, 0, 0, 0, 0]
    rank = [[1, 0, 0, 0, 0, 0, 2, 0]]
    swapped = Placement(rows, cluster, 6, replica_rank=rank).logical_to_physical[0, 0]
    assert swapped.tolist() == [2, 0, 6]


def test_scale_changes_nothing():
    for place, load, tokens in problems(3, 12):
        for dispatch in DISPATCHES:
            own = tokens if dispatch in ("nearest", "static") else None
            more = None if own is None else own * 8
            expected = place.balancedness(load, dispatch=dispatch, tokens_from=own)
            for scale in (2.0**900, 2.0**-900):
                got = place.balancedness(load * scale, dispatch=dispatch, tokens_from=more)
                np.testing.assert_array_equal(got, expected)


def test_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    place = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
    for dispatch in DISPATCHES:
        got = place.gpu_load(torch.tensor([[4.0, 2, 6]]), dispatch=dispatch)
        assert isinstance(got, torch.Tensor)
        expected = place.gpu_load([[4.0, 2, 6]], dispatch=dispatch)
        np.testing.assert_array_equal(got.numpy(), expected)


# ---- what is refused -----------------------------------------------------------------------------

PLACE = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
LOAD = [[4.0, 2.0, 6.0]]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dispatch": "lp"}, r"^dispatch='lp' is unknown; use one of: even, live, nearest, static"),
        ({"dispatch": "live", "split": [[[1, 0], [1, 0], [1, 0]]]},
         r"^dispatch='live' and a split were given, .*; leave one of them out$"),
        ({"tokens_from": [1, 1]},
         r"^tokens_from is for dispatch 'nearest' or 'static', and the dispatch is 'even'; use"),
        ({"dispatch": "live", "tokens_from": [1, 1]}, r"the dispatch is 'live'; use one of these"),
        ({"dispatch": "static", "tokens_from": [1, 1, 1]},
         r"^tokens_from has shape \(3,\), and there are 2 GPUs; use a number for each$"),
        ({"dispatch": "static", "tokens_from": [1, -1]}, r"^tokens_from\[1\]=-1 is not a finite"),
        ({"dispatch": "static", "tokens_from": [0, 0]}, r"^tokens_from is 0 for every GPU; use"),
    ],
)  # fmt: skip
def test_what_a_placement_refuses(how, message):
    for measure in (PLACE.gpu_load, PLACE.balancedness):
        with pytest.raises(ValueError, match=message):
            measure(LOAD, **how)


def test_no_tokens_start_on_a_dead_gpu():
    cluster = Cluster(2, slots_per_gpu=3, alive=[True, False])
    place = Placement([[0, 1, 2, -1, -1, -1]], cluster, 3)
    with pytest.raises(
        ValueError, match=r"^tokens_from\[1\]=5.0 is of a GPU that is not alive; us"
    ):
        place.gpu_load(LOAD, dispatch="nearest", tokens_from=[1, 5])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dispatch": "lp"}, r"^dispatch='lp' is unknown; use one of: even, live, nearest, static"),
        ({"live_share": 0.5}, r"^live_share=0.5 is for dispatch 'live', .* 'even'; use dispatch"),
        ({"dispatch": "live", "live_share": 1.5}, r"^live_share=1.5 is more than 1; use 1 or l"),
        ({"dispatch": "live", "live_share": 0}, r"is never live; use more than 0, or disp"),
        ({"dispatch": "live", "tokens_from": [1, 1]}, r"^tokens_from is for dispatch 'nearest' or"),
        ({"dispatch": "live", "topology": "prefer"},
         r"^topology='prefer' is beyond dispatch='live'; use topology 'strict' or 'ignore', or"),
        ({"dispatch": "live", "solver": "joint"},
         r"^dispatch='live' is beyond solver 'joint'; use solver 'incremental' or 'auto', or disp"),
        ({"dispatch": "nearest", "solver": "exact"}, r"^dispatch='nearest' is beyond solver 'ex"),
    ],
)  # fmt: skip
def test_what_solve_refuses(how, message):
    with pytest.raises(ValueError, match=message):
        solve(LOAD, Cluster(2, slots_per_gpu=2), **how)


# ---- plans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dispatch", DISPATCHES[1:])
def test_a_plan_is_measured_by_its_dispatch(dispatch):
    load = np.random.default_rng(4).lognormal(0.0, 1.0, (5, 3, 12))
    cluster = Cluster(4, 2, slots_per_gpu=4, speed=[1, 1, 2, 1], alive=[True, True, True, False])
    tokens = [3, 1, 1, 0] if dispatch in ("nearest", "static") else None
    how = {"dispatch": dispatch, "tokens_from": tokens}
    first = solve(load[0], cluster, **how)
    assert (first.solver, first.problem.dispatch) == ("incremental", dispatch)
    plan = solve(load, cluster, current=first.placement, max_moves=2, **how)
    assert plan.moves.max() <= 2
    place, expected = plan.placement, plan.problem.load
    np.testing.assert_array_equal(plan.balancedness, place.balancedness(expected, **how))
    gpu_load = place.gpu_load(expected, **how)
    assert plan.straggler_time == straggler_time(gpu_load, cluster.capacity)
    samples = [place.balancedness(sample, **how) for sample in plan.problem.samples]
    mean = np.average(samples, axis=0, weights=plan.problem.sample_weight)
    np.testing.assert_allclose(plan.expected_balancedness, mean, rtol=1e-12)
    assert (plan.balancedness <= plan.bound * (1 + 1e-9)).all()
    assert plan.under[dispatch] == pytest.approx(plan.balancedness.mean(), rel=1e-12)
    assert set(plan.under) == set(DISPATCHES)
    assert f"dispatch        {dispatch}; under others: " in plan.summary()


def test_groups_stay_on_their_nodes_under_a_live_split():
    load = np.random.default_rng(6).lognormal(0.0, 1.0, (2, 8))
    plan = solve(load, Cluster(4, 2, slots_per_gpu=3), num_groups=2, dispatch="live")
    assert plan.problem.hierarchical
    node = plan.placement.physical_to_logical.reshape(2, 2, 6) // 4
    assert (node == node[:, :, :1]).all()


def test_a_share_of_live_averages_times():
    load = np.random.default_rng(5).lognormal(0.0, 1.0, (3, 8))
    cluster = Cluster(4, slots_per_gpu=3)
    plan = solve(load, cluster, dispatch="live", live_share=0.25)
    live, even = (plan.placement.balancedness(load, dispatch=d) for d in ("live", "even"))
    np.testing.assert_allclose(plan.balancedness, 1 / (0.25 / live + 0.75 / even), rtol=1e-12)
    both = [straggler_time(plan.placement.gpu_load(load, dispatch=d), cluster.capacity)
            for d in ("live", "even")]  # fmt: skip
    assert plan.straggler_time == pytest.approx(0.25 * both[0] + 0.75 * both[1])
    assert "dispatch        0.25 live, else even; under others: even " in plan.summary()
    assert (plan.balancedness <= plan.bound).all()


def test_a_plan_that_is_poor_under_even_sharing_says_so():
    """Replicas of both experts everywhere, but one slot: even sharing cannot use it, live can."""
    cluster = Cluster(2, slots_per_gpu=2)
    place = Placement([[0, 1, 0, 2]], cluster, 3)
    load = [[4.0, 2.0, 6.0]]
    problem = Problem.build(load, cluster, dispatch="live")
    (note,) = Plan.evaluate(problem, Answer(place), "mine", "", ()).notes
    assert note.startswith("ONLY FOR A LIVE SPLIT: mean balancedness 1.0000 as planned, but 0.7500")
    assert Plan.evaluate(Problem.build(load, cluster), Answer(place), "mine", "", ()).notes == ()


# ---- bounds --------------------------------------------------------------------------------------

SHAPES = [(3, 2, 2), (3, 3, 2), (4, 3, 2), (4, 2, 3), (5, 3, 2), (5, 4, 2), (4, 6, 1), (6, 3, 2)]


def best_live(load, E, G, K):
    """Largest balancedness of one layer [E] under the best split of any placement."""
    counts = twins.all_placements(E, G, K).reshape(-1, G * E)
    rows = [np.repeat(np.tile(np.arange(E), G), count) for count in counts]
    place = Placement(rows, Cluster(G, slots_per_gpu=K), E)
    return place.balancedness(np.tile(load, (len(rows), 1)), dispatch="live").max()


@pytest.mark.parametrize(("E", "G", "K"), SHAPES)
def test_no_placement_beats_the_bound(E, G, K):
    """Under the best split of every placement there is; all other dispatches are splits too."""
    rng = np.random.default_rng(100 * E + 10 * G + K)
    load = np.concatenate([rng.lognormal(0, 1.5, (4, E)), rng.integers(0, 6, (3, E)) + 0.0])
    load[-2:, 0] *= 20
    cluster = Cluster(G, slots_per_gpu=K)
    tight = balancedness_bound(Problem.build(load, cluster, dispatch="live"))
    best = np.array([best_live(row, E, G, K) for row in load])
    assert (best <= tight * (1 + 1e-9)).all()
    assert (best >= tight - 0.25).all()
    for dispatch in ("nearest", "static"):
        limit = balancedness_bound(Problem.build(load, cluster, dispatch=dispatch))
        np.testing.assert_array_equal(limit, tight)


def test_live_reaches_what_the_bound_on_even_sharing_forbids():
    """Two slots per GPU and a spare one: partners bind even sharing alone."""
    rng = np.random.default_rng(7)
    beaten = 0
    for _ in range(40):
        load, cluster = rng.lognormal(0, 1.0, (1, 5)), Cluster(3, slots_per_gpu=2)
        even = balancedness_bound(Problem.build(load, cluster))
        live = balancedness_bound(Problem.build(load, cluster, dispatch="live"))
        assert live >= even * (1 - 1e-9)
        best = best_live(load[0], 5, 3, 2)
        assert best <= live * (1 + 1e-9)
        beaten += bool(best > even * (1 + 1e-6))
    assert beaten > 5


def test_without_spare_slots_every_dispatch_is_one():
    load, cluster = np.random.default_rng(8).lognormal(0, 1, (3, 8)), Cluster(4, slots_per_gpu=2)
    limits = [balancedness_bound(Problem.build(load, cluster, dispatch=d)) for d in DISPATCHES]
    for limit in limits[1:]:
        np.testing.assert_array_equal(limit, limits[0])
