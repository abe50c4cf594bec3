"""The generators: determinism, whole tokens, and the figures they are calibrated on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenload.synth import lognormal_load, synthetic_load, synthetic_trace, zipf_load

SEEDS = range(5)

# name, measured on DeepSeek-V3/R1, relative tolerance of each seed. The spread over layers and the
# rank curve hardly depend on the seed; sums of experts do (seed to seed: 1 to 2 %).
CALIBRATION = [
    ("rank 1", 6.8, 0.02),
    ("rank 2", 4.5, 0.055),
    ("rank 4", 3.7, 0.05),
    ("rank 8", 2.8, 0.04),
    ("rank 16", 2.2, 0.03),
    ("rank 32", 1.66, 0.02),
    ("rank 64", 1.23, 0.02),
    ("rank 128", 0.81, 0.025),
    ("rank 192", 0.54, 0.05),
    ("rank 256", 0.09, 0.03),
    ("max / mean at 0 %", 3.2, 0.025),
    ("max / mean at 10 %", 3.9, 0.02),
    ("max / mean at 50 %", 6.1, 0.02),
    ("max / mean at 90 %", 11.0, 0.02),
    ("max / mean at 100 %", 13.3, 0.025),
    ("variation at 10 %", 0.58, 0.02),
    ("variation at 50 %", 0.79, 0.02),
    ("variation at 90 %", 0.96, 0.02),
    ("experts 0-31", 1.49, 0.06),
    ("8 GPUs, contiguous", 1.56, 0.06),
    ("8 GPUs, shuffled", 1.22, 0.04),
    ("32 GPUs, contiguous", 2.19, 0.07),
    ("32 GPUs, shuffled", 1.81, 0.05),
]


def heaviest(load: np.ndarray, num_gpus: int) -> float:
    """Mean over layers of heaviest GPU / mean, experts placed in order without replicas."""
    return float(load.reshape(len(load), num_gpus, -1).mean(axis=2).max(axis=1).mean())


def figures(seed: int) -> dict[str, float]:
    load = synthetic_load(58, 256, seed=seed).astype(np.float64)
    load /= load.mean(axis=1, keepdims=True)
    shuffled = np.random.default_rng(seed).permuted(load, axis=1)
    curve, peak, variation = (
        -np.sort(-load, axis=1).mean(axis=0),
        load.max(axis=1),
        load.std(axis=1),
    )
    found = {f"rank {2**i}": curve[2**i - 1] for i in range(9)} | {"rank 192": curve[191]}
    for percent in (0, 10, 50, 90, 100):
        found[f"max / mean at {percent} %"] = np.percentile(peak, percent)
        found[f"variation at {percent} %"] = np.percentile(variation, percent)
    found["experts 0-31"] = load[:, :32].mean()
    for num_gpus in (8, 32):
        found[f"{num_gpus} GPUs, contiguous"] = heaviest(load, num_gpus)
        found[f"{num_gpus} GPUs, shuffled"] = heaviest(shuffled, num_gpus)
    return found


@pytest.fixture(scope="module")
def calibration() -> list[dict[str, float]]:
    return [figures(seed) for seed in SEEDS]


@pytest.mark.parametrize(("name", "measured", "tolerance"), CALIBRATION)
def test_figure_is_close_to_the_measured_one_for_every_seed(calibration, name, measured, tolerance):
    assert [found[name] for found in calibration] == pytest.approx([measured] * 5, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "measured"), [(name, value) for name, value, _ in CALIBRATION if "GPUs" in name]
)
def test_placement_figures_averaged_over_seeds(calibration, name, measured):
    assert np.mean([found[name] for found in calibration]) == pytest.approx(measured, rel=0.03)


def test_hottest_expert_of_a_layer_is_not_always_the_same_one():
    assert len(set(synthetic_load(58, 256).argmax(axis=1))) > 20


@pytest.mark.parametrize("num_experts", [8, 32, 64, 128, 512])
def test_other_numbers_of_experts_keep_the_relative_skew(num_experts):
    load = synthetic_load(200, num_experts).astype(np.float64)
    load /= load.mean(axis=1, keepdims=True)
    curve = -np.sort(-load, axis=1).mean(axis=0)
    # The coldest eighth carries the same part of a layer whatever its number of experts; in the
    # measured curve, linear between ranks 192 and 256, it runs from 0.315 to 0.09.
    eighth = num_experts // 8
    assert curve[-eighth:].mean() == pytest.approx((0.315 + 0.09) / 2, rel=0.1)
    assert load[:, :eighth].mean() == pytest.approx(1.53, rel=0.17)
    assert 2 < curve[0] < 7


def test_curves_fall_with_rank_in_every_layer():
    # A layer's own peak must stay above its second rank; asked for with many layers, so that
    # every quantile of the spread is met.
    ranked = -np.sort(-synthetic_load(2000, 256), axis=1)
    assert (ranked[:, 0] > ranked[:, 1]).all()


GENERATORS = {
    "lognormal": lambda **more: lognormal_load(3, 16, 1.0, **more),
    "zipf": lambda **more: zipf_load(3, 16, **more),
    "calibrated": lambda **more: synthetic_load(3, 16, **more),
    "trace": lambda **more: synthetic_trace(4, 3, 16, **more),
}
generators = pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS.keys())


@generators
def test_same_seed_same_bytes_and_another_seed_another_load(make):
    assert make(seed=7).tobytes() == make(seed=np.int64(7)).tobytes()
    assert make().tobytes() == make(seed=0).tobytes()
    assert make(seed=7).tobytes() != make(seed=8).tobytes()


@generators
def test_global_random_state_is_neither_used_nor_moved(make):
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = make()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert first.tobytes() == make().tobytes()


@given(
    layers=st.integers(1, 4),
    experts=st.integers(1, 40),
    tokens=st.one_of(st.integers(1, 50), st.integers(1, 2**48)),
    skew=st.one_of(st.floats(0, 5), st.just(1e6)),
    seed=st.integers(0, 2**70),
)
@settings(max_examples=60, deadline=None)
def test_shapes_dtypes_and_sums(layers, experts, tokens, skew, seed):
    more = {"seed": seed, "tokens": tokens}
    loads = [
        lognormal_load(layers, experts, skew, **more),
        zipf_load(layers, experts, skew, **more),
        synthetic_load(layers, experts, **more),
        *synthetic_trace(2, layers, experts, drift=skew, topic_windows=1, **more),
    ]
    for load in loads:
        assert load.shape == (layers, experts)
        assert load.dtype == np.int64
        assert load.min() >= 0
        assert (load.sum(axis=1) == tokens).all()


@pytest.mark.parametrize("name", ["lognormal", "zipf", "calibrated"])
def test_tokens_only_scale_a_load(name):
    few, many = GENERATORS[name](tokens=1000), GENERATORS[name](tokens=2**40)
    assert np.abs(few - many * (1000 / 2**40)).max() < 1


def test_fewer_tokens_than_experts_go_to_the_hottest():
    load = zipf_load(5, 64, tokens=1)
    assert (load.argmax(axis=1) == zipf_load(5, 64).argmax(axis=1)).all()


def test_one_expert_gets_every_token():
    assert synthetic_trace(2, 3, 1, tokens=9).tolist() == [[[9]] * 3] * 2


@pytest.mark.parametrize(
    "make",
    [lambda n: lognormal_load(n, 8, 1.0), lambda n: zipf_load(n, 8)],
    ids=["lognormal", "zipf"],
)
def test_more_layers_begin_with_the_same_ones(make):
    assert (make(6)[:4] == make(4)).all()


@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0])
def test_lognormal_load_has_the_spread_asked_for(sigma):
    logs = np.log(lognormal_load(58, 256, sigma, tokens=2**40))
    assert logs.std(axis=1).mean() == pytest.approx(sigma, rel=0.02)
    middle = (np.abs(logs - logs.mean(axis=1, keepdims=True)) < sigma).mean()
    assert middle == pytest.approx(0.683, abs=0.02)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_zipf_load_is_the_zipf_curve_in_an_order_of_each_layers_own(exponent):
    load = zipf_load(20, 50, exponent, tokens=10**9)
    weight = np.arange(1.0, 51) ** -exponent
    np.testing.assert_allclose(-np.sort(-load), [10**9 * weight / weight.sum()] * 20, atol=1)
    assert len({row.tobytes() for row in np.argsort(load)}) == 20


@pytest.mark.parametrize(
    "load", [lognormal_load(2, 100, 0, tokens=150), zipf_load(2, 100, 0, tokens=150)]
)
def test_without_skew_the_odd_tokens_go_to_the_lowest_experts(load):
    assert load.tolist() == [[2] * 50 + [1] * 50] * 2


# Total variation between windows that lie 1, 10, 20 and 50 apart, on the real windows of
# gpt-oss-20b (210 windows, 24 layers, 32 experts, 1,024 tokens to 4 experts each).
LAGS = (1, 10, 20, 50)
STEADY = (0.0500, 0.0729, 0.0833, 0.0914)
CHANGING = (0.0515, 0.0922, 0.1282, 0.1514)


def distances(trace: np.ndarray) -> list[float]:
    share = trace / trace.sum(axis=2, keepdims=True)
    return [float(np.abs(share[n:] - share[:-n]).sum(axis=2).mean()) / 2 for n in LAGS]


def like_gpt_oss(**more) -> np.ndarray:
    return np.mean(
        [distances(synthetic_trace(210, 24, 32, seed=s, tokens=4096, **more)) for s in SEEDS],
        axis=0,
    )


def test_quoted_distances_are_those_of_the_real_windows(shared: Path):
    with np.load(shared / "data" / "gpt-oss-20b.npz") as real:
        assert distances(real["load_mixed"]) == pytest.approx(STEADY, abs=1e-4)
        assert distances(real["load"]) == pytest.approx(CHANGING, abs=1e-4)


def test_default_drift_lies_between_steady_and_changing_traffic():
    found = like_gpt_oss()
    assert found[0] == pytest.approx(np.mean([STEADY[0], CHANGING[0]]), rel=0.03)
    assert (found[1:] > STEADY[1:]).all()
    assert (found[1:] < CHANGING[1:]).all()


def test_without_topics_the_drift_is_that_of_steady_traffic():
    assert like_gpt_oss(topic_windows=None) == pytest.approx(STEADY, rel=0.04)


def test_without_drift_only_sampling_noise_is_left():
    near, *far = like_gpt_oss(drift=0)
    assert far == pytest.approx([near] * 3, rel=0.01)
    trace = synthetic_trace(50, 5, 32, drift=0, tokens=2**40, seed=3)
    load = synthetic_load(5, 32, tokens=2**40, seed=3)
    np.testing.assert_allclose(trace, np.broadcast_to(load, trace.shape), rtol=1e-4)


def test_more_drift_moves_windows_further_apart():
    def reach(drift: float) -> float:
        return distances(synthetic_trace(60, 8, 32, drift=drift))[-1]

    assert reach(0.0) < reach(0.5) < reach(1.0) < reach(2.0)


def test_topics_change_all_layers_within_a_few_windows():
    # Without sampling noise to speak of, the windows after a change of topic stand out, at the
    # same time in every layer.
    trace = synthetic_trace(200, 2, 256, tokens=2**40).astype(np.float64)
    step = np.abs(np.diff(trace, axis=0)).sum(axis=2)
    jumps = step > 1.2 * np.median(step, axis=0)
    assert 2 <= jumps[:, 0].sum() <= 12
    assert (jumps[:, 0] & jumps[:, 1]).sum() >= 0.7 * jumps.any(axis=1).sum()


def test_long_run_load_is_that_of_the_synthetic_load():
    mean = synthetic_trace(1000, 4, 32).mean(axis=0)
    load = synthetic_load(4, 32, tokens=2**16)
    assert np.abs(mean - load).sum() / load.sum() < 0.06
    cold = load < 2**16 / 32 / 2
    assert mean[cold].sum() == pytest.approx(load[cold].sum(), rel=0.06)


def test_a_longer_trace_begins_with_the_shorter_one():
    assert (synthetic_trace(90, 2, 8)[:70] == synthetic_trace(70, 2, 8)).all()


BAD = [
    (lambda: lognormal_load(0, 4, 1.0), "num_layers=0 is not a whole number >= 1; use 1"),
    (lambda: zipf_load(2, -3), "num_experts=-3 is not a whole number >= 1; use 1"),
    (lambda: synthetic_load(2.0, 4), "num_layers=2.0 is not a whole number >= 1"),
    (lambda: synthetic_load(True, 4), "num_layers=True is not a whole number >= 1"),
    (
        lambda: synthetic_load(tokens=0),
        f"tokens=0 is not a whole number from 1 to {2**48}; use 1",
    ),
    (
        lambda: synthetic_load(tokens=2**48 + 1),
        f"tokens={2**48 + 1} is not a whole number from 1 to {2**48}; use {2**48}",
    ),
    (lambda: synthetic_load(seed=-1), "seed=-1 is not a whole number >= 0; use 0"),
    (lambda: synthetic_load(seed=None), "seed=None is not a whole number >= 0"),
    (lambda: lognormal_load(2, 4, -0.5), "sigma=-0.5 is not a number from 0 to 1e+06; use 0"),
    (lambda: lognormal_load(2, 4, float("nan")), "sigma=nan is not a number from 0 to 1e+06"),
    (lambda: lognormal_load(2, 4, "1"), "sigma='1' is not a number from 0 to 1e+06"),
    (lambda: lognormal_load(2, 4, 10**400), f"sigma={10**400} is not a number from 0 to 1e+06"),
    (
        lambda: zipf_load(2, 4, float("inf")),
        "exponent=inf is not a number from 0 to 1e+06; use 1e+06",
    ),
    (lambda: synthetic_trace(0), "num_windows=0 is not a whole number >= 1; use 1"),
    (lambda: synthetic_trace(2, drift=-1), "drift=-1.0 is not a number from 0 to 1e+06; use 0"),
    (lambda: synthetic_trace(2, drift=True), "drift=True is not a number from 0 to 1e+06"),
    (
        lambda: synthetic_trace(2, topic_windows=0),
        "topic_windows=0 is not a whole number >= 1; use 1",
    ),
    (
        lambda: synthetic_trace(2, tokens=-5),
        f"tokens=-5 is not a whole number from 1 to {2**48}; use 1",
    ),
]


@pytest.mark.parametrize(("call", "complaint"), BAD, ids=[text[:30] for _, text in BAD])
def test_bad_arguments_are_named_with_the_rule_and_the_nearest_legal_value(call, complaint):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert str(caught.value) == complaint
