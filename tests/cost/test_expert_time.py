"""The time of an expert: curves, their files, and the tables that planners read."""

import itertools
import re
from dataclasses import replace
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from costs import LARGE
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload import CostModel
from evenload.cost import ExpertTime, TimeTable, hardware_names, model_names
from evenload.cost.expert_time import CURVES, NEVER_MEASURED
from evenload.cost.presets import HARDWARE, MODELS

ROOF = ExpertTime.roofline(9437184, 2.5e12, 9437184, 494.5e12)
BENT = ExpertTime([(1, 3.0), (4, 3.5), (10, 9.0)])


@st.composite
def curves(draw):
    """Curves of whole seconds at a few whole numbers of tokens."""
    steps = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=4))
    points = [(0, 0)]
    first = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    for more, longer in [first, *steps, (draw(st.integers(1, 5)), draw(st.integers(1, 5)))]:
        points.append((points[-1][0] + more, points[-1][1] + longer))
    return ExpertTime(points)


def exact(curve, tokens) -> Fraction:
    """The curve at one number, by a loop."""
    n = Fraction(tokens)
    points = [(Fraction(at), Fraction(seconds)) for at, seconds in curve.points]
    for (a, low), (b, high) in itertools.pairwise(points):
        if n <= b or b == points[-1][0]:
            return low + (n - a) * (high - low) / (b - a)
    raise AssertionError(points)


def expected(curve, batch, p, replicas) -> Fraction:
    """The mean time of replicas that share whole tokens evenly, over all that may happen."""
    total = Fraction(0)
    for n in range(batch + 1):
        few, more = divmod(n, replicas)
        time = (replicas - more) * exact(curve, few) + more * exact(curve, few + 1)
        total += comb(batch, n) * p**n * (1 - p) ** (batch - n) * time
    return total


def test_points_and_what_is_between_and_past_them() -> None:
    assert BENT.points == ((0.0, 0.0), (1.0, 3.0), (4.0, 3.5), (10.0, 9.0))
    assert BENT.seconds([[0, 0.5, 1], [4, 7, 16]]).tolist() == [[0, 1.5, 3], [3.5, 6.25, 14.5]]
    assert ExpertTime([(16, 2.0), (32, 3.0)]).points[1] == (1.0, 2.0)  # one token reads the weights
    assert ExpertTime([(0, 0), (16, 2.0), (32, 3.0)]).points[1] == (16.0, 2.0)
    assert ExpertTime(np.array([[1, 2.0], [2, 3.0]])) == ExpertTime([(1, 2), (2, 3)])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(1, 2.0), (2, 1.5)], "points[1] falls to 1.5 s after 2 s; use at least 2, or measure both"
         " again"),
        ([(0, 0.1), (2, 1.5)], "points[0] starts above 0, at 0.1 s for 0 tokens, which take no"
         " time; use 0 s, or leave the point out"),
        ([(1, 2.0)], "points has one point, which is not a curve; use at least two"),
        ([(1, -2.0), (2, 1.5)], "points[0] has -2.0 seconds, below 0; use 0 or more"),
        ([(-1, 2.0), (2, 1.5)], "points[0] has -1.0 tokens, below 0; use 0 or more"),
        ([(1, 2.0), (2, float("nan"))], "points[1] has NaN seconds; measure it again, or leave it"
         " out"),
        ([(1, 2.0), (float("nan"), 3)], "points[1] has NaN tokens; measure it again, or leave it"
         " out"),
        ([(1, 2.0), (2, float("inf"))], "points[1] has infinite seconds; use a finite number"),
        ([(0, 0), (1, 0), (2, 3)], "points[1] takes 0 s for 1 tokens; use more, or leave it out"),
        ([(2, 2.0), (1, 3.0)], "points[1] has 1 tokens after 2; sort the points by tokens, one for"
         " each number"),
        ([(2, 2.0), (2, 3.0)], "points[1] has 2 tokens after 2; sort the points by tokens, one for"
         " each number"),
        ([(1, 2.0), (2, 2.0)], "points ends flat at 2 s, as if more tokens never took longer;"
         " measure more tokens"),
        ([], "points are not pairs of numbers; use [(tokens, seconds), ...]"),
        ([1, 2], "points are not pairs of numbers; use [(tokens, seconds), ...]"),
        ("curve.csv", "points are not pairs of numbers; use [(tokens, seconds), ...]"),
    ],
)  # fmt: skip
def test_what_is_no_curve(points, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ExpertTime(points)


@pytest.mark.parametrize("tokens", [-1.0, float("nan")])
def test_tokens_below_zero(tokens) -> None:
    with pytest.raises(ValueError, match=rf"^tokens={tokens} is not a number of at least 0"):
        BENT.seconds([1.0, tokens])


def test_roofline() -> None:
    read, even = 9437184 / 2.5e12, 494.5e12 / 2.5e12
    assert ROOF.seconds([1, 100, even]) == pytest.approx([read] * 3)
    assert ROOF.seconds([2 * even, 1e6]) == pytest.approx([2 * read, 1e6 * 9437184 / 494.5e12])
    quick = ExpertTime.roofline(10.0, 100.0, 10.0, 10.0)  # memory never waits
    assert quick.points == ((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(ValueError, match=r"^memory_bandwidth=0.0 is not finite and above 0"):
        ExpertTime.roofline(1.0, 0.0, 1.0, 1.0)


def test_weights_are_read_as_long_as_computed_with() -> None:
    """Tokens of the ridge at the data sheet's peaks, worked out apart from this code."""
    for model, tokens in (("qwen3-30b-a3b", 295), ("gpt-oss-20b", 78), ("deepseek-v3", 295)):
        experts, chip = MODELS[model], HARDWARE["h100-ib"]
        peak = ExpertTime.roofline(
            experts.num_bytes, chip.memory_bandwidth, experts.operations, chip.flops(experts.dtype)
        )
        assert peak.points[2][0] == pytest.approx(tokens, abs=1.0)


@pytest.mark.parametrize("hardware", hardware_names())
@pytest.mark.parametrize("model", model_names())
def test_presets(hardware, model) -> None:
    curve = ExpertTime.preset(hardware, model)
    assert 0 < curve.seconds(1) <= curve.seconds(256) < curve.seconds(8192)
    if curve.source == NEVER_MEASURED:  # one clock: with many tokens, the time of `CostModel`
        linear = CostModel.preset(hardware, model).expert_time
        assert curve.seconds(1e6) == pytest.approx(linear.seconds(1e6))
    else:
        assert curve.source.startswith("measured on ")


def test_curves_that_are_shipped_are_of_presets() -> None:
    names = {
        f"{hardware}-{e.hidden_size}x{e.intermediate_size}-{dtype}.csv"
        for hardware in HARDWARE
        for e in MODELS.values()
        for dtype in ("bf16", "fp8")
    }
    for path in CURVES.glob("*"):
        assert path.name in names
        assert ExpertTime.read(path).source.startswith("measured on ")


@pytest.mark.parametrize("model", ["qwen3-30b-a3b", "deepseek-v3"])
def test_presets_read_what_was_measured_unless_told_not_to(model) -> None:
    """The page on seconds tells how far the two are apart."""
    curve = ExpertTime.preset("h200-ib", model)
    assert curve.source == "measured on NVIDIA H200, torch 2.11.0+cu130, 2026-11-27"
    roofline = ExpertTime.preset("h200-ib", model, measured=False)
    assert roofline.source == NEVER_MEASURED
    few, many = (curve.seconds(n) / roofline.seconds(n) for n in (16, np.array([512, 1024, 4096])))
    assert 1.2 < few < 1.5
    assert (np.abs(many - 1.0) < 0.07).all()


def test_unknown_presets() -> None:
    with pytest.raises(ValueError, match=r"^hardware='h900' is unknown; use one of: h100-ib, "):
        ExpertTime.preset("h900", "kimi-k2")
    with pytest.raises(ValueError, match=r"^model='gpt-5' is unknown; use one of: deepseek-v3, "):
        ExpertTime.preset("h100-ib", "gpt-5")


def test_one_clock() -> None:
    cost = replace(LARGE, tokens_per_second=100.0)
    assert cost.expert_time == ExpertTime.linear(100.0)
    assert cost.straggler_seconds([[50, 300], [7, 1]]).tolist() == [3.0, 0.07]
    load = np.random.default_rng(0).uniform(size=(3, 8))
    share = load / load.sum(axis=1, keepdims=True)
    found = cost.expert_time.expected_seconds(load, tokens_per_batch=64, top_k=2)
    assert found == pytest.approx(np.minimum(share * 2, 1.0) * 64 / 100.0, rel=1e-6)


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_of_points(tmp_path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("tokens, seconds\n1, 3\n4, 3.5\n\n10, 9\n")
    assert ExpertTime.read(path) == ExpertTime(BENT.points, "curve.csv")


def test_a_file_of_what_layers_took(tmp_path) -> None:
    """Few experts take as long as eight, and a clock that falls with more tokens is set right."""
    rows = ["# device: GPU X", "# torch: 2.11", "# date: 2026-01-01", "active,tokens,seconds"]
    for tokens, each in ((1, 3.0), (2, 2.9), (64, 6.0)):
        for active in (1, 2, 4, 8):
            rows.append(f"{active},{tokens},{each * max(active, 6)}")
    path = tmp_path / "curve.csv"
    path.write_text("\n".join(rows))
    curve = ExpertTime.read(path)
    assert curve.points == pytest.approx(np.array([(0, 0), (1, 3), (2, 3), (64, 6)]))
    assert curve.source == "measured on GPU X, torch 2.11, 2026-01-01"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line is ''; use tokens,seconds or active,tokens,seconds"),
        ("n,t\n1,2\n", "its first line is 'n,t'; use tokens,seconds or active,tokens,seconds"),
        ("tokens,seconds\n1,2\n3,x\n", "line 3 is '3,x'; use numbers for ['tokens', 'seconds']"),
        ("tokens,seconds\n1\n", "line 2 is '1'; use numbers for ['tokens', 'seconds']"),
        ("tokens,seconds\n1,2\n3,1\n", "points[1] falls to 1 s after 2 s; use at least 2, or "
         "measure both again"),
        ("tokens,seconds\n1,nan\n2,1\n", "points[0] has NaN seconds; measure it again, or leave it"
         " out"),
        ("active,tokens,seconds\n2,8,1\n", "points has one point, which is not a curve; use at "
                                           "least"
         " two"),
        ("active,tokens,seconds\n2,8,nan\n2,9,1\n", "line 2 is '2,8,nan'; use numbers of at least 0"
         ", and at least 1 active"),
        ("active,tokens,seconds\n0,8,1\n2,9,1\n", "line 2 is '0,8,1'; use numbers of at least 0"
         ", and at least 1 active"),
    ],
)  # fmt: skip
def test_files_that_are_none(tmp_path, text, message) -> None:
    path = tmp_path / "curve.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        ExpertTime.read(path)


# ---- expected time -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    curves(), st.integers(1, 20), st.integers(1, 5),
    st.lists(st.integers(0, 9), min_size=2, max_size=6), st.data(),
)  # fmt: skip
def test_expected_time_is_the_mean_over_all_that_may_happen(curve, batch, most, load, data) -> None:
    top_k = data.draw(st.integers(1, len(load)))
    table = TimeTable.build([curve], batch, most)
    found = table.of(load, top_k=top_k) * table.seconds_per_tick
    assert found.shape == (1, most, 1, len(load))
    for expert, tokens in enumerate(load):
        p = min(Fraction(tokens * top_k, max(sum(load), 1)), Fraction(1))
        for replicas in range(1, most + 1):
            wanted = float(expected(curve, batch, p, replicas))
            assert found[0, replicas - 1, 0, expert] == pytest.approx(wanted, rel=4e-4, abs=1e-9)


def test_expected_time_of_large_batches() -> None:
    stats = pytest.importorskip("scipy.stats")
    load = np.random.default_rng(0).lognormal(size=(1, 128))
    p = np.minimum(8 * load / load.sum(), 1.0)[0]
    for batch in (64, 4096):
        n = np.arange(batch + 1)
        wanted = [stats.binom.pmf(n, batch, q) @ ROOF.seconds(n) for q in p]
        found = ROOF.expected_seconds(load, tokens_per_batch=batch, top_k=8)
        assert found[0] == pytest.approx(wanted, rel=4e-4)


def test_tables_are_the_same_on_every_machine() -> None:
    """Whoever changes these numbers changes what ranks of an older version plan."""
    assert TimeTable.build([ROOF], 64, 4).digest[:16] == "d7c0a0ce4cb48cbe"
    assert TimeTable.build([BENT, ROOF], 1000).digest[:16] == "dae0a95fee14b6db"


def test_what_a_digest_tells() -> None:
    tables = [
        TimeTable.build([ROOF], 64), TimeTable.build([ROOF], 64, 2), TimeTable.build([ROOF], 65),
        TimeTable.build([BENT], 64), TimeTable.build([ROOF, BENT], 64),
    ]  # fmt: skip
    assert len({table.digest for table in tables}) == len(tables)
    other_words = ExpertTime(ROOF.points, "another source")
    assert TimeTable.build([other_words], 64).digest == tables[0].digest


def test_ticks_know_no_scale() -> None:
    slow = ExpertTime([(n, 8 * seconds) for n, seconds in BENT.points])
    tables = [TimeTable.build([curve], 50, 3) for curve in (BENT, slow)]
    assert np.array_equal(tables[0].ticks, tables[1].ticks)
    assert tables[1].seconds_per_tick == 8 * tables[0].seconds_per_tick
    load = np.random.default_rng(1).integers(0, 99, (2, 5))
    assert np.array_equal(tables[0].of(load), tables[0].of(load * 7.0))
    assert np.array_equal(tables[0].of(load), tables[0].of(load * 1e300))


def test_time_rises_with_tokens_and_replicas() -> None:
    """More tokens never take less; an expert on more GPUs takes them no less in all."""
    ticks = TimeTable.build([ROOF], 256, 8).ticks[0]
    assert (np.diff(ticks, axis=1) >= 0).all()
    assert (np.diff(ticks, axis=0) >= 0).all()


def test_a_layer_without_tokens_takes_no_time() -> None:
    found = BENT.expected_seconds([[0, 0], [1, 0]], tokens_per_batch=10)
    assert found.tolist() == [[0.0, 0.0], [pytest.approx(9.0), 0.0]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens_per_batch": 0}, "tokens_per_batch=0 is less than 1; use 1 or more"),
        ({"tokens_per_batch": -8}, "tokens_per_batch=-8 is less than 1; use 1 or more"),
        ({"tokens_per_batch": 2**21},
         "tokens_per_batch=2097152 is more than 1048576; use 1048576 or less"),
        ({"tokens_per_batch": 1.5},
         "tokens_per_batch=1.5 is not an integer; use an integer of at least 1"),
        ({"top_k": 0}, "top_k=0 is less than 1; use 1 or more"),
        ({"top_k": 3}, "top_k=3 is more than 2; use 2 or less"),
    ],
)  # fmt: skip
def test_bad_numbers_of_tokens(changed, message) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BENT.expected_seconds([1.0, 2.0], **{"tokens_per_batch": 4} | changed)


def test_bad_tables() -> None:
    with pytest.raises(ValueError, match=r"^curves is empty; use at least one ExpertTime$"):
        TimeTable.build([], 8)
    with pytest.raises(ValueError, match=r"^max_replicas=0 is less than 1; use 1 or more$"):
        TimeTable.build([BENT], 8, 0)


def test_gpus_of_different_types() -> None:
    slow = ExpertTime([(n, 2 * s) for n, s in BENT.points])
    ticks = TimeTable.build([BENT, slow], 8).ticks
    assert np.abs(2 * ticks[0] - ticks[1]).max() <= 2  # one unit for both
