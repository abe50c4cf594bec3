"""The fewest slots that reach a wanted balance."""

import io
import json
import math

import numpy as np
import pytest
from command import run
from hypothesis import given
from hypothesis import strategies as st

from evenload import Cluster, Placement, redundancy, solve
from evenload.redundancy import Point, Redundancy, smallest_passing, smallest_redundancy
from evenload.report.figures import draw_slots_curve
from evenload.report.tables import slots_entry, slots_lines
from evenload.report.text import down
from evenload.synth import lognormal_load

LOAD = lognormal_load(4, 32, 1.0, seed=0)


def test_no_smaller_number_of_slots_reaches_it():
    found = smallest_redundancy(LOAD, 8, wanted=0.97)
    assert [p.num_slots for p in found.curve] == list(range(32, found.curve[-1].num_slots + 1, 8))
    assert all(p.balancedness < 0.97 for p in found.curve[:-1])
    assert found.curve[-1].balancedness >= 0.97
    assert found.plan.placement.num_slots == found.curve[-1].num_slots
    assert all(p.balancedness <= p.bound * (1 + 1e-9) for p in found.curve)
    alone = solve(LOAD, Cluster(8, num_slots=found.curve[-1].num_slots))
    assert alone.placement == found.plan.placement


def test_it_ends_where_every_gpu_holds_every_expert():
    found = smallest_redundancy([[5.0, 1.0, 1.0]], 2, wanted=1.0)
    assert found.curve[-1].balancedness == 1.0
    assert found.curve[-1].num_slots <= 6


def test_a_perfect_balance_is_found_without_trying_all():
    """No number of slots short of every expert on every GPU is perfect."""
    load = lognormal_load(2, 128, 1.0, seed=0)
    told = []
    found = smallest_redundancy(load, 4, wanted=1.0, effort="fast", say=told.append)
    assert found.curve[-1].num_slots == 4 * 128
    assert found.num_tried == len(told) == len(found.curve) < 30
    assert [p.num_slots for p in found.curve[:16]] == list(range(128, 192, 4))


def test_what_is_larger_than_the_answer_is_no_part_of_the_curve(monkeypatch):
    """Plans that are taken to be good enough from 61 slots a GPU on."""

    def point(num_slots, balancedness, bound):
        return Point(num_slots, 0.99 if num_slots >= 61 * 2 else 0.98, bound)

    monkeypatch.setattr(redundancy, "Point", point)
    found = smallest_redundancy(lognormal_load(1, 80, 1.0, seed=0), 2, solver="greedy")
    sizes = [p.num_slots // 2 for p in found.curve]
    assert sizes[:16] == list(range(40, 56))
    assert sizes == sorted(set(sizes))
    assert sizes[-2:] == [60, 61]
    assert found.plan.placement.num_slots == 61 * 2
    assert found.num_tried > len(sizes)


@given(first=st.integers(1, 40), size=st.integers(1, 300), data=st.data())
def test_the_smallest_that_passes(first, size, data):
    last = first + size - 1
    least = data.draw(st.integers(first, last + 1))
    tested = []

    def passes(number):
        tested.append(number)
        return number >= least

    assert smallest_passing(passes, first, last) == (least if least <= last else None)
    assert len(set(tested)) == len(tested)
    assert set(tested) <= set(range(first, last + 1))
    if least <= last:
        assert len(tested) <= 16 + 2 * math.log2(size) + 2
    else:
        assert len(tested) == size


@given(passing=st.sets(st.integers(0, 99)))
def test_one_of_any_that_pass_is_found(passing):
    """Also where more is sometimes worse; and a smaller one only in between two that fail."""
    tested = set()

    def passes(number):
        tested.add(number)
        return number in passing

    found = smallest_passing(passes, 0, 99)
    assert (found is None) == (not passing)
    if passing:
        assert found in passing
        assert found == 0 or found - 1 in tested - passing
        if min(passing) < 16:
            assert found == min(passing)


def test_it_tells_what_it_tries():
    told = []
    found = smallest_redundancy(LOAD, 8, wanted=0.9, say=told.append)
    first = down(found.curve[0].balancedness, 4)
    assert told == ["32 slots", f"40 slots (32: {first})"]


def test_rounding_does_not_keep_it_from_a_perfect_balance():
    """With every expert everywhere sums of thirds may differ in their last bit."""
    for seed in range(20):
        load = np.random.default_rng(seed).lognormal(0, 3, (1, 5))
        found = smallest_redundancy(load, 3, wanted=1.0)
        assert found.curve[-1].balancedness == pytest.approx(1.0, abs=1e-12)


def test_a_solver_that_wastes_slots_may_never_get_there():
    """DeepSeek's planner gives a hot expert more replicas than there are GPUs."""
    message = (
        r"^wanted=1\.0: greedy reached it with none of 3 to 9 slots, and more would be duplicates; "
        r"use 0\.\d+ or less, or solver 'auto'$"
    )
    with pytest.raises(ValueError, match=message):
        smallest_redundancy([[7.0, 0.1, 0.3]], 3, wanted=1.0, solver="greedy")


def test_what_was_not_possible_is_told_as_by_solve():
    found = smallest_redundancy(LOAD, 6, 3, wanted=0.9, num_groups=4)
    assert found.plan.notes == solve(LOAD, found.plan.placement.cluster, num_groups=4).notes
    assert found.plan.notes[0].startswith("groups ignored: num_groups=4 is not a multiple of")


def test_a_balance_that_whole_groups_rule_out_is_refused_at_once():
    message = (
        r"^wanted=0.99: no number of slots reaches that with topology 'strict', under which the "
        r"balancedness is at most 0\.95346, mean over layers; use 0\.953 or less, or topology "
        r"'prefer' or 'ignore'$"
    )
    told = []
    with pytest.raises(ValueError, match=message):
        smallest_redundancy(LOAD, 8, 2, num_groups=2, say=told.append)
    assert told == []
    assert smallest_redundancy(LOAD, 8, 2, num_groups=2, wanted=0.95).curve[-1].num_slots == 40
    ignoring = smallest_redundancy(LOAD, 8, 2, num_groups=2, topology="ignore")
    assert ignoring.curve[-1].balancedness >= 0.99


def test_whole_groups_end_where_each_node_has_all_of_its_experts_everywhere(monkeypatch):
    """The bound lets it through, the solver does not get there."""

    def poor(problem):
        S, E = problem.cluster.num_slots, problem.num_experts
        row = np.where(np.arange(S) < E, np.arange(S), 0)
        return Placement(np.tile(row, (problem.num_layers, 1)), problem.cluster, E)

    monkeypatch.setattr("evenload.planner.get_solver", lambda _: poor)
    message = (
        r"^wanted=0\.9: greedy reached it with none of 32 to 128 slots, and more would be "
        r"duplicates; use 0\.\d+ or less, or topology 'prefer' or 'ignore'$"
    )
    with pytest.raises(ValueError, match=message):
        smallest_redundancy(LOAD, 8, 2, num_groups=2, wanted=0.9, solver="greedy")


@pytest.mark.parametrize(
    ("gpus", "nodes", "groups"), [(8, 4, 8), (16, 8, 8), (8, 8, 8), (6, 3, 3), (12, 6, 6)]
)
def test_strict_has_room_from_the_fewest_slots_on(gpus, nodes, groups):
    load = lognormal_load(2, 24, 0.3, seed=1)
    found = smallest_redundancy(load, gpus, nodes, num_groups=groups, wanted=0.5)
    assert (found.plan.away_share == 0).all()


def test_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    found = smallest_redundancy(torch.tensor(LOAD), 8, wanted=0.9)
    assert isinstance(found.plan.balancedness, torch.Tensor)
    assert found.curve == smallest_redundancy(LOAD, 8, wanted=0.9).curve


# ---- words and picture -----------------------------------------------------------------------


def made_up(num_points):
    plan = solve(LOAD, Cluster(8, slots_per_gpu=4), solver="greedy")
    points = [Point(32 + 8 * i, 0.5 + 0.4 * i / num_points, 0.999999) for i in range(num_points)]
    return Redundancy(0.99, plan, tuple(points), num_points)


def test_lines_name_every_try_unless_there_are_many():
    assert slots_lines(None) == []
    assert slots_lines(made_up(2)) == [
        "slots tried for a balancedness of 0.99, mean over layers:",
        "      32 slots (0 redundant): 0.50000 (at most 1.00000)",
        "      40 slots (8 redundant): 0.70000 (at most 1.00000)",
    ]
    many = slots_lines(made_up(100))
    assert many[2] == "     ... and 88 more between; --json has them all"
    assert len(many) == 14
    assert many[3].startswith("     744 slots ")
    assert many[-1].startswith("     824 slots ")
    assert len(slots_entry(made_up(100))["redundancy"]["curve"]) == 100
    assert slots_entry(None) == {}


@pytest.mark.parametrize("num_points", [1, 2, 9, 11, 100])
def test_the_curve_shows_the_tried_numbers_only(num_points):
    pytest.importorskip("matplotlib")
    found = made_up(num_points)
    figure = draw_slots_curve(found)
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    tried = [p.num_slots - 32 for p in found.curve]
    dots = axes.get_lines()[-1]
    assert list(dots.get_xdata()) == tried
    assert list(dots.get_ydata()) == [p.balancedness for p in found.curve]
    ticks = axes.get_xticks().tolist()
    assert set(ticks) <= set(tried)
    assert (ticks[0], ticks[-1], len(ticks) <= 10) == (tried[0], tried[-1], True)
    figures = [down(p.balancedness, 4) for p in found.curve if p.num_slots - 32 in ticks]
    assert [text.get_text() for text in axes.texts] == figures
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["wanted: 0.99", "proven bound, tokens shared evenly", "reached by greedy"]


# ---- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0, 1.5, float("nan"), None])
def test_a_balance_that_is_none(wanted):
    with pytest.raises(ValueError, match=r"^wanted="):
        smallest_redundancy(LOAD, 8, wanted=wanted)


@pytest.fixture
def planning(tmp_path, monkeypatch):
    np.savetxt(tmp_path / "loads.csv", LOAD, delimiter=",")
    monkeypatch.chdir(tmp_path)
    return lambda *options: run("plan", "loads.csv", "--gpus", 8, *options)


def test_the_command_finds_prints_and_draws_it(tmp_path, planning):
    done = planning("--redundant", "auto", "--target", "0.97", "--curve", "c.png", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    curve = report["redundancy"]["curve"]
    assert [(p["num_slots"], p["redundant"]) for p in curve] == [(32, 0), (40, 8)]
    assert report["placements"][-1]["balancedness"]["mean"] == curve[-1]["balancedness"]
    assert "tried 2 numbers of slots in " in done.stderr
    assert curve[-1]["balancedness"] >= 0.97 > curve[-2]["balancedness"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_takes_clusters_of_all_kinds(planning):
    options = ("--redundant", "17", "--speed", "1,1,1,1,2,2,2,2", "--dead", "3", "--json")
    done = planning(*options, "--effort", "fast", "--plot", "p.png")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cluster"]["num_slots"] == 49
    assert sum(e == -1 for e in report["physical_to_logical"][0]) == 6
    assert "NaN" not in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--redundant", "x"), "--redundant x is no number"),
        (("--redundant", "3", "--slots", "40"), "--slots and --redundant are two ways"),
        (("--curve", "c.png"), "--curve is drawn for --redundant auto"),
        (("--redundant", "auto", "--dead", "1"), "leave out --slots, --speed and --dead"),
        (("--redundant", "auto", "--target", "1.5"), "--target 1.5 is outside (0, 1]; use 0.99"),
        (("--redundant", "auto", "--target", "0"), "--target 0 is outside (0, 1]; use 0.99"),
        (("--redundant", "auto", "--target", "nan"), "--target nan is outside (0, 1]; use 0.99"),
        (("--target", "0.9"), "--target is for --redundant auto"),
        (("--redundant", "auto", "--groups", "2", "--nodes", "2"), "no number of slots reaches"),
        (("--speed", "1,b"), "--speed 1,b: not numbers"),
        (("--speed", "1,2"), "speed has 2 entries for num_gpus=8"),
        (("--dead", "9"), "--dead 9 is no GPU; use 0 to 7"),
        (tuple(f"--dead={gpu}" for gpu in range(8)), "--dead: all 8 GPUs are gone"),
        (("--topology", "loose"), "use one of: strict, prefer, ignore"),
        (("--effort", "hard"), "use one of: fast, standard, thorough"),
        (("--cross-node-price", "-1", "--topology", "prefer"), "cross_node_price=-1.0"),
        (("--cross-node-price", "1"), "--cross-node-price 1 is for --topology prefer; give both"),
        (("--cross-node-price", "2", "--topology", "strict"), "--cross-node-price 2 is for"),
        (("--nodes", "4", "--groups", "2", "--topology", "strict"), "does not divide"),
    ],
)
def test_the_command_says_what_is_wrong(planning, options, message):
    done = planning(*options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
