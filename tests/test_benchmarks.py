"""What the benchmarks compute with: nothing is timed here."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

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
    labels,
    ours,
    readme,
    replay_speed,
    run,
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

KEPT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "results.json"


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


def test_a_redraw_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.main(["--redraw", "--out", str(tmp_path)]) == run.MISSING
    kept = KEPT.read_text()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results.json").write_text(kept)
    monkeypatch.setattr(run, "_run", None)
    assert run.main(["--redraw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "benchmarks" / "results.json").read_text() == kept
    page, shown = (folder / "README.md" for folder in (tmp_path / "benchmarks", KEPT.parent))
    assert page.read_text() == shown.read_text(), "run `python -m benchmarks.run --redraw`"
    for name in ("efforts", "gap", "scaling"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        run.main(["--redraw", "gap"])


def test_labels_and_their_lines_cover_nothing() -> None:
    """Five points in a row, of which two are in one place, and a line down from the last."""
    figure = Figure(figsize=(4.6, 3.9), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    points = [(1.5, 8.0), (2.3, 8.0), (2.8, 8.0), (2.8, 8.0), (3.2, 7.9)]
    names = ["greedy", "local-search", "iterated-greedy", "SGLang vec", "joint fast"]
    figure.draw_without_rendering()
    labels.write(axes, names, points, ["C0"] * 5, [points[-1], (5.0, 1.0)])
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    centres = [axes.transData.transform(point) for point in points]
    for i, (centre, box) in enumerate(zip(centres, boxes, strict=True)):
        for other in boxes[:i] + boxes[i + 1 :]:
            assert not box.overlaps(other)
            assert not any(part.overlaps(other) for part in labels.leader_of(centre, box))
        assert not any(box.contains(*dot) for dot in centres)


def test_legends_and_titles_of_the_gap_are_outside_and_whole(tmp_path: Path) -> None:
    result = json.loads(KEPT.read_text())["gap"]["result"]
    figure = gap_plot.figure_of(result)
    figure.savefig(tmp_path / "gap.png")
    for axes in figure.axes:
        frame = axes.get_window_extent()
        legend = axes.get_legend().get_window_extent()
        assert not legend.overlaps(frame)
        for box in (legend, axes.title.get_window_extent()):
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0
    left, right = (axes.title.get_window_extent() for axes in figure.axes)
    assert not left.overlaps(right)


def test_replay_speed_shows_both_lengths() -> None:
    lengths = [{"windows": T - 1, "seconds": 2.0, "peak": 3e6, "kept": 1e6} for T in (11, 41)]
    case = {"policy": "never", "interval": 1, "oracle": None, "file": "npy", "keep": True}
    result = {"shape": [58, 256, 288, 32], "cases": [case | {"lengths": lengths}]}
    text = replay_speed.render(result)
    assert "windows/s, T=11 | windows/s, T=41" in text
    assert "| never | 1 | none | npy | all | 5.00 | 20.0 | 3.0 | 3.0 | 1.0 |" in text


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
