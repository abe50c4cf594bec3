"""What the benchmarks compute with: nothing is timed here."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    drift,
    drift_plot,
    drift_table,
    drift_traces,
    efforts,
    efforts_plot,
    gap,
    gap_exact,
    gap_plot,
    gap_sizes,
    ours,
    readme,
    scaling,
    scaling_plot,
    sizes,
    wanted,
)
from benchmarks.measure import ratio, summary
from benchmarks.packing import max_load
from benchmarks.peers import Planner
from benchmarks.quality import share_at_least
from evenload import Cluster, Placement, solve


def test_ratio_is_the_median_within_rounds() -> None:
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_summary_is_in_milliseconds() -> None:
    assert summary([0.003, 0.001, 0.002]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_max_load() -> None:
    weight, pack = np.array([[1.0, 2.0, 3.0], [4.0, 1.0, 1.0]]), np.array([[0, 1, 0], [1, 0, 0]])
    assert max_load(weight, pack, 2).tolist() == [4.0, 4.0]


def test_share_at_least_forgives_rounding_only() -> None:
    assert share_at_least([1.0, 0.5, 0.9], [1.0 + 1e-15, 0.6, 0.8]) == pytest.approx(2 / 3)


def test_the_table_goes_between_its_markers() -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    wanted = f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    assert readme.insert(text, "new") == wanted
    for wrong in ("no markers", text + text, f"{readme.END} {readme.BEGIN}"):
        with pytest.raises(ValueError, match="the README needs one"):
            readme.insert(wrong, "new")


def test_a_floor_is_said_to_be_met_or_missed_by_how_much() -> None:
    case = "320/160 lognormal 1.0"
    assert wanted.quality(case, 0.947, 0.95) == ">= 0.947: pass"
    assert wanted.quality(case, 0.945, 0.95) == ">= 0.947: falls short by 0.00200"
    assert wanted.quality(case, 0.945, 0.946).endswith("beyond the bound 0.94600")
    assert wanted.quality("288/96 zipf 1.0", 0.695, 0.7) == ">= bound - 0.01: pass"
    assert wanted.quality("a size nobody set a floor for", 0.5, 1.0) == ""
    assert wanted.speed("joint fast", 4.0) == "<= 3x: falls short by 1.0x"
    assert wanted.speed("greedy", 4.0) == ""


def test_every_floor_is_of_a_size_that_is_measured() -> None:
    names = [size.name for size in sizes.DRAWN + sizes.MEASURED]
    assert len(set(names)) == len(names)
    assert set(wanted.FLOORS) | set(efforts_plot.PANELS) <= set(names)
    assert set(sizes.QUICK) <= set(names)


def test_efforts_of_two_layers(tmp_path: Path) -> None:
    size = sizes.Size("lognormal 1.0", 288, 96)
    measured = efforts.measure(size, ours.effort_planners()[2:5], 2, 1, print, num_layers=2)
    first, *others = measured["planners"]
    assert first["ratio"] == 1.0
    assert [p["name"] for p in others] == ["joint fast", "joint standard"]
    assert measured["bound"] >= others[1]["most"] >= others[0]["least"]
    result = {"seeds": 2, "rounds": 1, "missing": ["A: none."], "sizes": [measured]}
    text = efforts.render(result)
    assert "Not run: A: none." in text
    assert ">= 0.995" in text
    efforts_plot.draw(result, tmp_path / "efforts.png")


def test_gap_of_two_layers(tmp_path: Path) -> None:
    size = sizes.Size("lognormal 1.0", 288, 96)
    measured = gap_sizes.measure(size, 1, print, num_layers=2)
    values = list(measured["percentiles"]["standard"].values())
    assert values == sorted(values)
    assert values[0] >= 0.0
    assert gap_sizes.verdict(0.03, 0.02) == "<= 0.02: falls short by 0.01000"
    small = gap_exact.Small(2, 6, 8, 4, 1.0)
    optima = [] if gap_exact.missing() else [gap_exact.measure(small, print)]
    for found in (optima, []):
        why = "" if found else "there is no OR-tools"
        result = {"seeds": 1, "sizes": [measured], "missing": why, "exact": found}
        text = gap.render(result)
        assert ("nowhere below an optimum" if found else "Not run: there") in text
        gap_plot.draw(result, tmp_path / "gap.png")


def test_scaling_shows_what_there_is(tmp_path: Path) -> None:
    def points(*sizes: tuple[int, int, int, int]) -> list[dict[str, object]]:
        made = {"ms": {"median": 1.0}, "balancedness": 0.9, "bound": 1.0}
        return [{"size": list(size), **made} for size in sizes]

    axes = {axis: points(*chosen) for axis, chosen in scaling.AXES.items()}
    searched = {axis: points(*chosen) for axis, chosen in scaling.SEARCHED.items()}
    without = {"rounds": 1, "axes": axes}
    both = without | {"efforts": {"joint fast": searched}}
    assert "joint fast" not in scaling.render(without)
    assert scaling.render(both).startswith(scaling.render(without))
    for result in (without, both):
        scaling_plot.draw(result, tmp_path / "scaling.png")


def small_drift(windows: int = 9) -> drift_traces.Drift:
    trace = np.random.default_rng(0).integers(1, 99, (windows, 2, 6)).astype(float)
    return drift_traces.Drift("small", trace, Cluster(3, slots_per_gpu=3))


def test_a_policy_sees_the_past_only_and_the_first_plan_is_free() -> None:
    seen = []

    def plan(past: np.ndarray, current: Placement) -> Placement:
        seen.append(len(past))
        return solve(past[-1], current.cluster).placement

    reached, moved = drift.follow(small_drift(), drift.Policy("any", plan))
    assert seen == [4, 5, 6, 7, 8]
    assert (len(reached), len(moved)) == (5, 4)


def test_windows_are_merged_whole() -> None:
    trace = np.arange(14.0).reshape(7, 1, 2)
    np.testing.assert_array_equal(drift_traces.merged(trace, 3)[:, 0], [[6, 9], [24, 27]])


def test_drift_is_told_and_drawn(tmp_path: Path) -> None:
    theirs = Planner(
        "DeepSeek EPLB",
        lambda load, *_: (
            solve(load, Cluster(3, slots_per_gpu=3), solver="greedy").placement.physical_to_logical
        ),
    )
    trace = drift.measure(small_drift(), [theirs])
    speed = {"auto": {"ms": 1.0, "to_local_search": 2.0, "to_auto": 1.0}}
    result = {"missing": [], "traces": [trace], "speed": speed}
    text = drift_table.render(result)
    assert "Free moves: above DeepSeek's next window on" in text
    assert "| small, 3/9 | oracle |" in text
    drift_plot.draw(result, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 1000
