"""What the benchmarks compute with: nothing is timed here."""

import copy
import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    baseline,
    cluster,
    cold_start,
    copying,
    decode,
    drift,
    efforts,
    frozen,
    gap,
    live,
    memory,
    on_gpu_page,
    phases,
    problems,
    readers,
    reorder,
    replay_speed,
    run,
    scaling,
    seconds,
    while_serving,
)
from benchmarks.measure import ratio, summary
from benchmarks.planners import Planner, ours
from benchmarks.quality_speed import max_load
from evenload import Cluster, Placement, solve
from evenload.cost import ExpertTime
from evenload.io import FORMATS

KEPT = run.OUT / "benchmarks" / "results.json"
ON_GPU = KEPT.with_name("on_gpu.json")


def test_ratio_is_the_median_within_rounds() -> None:
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_summary_is_in_milliseconds() -> None:
    assert summary([0.003, 0.001, 0.002]) == {"min": 1.0, "median": 2.0, "max": 3.0}


def test_max_load() -> None:
    weight, pack = np.array([[1.0, 2.0, 3.0], [4.0, 1.0, 1.0]]), np.array([[0, 1, 0], [1, 0, 0]])
    assert max_load(weight, pack, 2).tolist() == [4.0, 4.0]


def test_the_table_goes_between_its_markers() -> None:
    text = f"before\n{run.BEGIN}\nold\n{run.END}\nafter\n"
    assert run.insert(text, "new") == f"before\n{run.BEGIN}\nnew\n{run.END}\nafter\n"
    for wrong in ("no markers", text + text, f"{run.END} {run.BEGIN}"):
        with pytest.raises(ValueError, match="the README needs one"):
            run.insert(wrong, "new")


def test_shapes_have_one_name_each() -> None:
    names = [shape.name for shape in problems.SHAPES + problems.SHAPES_MEASURED]
    assert len(set(names)) == len(names)
    assert set(problems.QUICK) | set(efforts.PANELS) <= set(names)


def test_every_reader_is_measured() -> None:
    assert {name.partition(",")[0] for name in readers.FORMATS} == {f.name for f in FORMATS}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lowers a peak")
@pytest.mark.parametrize("name", ["npy", "vllm-routed-experts", "evenload-npz"])
def test_readers_of_small_files(name: str) -> None:
    measured = readers.measure(name, 2, print)
    assert measured["seconds"] > 0 < measured["library"]["seconds"]
    assert f"| {name} |" in readers.render({"readers": [measured]})


def test_efforts_of_two_layers(tmp_path: Path) -> None:
    shape = problems.Shape("lognormal 1.0", 288, 96)
    planners = ours("local-search", "joint fast", "joint standard")
    measured = efforts.measure(shape, planners, 2, 1, print, num_layers=2)
    first, *others = measured["planners"]
    assert first["ratio"] == 1.0
    assert [p["name"] for p in others] == ["joint fast", "joint standard"]
    assert measured["bound"] >= others[1]["most"] >= others[0]["least"]
    result = {"seeds": 2, "rounds": 1, "missing": ["A: none."], "sizes": [measured]}
    assert "Not run: A: none." in efforts.render(result)
    efforts.draw(result, tmp_path / "efforts.png")


def test_gap_of_two_layers(tmp_path: Path) -> None:
    shape = problems.Shape("lognormal 1.0", 288, 96)
    measured = gap.measure(shape, 1, print, num_layers=2)
    values = list(measured["percentiles"]["standard"].values())
    assert values == sorted(values)
    assert values[0] >= 0.0
    optima = [] if gap.missing() else [gap.against_optima(gap.Small(2, 6, 8, 4, 1.0), print)]
    for found in (optima, []):
        why = "" if found else "there is no OR-tools"
        result = {"seeds": 1, "sizes": [measured], "missing": why, "exact": found}
        text = gap.render(result)
        assert ("nowhere below an optimum" if found else "Not run: there") in text
        gap.draw(result, tmp_path / "gap.png")


def test_optima_are_proven_where_the_bound_is_reached() -> None:
    pytest.importorskip("ortools")
    found = gap.against_optima(gap.Small(3, 6, 8, 4, 1.0), print)
    assert found["proven"] == found["layers"] == 3
    assert found["optimum"] >= found["joint"]
    assert min(found["slack"]) >= -gap.ROUNDING


def test_scaling_shows_both_tables(tmp_path: Path) -> None:
    def points(sizes: list[scaling.Size]) -> list[dict[str, object]]:
        made = {"ms": {"median": 1.0}, "balancedness": 0.9, "bound": 1.0}
        return [{"size": list(size), **made} for size in sizes]

    axes = {axis: points(chosen) for axis, chosen in scaling.AXES.items()}
    searched = {axis: points(chosen) for axis, chosen in scaling.SEARCHED.items()}
    result = {"rounds": 1, "axes": axes, "efforts": {"joint fast": searched}}
    assert scaling.render(result).count("joint fast") == sum(map(len, searched.values()))
    scaling.draw(result, tmp_path / "scaling.png")


def test_a_redraw_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.main(["--redraw", "--out", str(tmp_path)]) == run.MISSING
    kept = KEPT.read_text()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results.json").write_text(kept)
    (tmp_path / "benchmarks" / "on_gpu.json").write_text(ON_GPU.read_text())
    monkeypatch.setattr(run, "_run", None)
    assert run.main(["--redraw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "benchmarks" / "results.json").read_text() == kept
    page, shown = (folder / "README.md" for folder in (tmp_path / "benchmarks", KEPT.parent))
    assert page.read_text() == shown.read_text(), "run `python -m benchmarks.run --redraw`"
    for name in ("efforts", "gap", "drift", "scaling"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        run.main(["--redraw", "gap"])


def test_what_did_not_run_on_a_gpu_is_told() -> None:
    kept = json.loads(ON_GPU.read_text())
    for section, row in (("splitting", -1), ("expert-time", 0)):
        results = kept[section]["result"]["results"]
        names = {name: results[row][name] for name in ("case", "way", "layers", "model", "dtype")
                 if name in results[row]}  # fmt: skip
        results[row] = names | {"not_run": "there is no nvcc"}
    kept["splitting"]["result"]["results"][0]["same_as_cpu"] = False
    text = on_gpu_page.render(kept)
    assert "SGLang LPLBSolver | not run |" in text
    assert "qwen3-30b-a3b | bf16 | not run |" in text
    assert "In 71 of 72 runs" in text
    assert "expert-time" not in on_gpu_page.render({"splitting": kept["splitting"]})


@pytest.mark.parametrize("section", [efforts, gap])
def test_legends_and_titles_are_outside_and_whole(section, tmp_path: Path) -> None:
    name = section.__name__.split(".")[1]
    figure = section.figure_of(json.loads(KEPT.read_text())[name]["result"])
    figure.savefig(tmp_path / "figure.png")
    legends = figure.legends + [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert legends
    frames = [axes.get_window_extent() for axes in figure.axes]
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    boxes = [legend.get_window_extent() for legend in legends]
    assert not any(box.overlaps(frame) for box in boxes for frame in frames)
    for box in boxes + titles:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
    for i, title in enumerate(titles):
        assert not any(title.overlaps(other) for other in titles[:i])


def test_every_planner_of_the_efforts_has_a_mark_of_its_own() -> None:
    kept = json.loads(KEPT.read_text())["efforts"]["result"]
    names = {planner["name"] for size in kept["sizes"] for planner in size["planners"]}
    assert names == set(efforts.MARKS)
    assert len(set(efforts.MARKS.values())) == len(names)
    told = [text.get_text() for text in efforts.figure_of(kept).legends[0].get_texts()]
    assert set(told) == names


def test_replay_speed_shows_both_lengths() -> None:
    lengths = [{"windows": T - 1, "seconds": 2.0, "peak": 3e6, "kept": 1e6} for T in (11, 41)]
    case = {"policy": "never", "interval": 1, "oracle": None, "file": "npy", "keep": True}
    result = {"shape": [58, 256, 288, 32], "cases": [case | {"lengths": lengths}]}
    text = replay_speed.render(result)
    assert "windows/s, T=11 | windows/s, T=41" in text
    assert "| never | 1 | none | npy | all | 5.00 | 20.0 | 3.0 | 3.0 | 1.0 |" in text


def test_a_start_from_an_empty_cache_counts_compilations() -> None:
    program = "import numba\nnumba.njit(lambda x: x + 1)(1)\nprint('said by the program')"
    found = cold_start.cold(print, {"one function": program})["one function"]
    assert found["compilations"] == 1
    assert found["cpu"] > 0.0
    result = {"rounds": 1, "seconds": {cold_start.BARE: [0.01]}, "cold": {"one function": found}}
    assert "| one function |" in cold_start.render(result)


def test_a_dump_is_shown_as_it_was_read() -> None:
    call = {"name": "a call", "input": 10**6, "output": 10**6, "peak": 4 * 10**6}
    dump = {"tokens": 64, "bytes": 2 * 10**9, "windows": 9, "peak": 5 * 10**6, "seconds": 1.5}
    text = memory.render({"calls": [call], "dumps": [dump]})
    assert "| a call | 1.00 | 1.00 | 4.00 | 2.00 |" in text
    assert "| 64 | 2000 | 9 | 5.00 | 1.50 |" in text


# --- drift ----------------------------------------------------------------------------------------


def small_drift(windows: int = 9) -> problems.Drift:
    trace = np.random.default_rng(0).integers(1, 99, (windows, 2, 6)).astype(float)
    return problems.Drift("small", trace, Cluster(3, slots_per_gpu=3))


def test_a_policy_sees_the_past_only_and_the_first_plan_is_free() -> None:
    seen = []

    def plan(past: np.ndarray, current: Placement) -> Placement:
        seen.append(len(past))
        return solve(past[-1], current.cluster).placement

    reached, moved = drift.follow(small_drift(), drift.Policy("any", plan))
    assert seen == [4, 5, 6, 7, 8]
    assert (len(reached), len(moved)) == (5, 4)
    reached, _ = drift.follow(small_drift(), drift.Policy("any", plan), stride=2)
    assert seen[5:] == [4, 6, 8]
    assert len(reached) == 3


def test_copies_are_counted_and_told() -> None:
    trace = np.random.default_rng(0).integers(1, 99, (34, 2, 8)).astype(float)
    counted = copying.measure(copying.Case("small", trace, Cluster(4, slots_per_gpu=2)))
    homes = counted["homes"]
    assert homes["planned"]["copies"] == sorted(homes["planned"]["copies"], reverse=True)
    text = copying.render({"traces": [counted], "ms": {"plan": 1.0, "balance": 2.0}})
    assert "| small, 4/8 | in order |" in text
    assert copying.render({"traces": [], "ms": {}}).startswith("Not run")


def test_windows_are_merged_whole() -> None:
    trace = np.arange(14.0).reshape(7, 1, 2)
    np.testing.assert_array_equal(problems.merged(trace, 3)[:, 0], [[6, 9], [24, 27]])


def test_drift_is_told_and_drawn(tmp_path: Path) -> None:
    def plan(load: np.ndarray, *_: int) -> np.ndarray:
        cluster = Cluster(3, slots_per_gpu=3)
        return solve(load, cluster, solver="greedy").placement.physical_to_logical

    trace = drift.measure(small_drift(), [Planner("DeepSeek EPLB", plan)])
    speed = {"auto": {"ms": 1.0, "to_local_search": 2.0, "to_auto": 1.0}}
    result = {"missing": [], "traces": [trace], "speed": speed}
    text = drift.render(result)
    assert "Free moves: above DeepSeek's next window on" in text
    assert "| small, 3/9 | oracle |" in text
    drift.draw(result, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 1000


def test_what_runs_live_is_timed_beside_fresh_plans() -> None:
    def plan(load: np.ndarray, *_: int) -> np.ndarray:
        cluster = Cluster(3, slots_per_gpu=3)
        return solve(load, cluster, solver="greedy").placement.physical_to_logical

    theirs = Planner("vLLM 0.33.0", plan)
    case = while_serving.measure(small_drift(while_serving.WINDOWS + 1), [theirs], 1)
    names = [call["name"] for call in case["calls"]]
    assert names == [
        theirs.name,
        while_serving.FRESH,
        while_serving.LIVE,
        while_serving.LIVE_SPLIT,
        while_serving.SPLIT,
    ]
    result = {"rounds": 1, "missing": [], "busy": 7.0, "cases": [case]}
    text = while_serving.render(result)
    assert "busy with other work" in text
    assert "**small** (2 x 6 -> 9 slots, 3 GPUs)" in text
    assert f"| {while_serving.LIVE} |" in text
    assert "busy" not in while_serving.render(result | {"busy": 0.1})


def test_the_readme_shows_what_was_kept() -> None:
    kept = json.loads(KEPT.read_text())
    readme = (run.ROOT / "README.md").read_text()
    assert run.insert(readme, run.main_table(kept)) == readme
    with pytest.raises(ValueError, match="run the benchmark dispatch first"):
        run.main_table({name: kept[name] for name in kept if name != "dispatch"})


def test_the_pages_quote_what_was_kept() -> None:
    """In the explanations figures stand in sentences and tables, which no script writes."""
    results = json.loads(KEPT.read_text())
    drifts = [of for of in results["drift"]["result"]["traces"] if of["judged"]]
    traces = [of for of in results["dispatch"]["result"]["traces"] if of["measured"]]
    page = (run.OUT / "explanation" / "reachable.md").read_text()

    def row(name: str, *cells: str) -> str:
        return f"| {name} | {' | '.join(cells)}"

    def mean(planner: int, figure: str, order: str = "") -> float:
        return np.mean([t["planners"][planner][figure] for t in traces if order in t["name"]])

    for name, policy in (("experts in order", "never"), ("planned once", "once")):
        each = [next(p for p in t["policies"] if p["name"] == policy) for t in drifts]
        assert row(name, f"{np.mean([p['balancedness'] for p in each]):.3f}") in page
    planners = ("DeepSeek EPLB", "evenload, for even sharing", "evenload, for a live split")
    for number, name in enumerate(planners):
        told = [f"{mean(number, figure):.3f}" for figure in ("even", "live")]
        assert row(name, *told, f"{100 * mean(number, 'moves'):.1f} %") in page
        orders = [(order, of) for order in ("in turn", "mixed") for of in ("even", "live")]
        assert row(name, *(f"{mean(number, of, order):.3f}" for order, of in orders)) in page
    for name, known in (("knows the next window's expected load", "noise"),
                        ("knows the next window", "oracle")):  # fmt: skip
        told = [np.mean([t["ceilings"][of][known] for t in traces]) for of in ("even", "live")]
        assert row(name, *(f"{value:.3f}" for value in told)) in page


def test_the_default_policy_takes_less_time_than_never_moving() -> None:
    """At 60 s of serving a window: measured here where it is quick, and kept for all cases."""
    kept = json.loads(KEPT.read_text())["seconds"]
    cases = list(problems.drifts())
    assert len(kept["result"]["traces"]) >= len(cases)
    small = [case for case in cases if case.trace.shape[1] <= 26 and case.cluster.num_gpus == 8]
    measured = [seconds.measure(case) for case in small]
    for trace in (*measured, *kept["result"]["traces"]):
        never, _, ours = trace["policies"]
        assert ours["total_seconds"] < never["total_seconds"], trace["name"]
        assert ours["net_seconds"] > 0 == never["net_seconds"]
    assert "It takes as much time as never moving, or more, on 0 of" in seconds.render(
        kept["result"]
    )


def test_a_plan_for_both_phases_loses_to_none_for_one(tmp_path: Path) -> None:
    """Measured here where it is quick, and kept for all cases."""
    kept = json.loads(KEPT.read_text())["phases"]["result"]
    assert len(kept["cases"]) == len(phases.CASES)
    result = phases.run(True, lambda _: None)
    for each in (kept, result):
        assert sum((phases.losses(case) for case in each["cases"]), []) == []
    (case,) = result["cases"]
    (trace,) = case["traces"]
    assert trace["plans"]["the sum"]["decode"]["straggler"] > 1.4
    assert trace["plans"]["both, decode 1"]["decode"]["straggler"] < 1.15
    assert "loses to 0 of 4 plans for one phase." in phases.render(result)
    trace["plans"]["decode alone"]["seconds"] = 0.0
    assert "to 1 of 4 plans for one phase: " in phases.render(result)
    phases.draw(result, tmp_path / "phases.png")
    assert (tmp_path / "phases.png").stat().st_size > 1000


def even_slowly(place, counts, time) -> tuple[float, float, float]:
    """Deal tokens out one by one, in turn from a replica that changes with the batch."""
    active, seconds = [], []
    for b, batch in enumerate(counts):
        for layer, count in enumerate(batch):
            gpus = [[] for _ in range(place.cluster.num_gpus)]
            for e, n in enumerate(count):
                slots = [s for s in place.logical_to_physical[layer, e] if s >= 0]
                got = [0] * len(slots)
                for token in range(n):
                    got[(token - b) % len(slots)] += 1
                for slot, tokens in zip(slots, got, strict=True):
                    gpus[place.cluster.gpu_of_slot[slot]].append(tokens)
            active.append([sum(n > 0 for n in held) for held in gpus])
            seconds.append(max(float(time.seconds(held).sum()) for held in gpus))
    each = np.reshape(active, (*counts.shape[:2], -1))
    steady = np.mean([max(each[:, layer].mean(axis=0)) for layer in range(counts.shape[1])])
    return float(np.max(active, axis=1).mean()), float(np.mean(seconds)), float(steady)


def test_decode_shares_tokens_evenly_as_dealing_them_out_does() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(np.r_[np.arange(11), [0, 0, 1, 2, 3]]) for _ in range(2)])
    place = Placement(rows, Cluster(8, slots_per_gpu=2), 11)
    counts = rng.poisson(2.0, (5, 2, 11))
    time = ExpertTime([(1, 3e-6), (8, 3e-6), (16, 6e-6)])
    found = decode.shared_evenly(place, counts, time)
    assert found == pytest.approx(even_slowly(place, counts, time), rel=1e-12)


def test_fewest_active_replicas_under_even_sharing_are_those_of_the_best_counts() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.lognormal(0.0, 1.0, 4), (20, 2, 4))
    found = decode.least_active(counts, Cluster(2, num_slots=7))
    for layer in range(2):
        best = min(
            sum(np.minimum(counts[:, layer, e], r).mean() for e, r in enumerate(replicas))
            for replicas in itertools.product(range(1, 5), repeat=4)
            if sum(replicas) == 7
        )
        assert found[layer] == pytest.approx(best / 2)


def test_decode_is_held_to_what_was_asked(shared, tmp_path: Path) -> None:
    result = json.loads(KEPT.read_text())["decode"]["result"]
    assert len(result["cases"]) == len(decode.CASES) * len(decode.BATCHES)
    measured = decode.run(quick=True, say=lambda text: None)
    for case in (*measured["cases"], *result["cases"]):
        reached = decode.of(case, decode.ONE, "one")["active"]
        assert reached <= decode.of(case, decode.IN_ORDER, "any")["active"] + 1e-9
        assert reached < decode.of(case, decode.TOKENS, "one")["active"]
        assert case["per_gpu"] <= case["bound"] <= reached <= 1.09 * case["bound"]
        for planner in (decode.TOKENS, decode.BY_TIME):
            even = decode.of(case, planner, "even")
            assert case["even_bound"] <= even["steady"] + 1e-9
            assert even["steady"] <= even["active"] + 1e-9
        assert even["steady"] <= 1.13 * case["even_bound"]
        if case["batch"] > 16:
            assert reached <= (1 + decode.MOST_ABOVE) * case["bound"]
    decode.draw(measured, tmp_path / "decode.png")
    assert (tmp_path / "decode.png").stat().st_size > 1000
    assert "| at least | one |" in decode.render(measured)


# --- the baseline ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads(baseline.PATH.read_text())


def test_all_parts_are_frozen_and_the_same_tree_is_nowhere_worse(kept) -> None:
    assert set(baseline.JUDGES) <= set(kept)
    assert set(baseline.JUDGES) == set(kept["origin"])
    verdict = baseline.compare(kept, kept)
    assert not verdict.worse
    assert verdict.compared > 200
    assert baseline.PATH.read_text() == baseline.to_text(kept)


WORSE = {
    "mean": (("quality", "288/32 calibrated | joint fast", "mean"), -1.1e-4),
    "few slots": (("quality", "288/96 calibrated | joint fast", "mean"), -2.1e-4),
    "price": (("quality", "current 288/32 | default", "score"), -1.1e-4),
    "duplicate": (("quality", "288/32 calibrated | greedy", "duplicates"), 1),
    "bound": (("quality", "288/32 calibrated | auto", "bound"), 1e-5),
    "time": (("time", "288/32 calibrated | auto", "wall"), 9.0),
    "compilations": (("start", "cold", "solve(load, cluster)", "compilations"), 1),
    "start": (("start", "warm", "evenload --help", "wall"), 5.0),
}


@pytest.mark.parametrize("name", WORSE)
def test_what_got_worse_is_named(kept, name) -> None:
    (*path, key), change = WORSE[name]
    now = copy.deepcopy(kept)
    row = now
    for part in path:
        row = row[part]
    row[key] += change
    (worse,) = baseline.compare(kept, now).worse
    assert path[-1] in worse
    row[key] -= 2 * change
    assert not baseline.compare(kept, now).worse, "what got better is nobody's fault"


def test_an_exception_is_told_with_its_reason(kept) -> None:
    now = copy.deepcopy(kept)
    now["quality"]["prefer 288/32 | price 1"]["worst"] -= 0.02
    verdict = baseline.compare(kept, now)
    assert not verdict.worse
    (told,) = (line for line in verdict.told if line.startswith("excepted"))
    assert told.endswith(kept["exceptions"]["prefer 288/32 | price *: worst *"])
    now["quality"]["prefer 288/32 | price 1"]["score"] -= 0.02
    assert len(baseline.compare(kept, now).worse) == 1


def test_a_row_that_fails_is_worse_and_the_others_are_judged(kept, monkeypatch) -> None:
    def fail(seed: int) -> None:
        raise ValueError(f"no plan for seed {seed}")

    monkeypatch.setattr(frozen, "_shapes", lambda: [frozen.Row("a shape | greedy", fail, 1)])
    for rows in ("_running", "_unequal", "_preferred"):
        monkeypatch.setattr(frozen, rows, list)
    now = {"quality": frozen.quality(print)}
    was = {"quality": {"a shape | greedy": kept["quality"]["288/32 calibrated | greedy"]}}
    assert baseline.compare(was, now).worse == ["a shape | greedy: ValueError: no plan for seed 0"]


def test_a_little_noise_is_not_worse(kept) -> None:
    now = copy.deepcopy(kept)
    for row in now["quality"].values():
        row["mean"] -= 0.9e-4
    for row in now["time"].values():
        row["wall"] *= 1.09
    assert not baseline.compare(kept, now).worse


def test_auto_may_trade_quality_for_time_on_measured_loads(kept) -> None:
    now = copy.deepcopy(kept)
    now["quality"]["40/8 gpt-oss-20b | auto"]["mean"] -= 0.01
    verdict = baseline.compare(kept, now)
    assert not verdict.worse
    assert any("40/8 gpt-oss-20b | auto" in line for line in verdict.told)


def test_a_changed_result_is_worse(kept) -> None:
    now = copy.deepcopy(kept)
    now["golden"]["zipf_load"] = "0"
    (worse,) = baseline.compare(kept, now).worse
    assert "zipf_load" in worse


def test_frontiers_are_compared_at_equal_moves() -> None:
    old = {"moves": [[99.0, 99.0], [9.0, 9.0]], "balancedness": [[0.9, 0.9], [0.8, 0.8]]}
    elsewhere = {"moves": [[999.0] * 2, [31.0] * 2], "balancedness": [[0.95, 0.95], [0.85, 0.85]]}
    below, noise = baseline.frontier_below(old, elsewhere)
    assert noise == 0.0
    assert below[0] == pytest.approx(0.9 - (0.85 + 0.1 * np.log(100 / 32) / np.log(1000 / 32)))
    assert below[1] == pytest.approx(0.8 - 0.85)  # fewer moves than any: the last price's
    lower = old | {"balancedness": [[0.8985, 0.8985], [0.8, 0.8]]}
    assert len(baseline.compare({"drift": {"a": old}}, {"drift": {"a": lower}}).worse) == 2
    spread = old | {"balancedness": [[0.8885, 0.9085], [0.79, 0.81]]}
    (worse,) = baseline.compare({"drift": {"a": old}}, {"drift": {"a": spread}}).worse
    assert "mean of all" in worse


def test_a_row_is_recorded_with_what_moves_cost() -> None:
    cluster = Cluster(2, slots_per_gpu=2)
    runs = solve([[60, 30, 30]], cluster).placement
    plan = partial(solve, [[30, 60, 40]], cluster, current=runs, move_cost=0.0)
    found = frozen.Row("a | b", lambda seed: plan(), 1, price=0.01).record()
    assert found["moves"] == 1
    assert found["score"] == pytest.approx(1 / (1 / found["mean"] + 0.01))


def test_another_tree_needs_a_package() -> None:
    command = [sys.executable, "-m", "benchmarks.baseline", "--src", "nowhere"]
    done = subprocess.run(command, cwd=run.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no evenload/__init__.py" in done.stderr


def test_tokens_go_to_few_groups_and_visit_each_of_their_nodes() -> None:
    load = cluster.synthetic_load(2)
    topk = cluster.routed(load, 20)
    assert topk.shape == (20, 2, 8)
    assert (np.diff(np.sort(topk), axis=2) > 0).all()
    groups = [len(set(row // 32)) for token in topk for row in token]
    assert max(groups) == 4
    nodes = Cluster(32, 4, num_slots=256)
    at_home = Placement(np.tile(np.arange(256), (2, 1)), nodes, 256)
    expected = np.mean([len(set(row // 64)) for token in topk for row in token])
    assert cluster.nodes_a_token(at_home, topk) == expected


def test_pages_show_the_tables_of_the_cluster_benchmark() -> None:
    guides = run.OUT / "how-to"
    pages = {
        name: (guides / name).read_text()
        for name in ("plan.md", "engines/sglang.md", "engines/vllm.md")
    }
    topology, nodes, at_once, by_eighths = cluster.tables()
    assert topology in pages["plan.md"]
    assert nodes in pages["engines/sglang.md"]
    assert by_eighths in pages["engines/vllm.md"]
    moves = at_once.splitlines()[3].split(" | ")[1]
    assert f"{moves} of 16,704 slots" in pages["engines/vllm.md"]


@pytest.mark.skipif(sys.platform != "linux", reason="drops files from memory")
@pytest.mark.parametrize("shape", ["single", "fused"])
def test_reordering_is_timed_beside_a_copy(monkeypatch, shape) -> None:
    monkeypatch.setitem(reorder.SHAPES, shape, reorder.SHAPES[shape] | {"hidden": 64, "inner": 64})
    told = reorder.written(shape, 2e6, 1)
    assert told["layers"] >= 1
    assert told["bytes"] > 1e6 > told["largest"]
    assert all(value > 0.0 for value in (*told["seconds"].values(), *told["ratios"].values()))
    assert 1e7 < told["peak"] < 1e9
    page = reorder.render(
        {"traces": [], "files": [{"shape": shape, "size": "2 MB", **told}], "load": 1.0}
    )
    assert f"| {shape}, 2 MB | {told['layers']} |" in page


def test_ranks_that_move_experts_are_put_together() -> None:
    rank: dict[str, Any] = {
        "bare": [1.0, 2.0], "none": [2.0, 2.0], "sums": [4.0, 4.0], "background": [5.0, 5.0],
        "stall": [0.1, 0.3], "idle": [0.01, 0.02], "flip": [1e-4, 3e-4],
    }  # fmt: skip
    rank["death"] = {"noticed": 0.1, "detected": 3.0, "connected": 0.01, "repaired": 0.0}
    slow = rank | {"bare": [1.5, 1.0], "stall": [0.2, 0.0]}
    result = live.summarised([rank, slow]) | {"rounds": 2, "load": 4.0}
    assert result["throughput"] == {"none": (0.75 + 1.0) / 2, "sums": (0.375 + 0.5) / 2}
    assert result["worst_stall"] == 0.3
    assert result["stall_share"] == 0.3 / 4.0
    text = live.render(result)
    assert "no figure here is to be judged" in text
    assert "| `evenload.live` with checksums | 4.000 | 0.44 |" in text
