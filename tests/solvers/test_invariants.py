"""What every solver promises, on any problem."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import Cluster, solve

CAREFUL = ["iterated-greedy", "local-search", "joint"]  # which is what "auto" runs
NAMES = ["greedy", *CAREFUL, "incremental"]


@dataclass(frozen=True)
class Case:
    load: np.ndarray = field(repr=False)
    cluster: Cluster
    num_groups: int

    @property
    def hierarchical(self):
        return self.num_groups > 1 and self.num_groups % self.cluster.num_nodes == 0

    @property
    def nodes(self):
        """Nodes that experts cannot leave."""
        return self.cluster.num_nodes if self.hierarchical else 1

    @property
    def places(self):
        """Slots that hold every expert once on every GPU that may have it."""
        return self.load.shape[1] // self.nodes * self.cluster.num_gpus

    def solve(self, name, load=None):
        load = self.load if load is None else load
        return solve(load, self.cluster, num_groups=self.num_groups, solver=name)

    def placed(self, name, load=None):
        return self.solve(name, load).placement.physical_to_logical

    def __repr__(self):
        return f"Case({self.load.tolist()}, {self.cluster}, {self.num_groups})"


def row(kind, rng, E):
    """Loads of one layer."""
    if kind == "tokens":
        return rng.integers(0, 2**20, E)
    if kind == "few":  # ties and zeros
        return rng.integers(0, 4, E)
    if kind == "hot":
        return rng.zipf(1.3, E) % 2**40
    if kind == "even":
        return np.full(E, rng.integers(0, 3))
    return rng.lognormal(0.0, 1.0, E)


WHOLE = ["tokens", "few", "hot", "even"]


@st.composite
def cases(draw, kinds=(*WHOLE, "real"), spare=True, same_kind=False):
    """Any cluster of up to 9 GPUs with up to 6 slots; the loads from a seed, a kind a layer."""
    nodes = draw(st.sampled_from([1, 1, 2, 3]))
    cluster = Cluster(nodes * draw(st.integers(1, 9 // nodes)), nodes, draw(st.integers(1, 6)))
    least = 1 if spare else cluster.num_slots
    E = draw(st.integers(least, cluster.num_slots))
    groups = draw(st.sampled_from([d for d in range(1, E + 1) if E % d == 0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    L = draw(st.integers(1, 3))
    rows = [row(draw(st.sampled_from(kinds)), rng, E) for _ in range(L)]
    return Case(np.array(rows, np.float64), cluster, groups)


def check(max_examples=60, **options):
    """Run a test for every solver on random cases."""

    def decorate(test):
        names = options.pop("names", NAMES)
        test = given(case=cases(**options))(test)
        return pytest.mark.parametrize("name", names)(
            settings(max_examples=max_examples, deadline=None)(test)
        )

    return decorate


# --- a placement of everything ----------------------------------------------------------------


@check()
def test_every_expert_is_placed_and_every_slot_filled(name, case):
    placement = case.solve(name).placement
    placed, count = placement.physical_to_logical, placement.replica_count
    L, E = case.load.shape
    assert placed.shape == (L, case.cluster.num_slots)
    assert placed.dtype == count.dtype == np.int64
    assert placed.min() >= 0
    assert placed.max() < E
    np.testing.assert_array_equal(count, twins.count_replicas(placed, E))
    assert count.min() >= 1
    assert (count.sum(axis=1) == case.cluster.num_slots).all()
    # The order of an expert's slots is the solver's own.
    slots = placement.logical_to_physical
    assert slots.shape == (L, E, count.max())
    listed = [[sorted(s for s in e if s >= 0) for e in layer] for layer in slots.tolist()]
    assert listed == twins.slots_of_experts(placed, E)
    assert ((slots[..., :-1] >= 0) | (slots[..., 1:] < 0)).all()  # the padding comes last


@check(names=CAREFUL, max_examples=100)
def test_no_duplicate_that_can_be_avoided(name, case):
    plan = case.solve(name)
    unavoidable = max(0, case.cluster.num_slots - case.places)
    assert plan.duplicates.tolist() == [unavoidable] * len(case.load)
    np.testing.assert_array_equal(
        plan.duplicates, twins.duplicates(plan.placement.physical_to_logical, case.cluster.num_gpus)
    )


@pytest.mark.parametrize("name", CAREFUL)
@pytest.mark.parametrize(
    ("load", "slots_per_gpu"),
    [
        ([0, 0, 0], 2),
        ([1, 1, 1, 3, 1, 1, 3], 5),
        ([4, 1, 1, 6, 1, 1], 5),
        ([4, 1, 1, 6, 1, 1, 1], 5),
        ([1, 41, 1, 1, 4, 21, 1, 1], 6),
    ],
)
def test_replicas_that_packing_put_together_are_parted(name, load, slots_per_gpu):
    """Longest first leaves too few GPUs open for the last replicas of these."""
    plan = solve(load, Cluster(3, slots_per_gpu=slots_per_gpu), solver=name)
    assert plan.duplicates.tolist() == [0]


@check()
def test_groups_stay_on_one_node(name, case):
    if not case.hierarchical:
        return
    L, E = case.load.shape
    group = case.placed(name) // (E // case.num_groups)
    for layer in group.reshape(L, case.cluster.num_nodes, -1):
        held = [set(node.tolist()) for node in layer]
        assert sum(len(groups) for groups in held) == case.num_groups
        assert {len(groups) for groups in held} == {case.num_groups // case.cluster.num_nodes}


# --- how good it is ---------------------------------------------------------------------------


@check()
def test_the_plan_tells_what_it_reaches_and_the_bound_holds(name, case):
    plan = case.solve(name)
    load = twins.gpu_load(case.load, plan.placement.physical_to_logical, case.cluster.num_gpus)
    np.testing.assert_allclose(plan.balancedness, twins.balancedness(load), rtol=1e-12)
    assert (plan.balancedness <= plan.bound * (1 + 1e-9)).all()
    assert (plan.balancedness > 0).all()
    top = load.max(axis=1).sum()
    assert plan.straggler_time == pytest.approx(top / load.mean(axis=1).sum() if top else 1.0)


@check(names=CAREFUL, max_examples=150)
def test_never_worse_than_greedy(name, case):
    greedy, plan = case.solve("greedy"), case.solve(name)
    wanted = np.minimum(greedy.balancedness, 0.999 * plan.bound)
    legal = greedy.duplicates == 0
    assert (plan.balancedness >= wanted * (1 - 1e-12))[legal].all()  # to rounding


@pytest.mark.parametrize("name", CAREFUL)
@pytest.mark.parametrize(
    ("load", "cluster", "num_groups"),
    [
        ([6, 2, 1, 7], Cluster(5, slots_per_gpu=2), 1),
        ([1, 1, 2, 1], Cluster(3, slots_per_gpu=2), 4),
        ([1, 18, 22, 17, 11, 17], Cluster(8, 2, 1), 6),
        ([2, 4, 4, 3, 2, 3, 4, 0], Cluster(4, 2, 2), 8),
    ],
)
def test_gives_way_where_the_greedy_is_lucky(name, load, cluster, num_groups):
    """The search by itself ends far below the greedy on these: ties, and groups on nodes."""
    case = Case(np.array([load], np.float64), cluster, num_groups)
    greedy, plan = case.solve("greedy"), case.solve(name)
    assert greedy.duplicates.tolist() == [0]
    assert plan.duplicates.tolist() == [0]
    assert plan.balancedness[0] >= greedy.balancedness[0] * (1 - 1e-12)


# --- what must not matter ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(case=cases(), exponent=st.integers(-900, 900))
def test_a_power_of_two_as_scale_changes_nothing(name, case, exponent):
    np.testing.assert_array_equal(
        case.placed(name), case.placed(name, np.ldexp(case.load, exponent))
    )


@pytest.mark.parametrize("name", CAREFUL)
@settings(max_examples=150, deadline=None)
@given(case=cases(kinds=WHOLE), factor=st.integers(2, 2**12))
def test_an_integer_as_scale_changes_nothing(name, case, factor):
    np.testing.assert_array_equal(case.placed(name), case.placed(name, case.load * factor))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(case=cases(kinds=["tokens"]), seed=st.integers(0, 2**32))
def test_the_names_of_experts_do_not_matter(name, case, seed):
    """Groups change places, and so do the experts inside each; distinct loads leave no tie.

    With one slot a pack (an expert a GPU, a group a node) the greedy goes by name, and so do all
    where every GPU can hold every expert; then only the balance has to stay the same.
    """
    rng = np.random.default_rng(seed)
    L, E = case.load.shape
    size = E // case.num_groups
    load = rng.integers(1, 2**40, (L, E)).astype(float)
    members = rng.permuted(np.arange(E).reshape(-1, size), axis=1)
    old = rng.permutation(members, axis=0).ravel()  # new expert e is the old expert old[e]
    before, after = case.solve(name, load), case.solve(name, load[:, old])
    np.testing.assert_allclose(after.balancedness, before.balancedness, rtol=1e-13)
    groups_a_node = case.num_groups // case.nodes
    if 1 < case.cluster.slots_per_gpu < E // case.nodes and (groups_a_node > 1 or case.nodes == 1):
        np.testing.assert_array_equal(
            old[after.placement.physical_to_logical], before.placement.physical_to_logical
        )


@check()
def test_layers_are_planned_one_by_one(name, case):
    apart = [case.placed(name, layer) for layer in case.load]
    np.testing.assert_array_equal(case.placed(name), np.concatenate(apart))


@check(max_examples=30)
def test_the_same_again(name, case):
    assert case.solve(name).placement == case.solve(name).placement


@check(max_examples=30)
def test_the_input_is_neither_changed_nor_kept(name, case):
    load = case.load.copy()
    plan = case.solve(name, load)
    np.testing.assert_array_equal(load, case.load)
    results = [plan.balancedness, plan.bound, plan.duplicates, plan.placement.physical_to_logical]
    assert not any(np.shares_memory(load, result) for result in results)
    before = plan.placement.physical_to_logical.copy()
    load[:] = 1e9
    np.testing.assert_array_equal(plan.placement.physical_to_logical, before)


# --- the ends of the range --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("largest", [5e-324, 1e-300, 1e39, 1e300, 1.7e308])
def test_loads_at_the_ends_of_float64(name, largest):
    load = np.array([[8, 4, 2, 1, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 8]]) / 8 * largest
    plan = solve(load, Cluster(3, slots_per_gpu=3), solver=name)
    assert ((plan.balancedness > 0) & (plan.balancedness <= plan.bound * (1 + 1e-9))).all()
    assert plan.balancedness[1] == 1.0
    assert np.isfinite(plan.straggler_time)


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_very_different_scale(name):
    load = np.array([[8, 4, 2, 1, 1, 1.0]] * 3) * [[1e-200], [1.0], [1e200]]
    placed = solve(load, Cluster(3, slots_per_gpu=3), solver=name).placement.physical_to_logical
    np.testing.assert_array_equal(placed, placed[[1, 1, 1]])


@pytest.mark.parametrize("topology", ["ignore", "strict"])
def test_replicas_are_numbered_as_without_the_dead_gpus(topology):
    """DeepSeek's planner numbers replicas in the order they are given out, not by slot."""
    load = np.random.default_rng(3).lognormal(0.0, 1.5, (4, 12))
    alive = [False, True, True, True, False, True]
    cluster = Cluster(6, 2, slots_per_gpu=5, alive=alive)
    how = {"num_groups": 2, "topology": topology, "solver": "greedy"}
    whole = solve(load, cluster, **how).placement.logical_to_physical
    nodes = 2 if topology == "strict" else 1
    small = solve(load, Cluster(4, nodes, slots_per_gpu=5), **how).placement.logical_to_physical
    assert (np.diff(np.where(small < 0, 99, small)) < 0).any()  # not by slot
    living = np.flatnonzero(cluster.living_slot)
    np.testing.assert_array_equal(whole, np.where(small < 0, -1, living[small]))
