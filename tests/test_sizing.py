"""How many slots to buy."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import fails, run
from hypothesis import given
from hypothesis import strategies as st

from evenload import Cluster, Placement, Trace, solve
from evenload.batches import JUDGED, JUDGED_SEED, draw
from evenload.cost import MODELS, ExpertTime, kv_bytes_per_token
from evenload.cost.presets import KV_NUMBERS
from evenload.io import write_load
from evenload.report.figures import draw_sizes, nice_ticks
from evenload.report.sizes import reason, sizes_entry, sizes_lines
from evenload.sizing import MEMORY, Advice, _chosen, advise, clusters_to_try, judged_windows
from evenload.splitting import OneReplica, WaterFilling
from evenload.synth import lognormal_load, synthetic_trace

LOAD = lognormal_load(2, 16, 1.0, seed=0)
WIDE = lognormal_load(4, 32, 1.0, seed=0)
TRACE = synthetic_trace(24, num_layers=2, num_experts=16)
READING = ExpertTime([(1, 1e-5), (1000, 1e-5), (2000, 2e-5)])  # whatever is active takes as long
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def skewed(windows, layers, experts):
    """A trace with hot experts that stay hot, in whole tokens."""
    base = 1000.0 * lognormal_load(layers, experts, 1.0, seed=1)
    noise = np.random.default_rng(2).lognormal(0.0, 0.1, (windows, layers, experts))
    return np.round(base * noise) + 1.0


def seconds(plan, load, phase=""):
    """Seconds of the slowest GPU, by dealing out the tokens of each batch one by one."""
    problem, place, time = plan.problem, plan.placement, plan.problem.expert_time
    of = next(p for p in problem.phases if p.name == phase)
    batches, _ = draw(problem.of_load(np.asarray(load, float), of), JUDGED, JUDGED_SEED)
    splits = {"live": WaterFilling(place), "one": OneReplica(place, expert_time=time)}
    slowest = []
    for b, batch in enumerate(batches):
        for layer, counts in enumerate(batch):
            gpus = np.zeros(place.cluster.num_gpus)
            for e, n in enumerate(counts):
                slots = [slot for slot in place.logical_to_physical[layer, e] if slot >= 0]
                got = [0] * len(slots)
                for token in range(n):
                    got[(token - b) % len(slots)] += 1
                if problem.dispatch != "even":
                    quotas = splits[problem.dispatch].quotas(batch)[layer, e]
                    got = quotas[: len(slots)].tolist()
                for slot, tokens in zip(slots, got, strict=True):
                    gpus[place.cluster.gpu_of_slot[slot]] += time.seconds(tokens)
            slowest.append((gpus / place.cluster.capacity).max())
    return np.mean(slowest)


def per_gpu(clusters):
    return [cluster.slots_per_gpu for cluster in clusters]


# ---- what is tried, and by what it is judged -----------------------------------------------------


def test_clusters_go_from_the_fewest_slots_to_what_is_of_use():
    assert per_gpu(clusters_to_try(32, 8)) == [4, 5, 6, 7, 8, 10, 12]
    assert per_gpu(clusters_to_try(32, 64)) == [1, 2, 3, 4, 5, 7, 9]
    assert per_gpu(clusters_to_try(6, 2)) == [3, 4, 5, 6]
    assert per_gpu(clusters_to_try(6, 4, copies=2)) == [3, 4, 5, 6]
    assert per_gpu(clusters_to_try(5, 1)) == [5]
    assert clusters_to_try(32, 8, 2)[0] == Cluster(8, 2, 4)


def test_slots_that_are_asked_for_are_tried_beside_the_fewest():
    assert per_gpu(clusters_to_try(32, 8, slots=[48, 40, 48, 50])) == [4, 5, 6]
    for slots, message in (
        ([31], r"^slots=31 is too few for 32 experts; use 32 or more$"),
        ([42], r"^slots=42 is not a multiple of num_gpus=8; use 40 or 48$"),
        ([0], r"^slots=0 "),
    ):
        with pytest.raises(ValueError, match=message):
            clusters_to_try(32, 8, slots=slots)


@given(st.integers(1, 300), st.integers(1, 12))
def test_windows_are_judged_in_the_second_half(num_windows, points):
    found = judged_windows(num_windows, points)
    assert found == sorted(set(found))
    assert len(found) <= points
    assert all(max(1, num_windows / 2) <= t < num_windows for t in found)
    assert bool(found) == (num_windows > 1)
    if found:
        assert found[-1] == num_windows - 1


@pytest.mark.parametrize("how", [{}, {"expert_time": READING, "tokens_per_batch": 64, "top_k": 2}])
def test_each_size_is_judged_by_windows_that_its_plans_have_not_seen(how):
    """The same as plans made one by one here."""
    advice = advise(TRACE, clusters_to_try(16, 4, slots=[20]), points=3, **how)
    assert [size.redundant_per_gpu for size in advice.sizes] == [0, 1]
    for size in advice.sizes:
        expected = []
        for t in judged_windows(24, 3):
            plan = solve(TRACE[max(0, t - MEMORY) : t], size.cluster, effort="fast", **how)
            if how:
                expected.append(seconds(plan, TRACE[t]))
            else:
                gpu_load = plan.placement.gpu_load(TRACE[t])
                expected.append(gpu_load.max(axis=1).sum() / gpu_load.mean(axis=1).sum())
        assert size.judged == pytest.approx(expected)
        assert size.next_window == {"": pytest.approx(np.mean(expected))}
        slack = 1e-12 if how else 0.0  # every expert is active in each batch
        assert size.in_sample[""] < size.next_window[""] + slack
    assert advice.unseen
    assert advice.trivial.cluster == advice.none.cluster
    trivial = Placement.trivial(2, 16, advice.none.cluster)
    ordered = [trivial.gpu_load(TRACE[t]) for t in judged_windows(24, 3)]
    if not how:
        waits = [load.max(axis=1).sum() / load.mean(axis=1).sum() for load in ordered]
        assert advice.trivial.judged == pytest.approx(waits)


@pytest.mark.parametrize("load", [LOAD, TRACE[:1], LOAD[0], Trace(TRACE[:1])])
def test_without_windows_the_load_itself_judges_and_that_is_said(load):
    advice = advise(load, clusters_to_try(16, 4, slots=[20]))
    assert not advice.unseen
    assert [size.next_window for size in advice.sizes] == [{}, {}]
    assert advice.sizes[1].time == advice.sizes[1].in_sample[""]
    assert any(line.startswith("Judged on the load that") for line in sizes_lines([advice]))


def test_the_same_input_gives_the_same_and_a_scale_changes_nothing():
    clusters = clusters_to_try(16, 4, slots=[20])
    first, again, scaled = (advise(trace, clusters) for trace in (TRACE, TRACE, 1e9 * TRACE))
    assert sizes_entry([first]) == sizes_entry([again])
    for one, other in zip(first.sizes, scaled.sizes, strict=True):
        assert one.judged == pytest.approx(other.judged, rel=1e-12)


def test_phases_are_planned_together_and_told_apart():
    prefill, decode = 15.0 * skewed(12, 2, 16), skewed(9, 2, 16)[:, :, ::-1]
    how = {"expert_time": READING, "top_k": 2}
    how["tokens_per_batch"] = {"prefill": 4096, "decode": 64}
    how["phase_weight"] = {"prefill": 1.0, "decode": 3.0}
    load = {"prefill": prefill, "decode": decode}
    advice = advise(load, clusters_to_try(16, 4, slots=[20]), points=2, **how)
    for size in advice.sizes:
        expected = []
        for a, b in zip(judged_windows(12, 2), judged_windows(9, 2), strict=True):
            seen = {"prefill": prefill[:a], "decode": decode[:b]}
            plan = solve(seen, size.cluster, effort="fast", **how)
            at = (("prefill", a), ("decode", b))
            expected.append([seconds(plan, load[name][t], name) for name, t in at])
        mean = np.mean(expected, axis=0)
        assert list(size.next_window.values()) == pytest.approx(mean)
        assert size.judged == pytest.approx(np.average(expected, axis=1, weights=[1, 3]))
    (entry,) = sizes_entry([advice])
    assert list(entry["recommended"]["next_window"]) == ["prefill", "decode"]


# ---- memory ----------------------------------------------------------------------------------


def test_memory_is_that_of_the_model_with_all_its_layers():
    trace = synthetic_trace(4, num_layers=3, num_experts=32)  # of gpt-oss-20b's 24 layers
    how = {"model": "gpt-oss-20b", "hardware": "h100-ib"}
    advice = advise(trace, clusters_to_try(32, 8, slots=[40]), **how)
    expert = 3 * 2880 * 2880 * 4.25 / 8
    none, one = advice.sizes
    assert none.weight_bytes == pytest.approx(24 * 4 * expert)
    assert one.weight_bytes == pytest.approx(24 * 5 * expert)
    assert none.kv_tokens == 0.0
    # 12 layers that keep all tokens, 8 heads of 64 numbers of 2 bytes, keys and values
    assert one.kv_tokens == pytest.approx(24 * expert / (12 * 2 * 8 * 64 * 2))
    assert one.room == pytest.approx(0.9 * 80e9 - 24 * 5 * expert)
    assert advice.fits


def test_every_model_has_a_kv_cache():
    assert set(KV_NUMBERS) == set(MODELS)
    assert kv_bytes_per_token("deepseek-v3") == 61 * (512 + 64) * 2
    with pytest.raises(ValueError, match=r"^model='gpt-5' is unknown; use one of: deepseek-v3"):
        kv_bytes_per_token("gpt-5")


def test_experts_that_do_not_fit_are_no_advice():
    trace = np.ones((2, 1, 256))
    how = {"model": "deepseek-v3", "hardware": "h100-ib"}
    advice = advise(trace, clusters_to_try(256, 8, slots=[264]), **how)
    assert not advice.fits
    assert reason(advice) == (
        "8 GPUs: does not fit: the experts take 81.74 GB per GPU, of 72 GB that an engine fills "
        "(90% of the memory)"
    )
    assert sizes_entry([advice])[0]["recommended"] is None
    assert advise(trace, clusters_to_try(256, 32, slots=[288]), **how).fits


def test_another_models_load_is_refused():
    with pytest.raises(ValueError, match=r"^model='gpt-oss-20b' has 24 layers x 32 experts, and "):
        advise(TRACE, clusters_to_try(16, 4), model="gpt-oss-20b")


# ---- the rule --------------------------------------------------------------------------------

SIZE = advise(LOAD, clusters_to_try(16, 4, slots=[16])).none


def sizes_of(*times, rooms=None):
    """Sizes with 0, 1, 2, ... redundant slots that take so long in each judged window."""
    rooms = rooms or [None] * len(times)
    return tuple(
        replace(
            SIZE, redundant_per_gpu=n, judged=np.atleast_1d(np.array(time, float)), room=room,
            in_sample={"": float(np.mean(time))}, cluster=Cluster(4, slots_per_gpu=4 + n),
        )
        for n, (time, room) in enumerate(zip(times, rooms, strict=True))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("times", "rooms", "chosen"),
    [
        ((2.0, 1.0), None, 1),
        ((1.0, 2.0), None, 0),
        ((1.0, 0.985), None, 0),  # saves less than 2 %
        ((1.0, 0.985), (1e12, 1e12), 0),
        ((1.0, 0.975), (1e12, 1e12), 1),
        ((2.0, 1.0, 0.995), None, 1),  # another slot saves less than it takes
        ((2.0, 1.0, 0.9), None, 2),
        ((2.0, 1.0, 0.9), (100.0, 95.0, 60.0), 1),  # .9 / 60 is more than 1 / 95
        ((1.0, 0.9), (100.0, 80.0), 0),  # saves a tenth, for a fifth of the memory
        ((2.0, 1.0), (100.0, -1.0), 0),  # no room
        ((2.0, 1.0), (-1.0, -2.0), 0),
        (([1.0, 1.0], [0.5, 1.3]), (1e12, 1e12), 0),  # by chance
        (([1.0, 1.0], [0.89, 0.91]), (1e12, 1e12), 1),
        (([3.0, 3.0], [1.0, 1.2], [1.1, 0.9]), (1e12,) * 3, 1),  # no telling 1 from 2
    ],
)
def test_what_is_recommended(times, rooms, chosen):
    sizes = sizes_of(*times, rooms=rooms)
    best, found = _chosen(sizes)
    assert found is sizes[chosen]
    advice = Advice("even", sizes, SIZE, best, found, None, True)
    if advice.fits:
        buy = "none: " if chosen == 0 else f"{chosen} redundant slot"
        assert reason(advice).startswith(f"4 GPUs: buy {buy}")


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6), st.booleans())
def test_a_recommendation_is_worth_it(times, known):
    """Never one that costs more than none, nor slots where fewer are as good."""
    rooms = [100.0 - n for n in range(len(times))] if known else None
    sizes = sizes_of(*times, rooms=rooms)
    best, chosen = _chosen(sizes)
    assert best.cost == min(size.cost for size in sizes)
    assert chosen.cost <= sizes[0].cost
    assert chosen.cost <= 1.0205 * best.cost
    for size in sizes:
        if size.redundant_per_gpu < chosen.redundant_per_gpu:
            assert size.cost > 1.0099 * best.cost


@pytest.mark.parametrize(
    ("dispatch", "timed"), [("live", True), ("one", True), ("live", False), ("static", False)]
)
def test_slots_are_judged_under_the_dispatch(dispatch, timed):
    trace, clusters = skewed(4, 2, 16), clusters_to_try(16, 4, slots=[20])
    how = {"tokens_per_batch": 4, "top_k": 2, "expert_time": READING} if timed else {}
    advice = advise(trace, clusters, points=1, dispatch=dispatch, **how)
    plan = solve(trace[:3], clusters[1], dispatch=dispatch, effort="fast", **how)
    size = advice.sizes[1]
    assert advice.dispatch == dispatch
    if timed:
        assert size.time == pytest.approx(seconds(plan, trace[3]))
        assert size.time < advice.none.time or dispatch == "live"
    else:
        gpu_load = plan.placement.gpu_load(trace[3], dispatch=dispatch)
        waits = gpu_load.max(axis=1).sum() / gpu_load.mean(axis=1).sum()
        assert size.time == pytest.approx(waits)


def test_decode_that_reads_more_weights_with_replicas_buys_none():
    """Every expert is active in each batch: a second replica is read beside the first."""
    trace = skewed(8, 2, 16)
    by_tokens = advise(trace, clusters_to_try(16, 4))
    by_time = advise(
        trace, clusters_to_try(16, 4), expert_time=READING, tokens_per_batch=512, top_k=4
    )
    assert by_tokens.chosen.redundant_per_gpu > 0
    assert by_time.chosen.redundant_per_gpu == 0
    assert "4 GPUs: buy none: 1 redundant slot per GPU takes " in reason(by_time)


def test_real_decode_of_v2_lite_buys_none():
    """Under even sharing each replica is read: with 80 slots more than with experts in order."""
    file = SHARED / "deepseek-v2-lite.npz"
    if not file.is_file():
        pytest.skip("real loads are not here")
    trace = np.load(file)["load_mixed"].astype(float)[:, ::6]
    how = {"expert_time": ExpertTime.preset("h100-ib", "deepseek-v2-lite"), "top_k": 6}
    clusters = clusters_to_try(64, 8, slots=[72, 80])
    advice = advise(trace, clusters, points=2, tokens_per_batch=64, **how)
    assert advice.chosen.redundant_per_gpu == 0
    assert advice.sizes[2].time > advice.sizes[1].time
    assert advice.sizes[2].time > 1.02 * advice.trivial.time
    assert advice.none.time <= 1.01 * advice.trivial.time


# ---- words, table and picture ----------------------------------------------------------------


def test_the_sentence_tells_time_and_memory():
    how = {"model": "gpt-oss-20b", "hardware": "h100-ib"}
    advice = advise(skewed(6, 2, 32), clusters_to_try(32, 8, slots=[40]), **how)
    assert advice.chosen.redundant_per_gpu == 1
    assert reason(advice).startswith("8 GPUs: buy 1 redundant slot per GPU (40 a layer): saves ")
    assert reason(advice).endswith(
        "% of the time, for 0.3173 GB per GPU or 12,909 tokens of KV cache, 0.5% of what is left"
    )
    rule = next(line for line in sizes_lines([advice]) if line.startswith("Rule: "))
    assert "within 1% of the least" in rule
    assert "2% below that of none" in rule


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e4))
def test_ticks_are_few_and_inside(low, ratio):
    ticks = nice_ticks(low, ratio * low)
    assert all(low <= tick <= ratio * low for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 10
    assert len(ticks) >= 2 or ratio < 1.05


@pytest.mark.parametrize("more", [{}, {"model": "gpt-oss-20b", "hardware": "h100-ib"}])
def test_the_picture_has_a_curve_for_each_number_of_gpus(more):
    pytest.importorskip("matplotlib")
    trace = synthetic_trace(6, num_layers=1, num_experts=32)
    advices = [advise(trace, clusters_to_try(32, n), points=1, **more) for n in (8, 16)]
    (axes,) = draw_sizes(advices).axes
    labels = [line.get_label() for line in axes.get_lines()]
    assert [name for name in labels if "GPU" in name] == ["8 GPUs", "16 GPUs"]
    curve = axes.get_lines()[0]
    assert curve.get_ydata() == pytest.approx([size.time for size in advices[0].sizes])
    if more:
        taken = [size.weight_bytes / 1e9 for size in advices[0].sizes]
        assert curve.get_xdata() == pytest.approx(taken)
    stars = [line for line in axes.get_lines() if line.get_marker() == "*"]
    shown = [line.get_ydata()[0] for line in stars if len(line.get_ydata())]
    assert shown == pytest.approx([advice.chosen.time for advice in advices])


# ---- the commands ----------------------------------------------------------------------------


@pytest.fixture
def sizing(tmp_path, monkeypatch):
    trace = np.round(100 * synthetic_trace(6, num_layers=2, num_experts=32))
    np.savez(tmp_path / "trace.npz", load=trace)
    monkeypatch.chdir(tmp_path)
    return lambda *options: run("size", "trace.npz", *options)


def test_the_command_prints_draws_and_tells_it_as_json(tmp_path, sizing):
    options = ("--gpus", 8, "--gpus", 16, "--slots", 48, "--slots", 40)
    priced = ("--hardware", "h100-ib", "--model", "gpt-oss-20b", "--tokens-per-batch", 8192)
    done = sizing(*options, *priced, "--plot", "p.png")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    title, _, *table = done.stdout.splitlines()
    assert title == "trace.npz: 6 windows, 2 layers x 32 experts"
    assert max(map(len, table[:12])) <= 100
    assert sum(line.startswith("*") for line in table) == 2
    assert [line[:7] for line in table if "GPUs: " in line[:10]] == ["8 GPUs:", "16 GPUs"]
    assert "experts roofline, never measured" in done.stdout
    plain = json.loads(sizing(*options, *priced, "--json").stdout)["sizes"]
    assert [[s["num_slots"] for s in of["sizes"]] for of in plain] == [[32, 40, 48], [32, 48]]
    assert plain[0]["unit"] == "seconds per layer and batch"
    assert plain[0]["judged_by"] == "next window"
    assert math.isclose(
        plain[0]["sizes"][1]["next_window"], np.mean(plain[0]["sizes"][1]["judged"])
    )


def test_the_command_has_columns_for_phases(tmp_path, sizing):
    phases = {"prefill": 8.0 * skewed(6, 2, 32), "decode": skewed(6, 2, 32)}
    trace = Trace.of_phases(phases)
    write_load(tmp_path / "trace.npz", trace)
    options = ("--gpus", 8, "--slots", 40, "--hardware", "h100-ib", "--model", "gpt-oss-20b")
    batches = (
        "--tokens-per-batch",
        "prefill=8192,decode=64",
        "--phase-weight",
        "prefill=1,decode=2",
    )
    done = sizing(*options, *batches, "--plot", "p.png")
    assert done.exit_code == 0, done.stderr
    head = "\n".join(done.stdout.splitlines()[:8])
    assert "prefill" in head
    assert "decode" in head
    assert max(map(len, done.stdout.splitlines()[:9])) <= 110
    assert "taken together" not in done.stderr
    alone = sizing(*options, "--tokens-per-batch", 64, "--phase", "decode")
    assert alone.exit_code == 0, alone.stderr
    assert "prefill" not in alone.stdout


def test_the_command_says_what_it_does_not_know(sizing):
    done = sizing("--gpus", 8, "--slots", 40, "--dispatch", "even", "--dispatch", "live")
    assert done.exit_code == 0, done.stderr
    assert "Memory: not known; --model tells it." in done.stdout
    assert "Time: tokens on each layer's slowest GPU" in done.stdout
    assert "dispatch" in done.stdout.splitlines()[4]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ("--gpus", 8, "--slots", 44),
            "slots=44 is not a multiple of num_gpus=8; use 40 or 48",
        ),
        (
            ("--gpus", 6, "--gpus-per-node", 4),
            "--gpus=6 is not a multiple of --gpus-per-node=4; use 4 or 8",
        ),
        (
            ("--gpus", 8, "--hardware", "h100-ib"),
            "no model of the presets has 2 layers x 32 experts; use gpt-oss-20b, or "
            "tokens_per_second and expert_bytes of your own",
        ),
        (
            ("--gpus", 8, "--tokens-per-batch", 64),
            "--tokens-per-batch is for seconds of --expert-time; give both, or neither",
        ),
        (("--gpus", 8, "--points", 0), "points=0 is less than 1; use 1 or more"),
    ],
)
def test_the_command_says_what_is_wrong(sizing, options, error):
    fails("size", "trace.npz", *options, error=error)


def test_the_command_judges_one_replica_of_each_active_expert(sizing):
    options = ("--gpus", 8, "--slots", 40, "--dispatch", "one", "--model", "gpt-oss-20b")
    done = sizing(*options, "--tokens-per-batch", 8)
    assert done.exit_code == 0, done.stderr
    assert "Time: active experts on each layer's slowest GPU" in done.stdout
    timed = sizing(*options, "--dispatch", "even", "--tokens-per-batch", 8, "--hardware", "h100-ib")
    assert timed.exit_code == 0, timed.stderr
    assert "8 GPUs, dispatch one: buy " in timed.stdout
    assert "8 GPUs, dispatch even: buy none" in timed.stdout


def test_a_plan_takes_what_is_recommended(sizing):
    advised = json.loads(sizing("--gpus", 8, "--json").stdout)["sizes"]
    done = run("plan", "trace.npz", "--gpus", 8, "--redundant", "auto", "--json")
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["sizes"] == advised
    assert report["cluster"]["num_slots"] == advised[0]["recommended"]["num_slots"]
    ahead = run("plan", "trace.npz", "--gpus", 8, "--redundant", "auto", "--next", "--json")
    assert json.loads(ahead.stdout)["sizes"] == advised
    one = run("plan", "trace.npz", "--gpus", 8, "--redundant", "auto", "--window", 1)
    assert "Judged on the load that the plans were made from" in one.stdout


# ---- slots of `evenload plan` ------------------------------------------------------------------


@pytest.fixture
def planning(tmp_path, monkeypatch):
    np.savetxt(tmp_path / "loads.csv", WIDE, delimiter=",")
    monkeypatch.chdir(tmp_path)
    return lambda *options: run("plan", "loads.csv", "--gpus", 8, *options)


def test_plan_takes_clusters_of_all_kinds(planning):
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
        (("--redundant", "x"), "--redundant x is not a number"),
        (("--redundant", "3", "--slots", "40"), "--slots and --redundant are two ways"),
        (("--redundant", "auto", "--dead", "1"), "leave out --slots, --speed and --dead"),
        (("--speed", "1,b"), "--speed 1,b: not numbers"),
        (("--speed", "1,2"), "speed has 2 entries for num_gpus=8"),
        (("--dead", "9"), "--dead 9 is not a GPU number; use 0 to 7"),
        (tuple(f"--dead={gpu}" for gpu in range(8)), "--dead: all 8 GPUs are gone"),
        (("--topology", "loose"), "use one of: strict, prefer, ignore"),
        (("--effort", "hard"), "use one of: fast, standard, thorough"),
        (("--cross-node-price", "-1", "--topology", "prefer"), "cross_node_price=-1.0"),
        (("--cross-node-price", "1"), "--cross-node-price 1 is for --topology prefer; give both"),
        (("--cross-node-price", "2", "--topology", "strict"), "--cross-node-price 2 is for"),
        (("--nodes", "4", "--groups", "2", "--topology", "strict"), "does not divide"),
    ],
)
def test_plan_says_what_is_wrong(planning, options, message):
    done = planning(*options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
