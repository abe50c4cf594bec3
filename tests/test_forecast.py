"""What the next window may look like."""

import re

import numpy as np
import pytest

from evenload import Cluster, Placement, solve
from evenload.forecast import ESTIMATORS, forecast, samples
from evenload.forecast.windows import MEMORY
from evenload.io import read_trace

RNG = np.random.default_rng(3)
TRACE = RNG.integers(1, 1000, (9, 2, 6)).astype(float)


def shares(trace):
    return trace / trace.sum(axis=-1, keepdims=True)


def test_fixed_estimators_average_shares():
    seen, tokens = shares(TRACE), TRACE[-1].sum(axis=-1, keepdims=True)
    weight = 0.8 ** np.arange(len(TRACE))[::-1]
    wanted = {
        "last": TRACE[-1],
        "mean": seen.mean(axis=0) * tokens,
        "ewma": np.average(seen, axis=0, weights=weight) * tokens,
    }
    for name, load in wanted.items():
        np.testing.assert_allclose(forecast(TRACE, name), load, rtol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_window_is_its_own_forecast(name):
    np.testing.assert_allclose(forecast(TRACE[:1], name), TRACE[0], rtol=1e-12)


BASE = np.array([[9.0, 5, 3, 1, 1, 1], [1, 1, 2, 3, 5, 8]])


def wrong(trace, truth):
    """Total error of each estimator's shares."""
    return {
        name: np.abs(shares(forecast(trace, name)) - shares(truth)).sum() for name in ESTIMATORS
    }


def test_the_adaptive_one_averages_noise():
    noise = np.random.default_rng(8).uniform(0.5, 1.5, (24, 2, 6))
    error = wrong(BASE * noise, BASE)
    assert error["adaptive"] < 0.5 * error["last"]


def test_the_adaptive_one_follows_a_jump():
    """Four windows after all layers have changed: what was before does not count any more."""
    noise = np.random.default_rng(8).uniform(0.9, 1.1, (24, 2, 6))
    noise[20:] *= BASE[:, ::-1] / BASE
    error = wrong(BASE * noise, BASE[:, ::-1])
    assert error["adaptive"] < error["last"] < 0.5 * error["ewma"]


def test_forecasts_look_back_so_far_and_no_further():
    long = RNG.integers(1, 1000, (MEMORY + 10, 1, 4))
    other = long.copy()
    other[:10] = 7
    for name in ESTIMATORS:
        np.testing.assert_array_equal(forecast(long, name), forecast(other, name))
    np.testing.assert_array_equal(samples(long).load, samples(other).load)


def test_samples_are_shares_around_the_prediction():
    found = samples(TRACE)
    assert found.load.min() >= 0.0
    assert found.weight.min() > 0.0
    assert found.weight.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found.load[:8], shares(TRACE)[-8:], rtol=1e-12)
    np.testing.assert_allclose(samples(TRACE[:1]).load, shares(TRACE[:1]), rtol=1e-12)


@pytest.mark.parametrize("factor", [2.0**-600, 3, 2.0**600])
def test_the_scale_does_not_matter(factor):
    np.testing.assert_array_equal(samples(TRACE * factor).load, samples(TRACE).load)
    np.testing.assert_allclose(forecast(TRACE * factor) / factor, forecast(TRACE), rtol=1e-12)


def test_a_layer_without_load_counts_as_even():
    trace = TRACE.copy()
    trace[-1, 1] = 0.0
    np.testing.assert_allclose(samples(trace).load[7, 1], 1 / 6)
    assert np.isfinite(forecast(trace)).all()


def test_a_trace_on_disk_is_as_good_as_an_array(tmp_path):
    np.save(tmp_path / "trace.npy", TRACE)
    trace = read_trace(tmp_path / "trace.npy")
    np.testing.assert_array_equal(forecast(trace), forecast(TRACE))
    cluster = Cluster(2, slots_per_gpu=4)
    assert solve(trace, cluster).placement == solve(TRACE, cluster).placement
    assert solve(TRACE.tolist(), cluster).placement == solve(TRACE, cluster).placement


def test_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    trace = torch.from_numpy(TRACE)
    assert isinstance(forecast(trace), torch.Tensor)
    plan = solve(trace, Cluster(2, slots_per_gpu=4))
    assert isinstance(plan.expected_balancedness, torch.Tensor)
    assert isinstance(plan.placement.physical_to_logical, torch.Tensor)


def bad(index, value):
    trace = TRACE.copy()
    trace[index] = value
    return trace


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (TRACE[0], "trace has 2 dimensions (2, 6); use [windows, layers, experts]"),
        (TRACE[:0], "trace has 0 windows (0, 2, 6); use at least 1"),
        (TRACE[:, :0], "trace has 0 layers (9, 0, 6); use at least 1"),
        (bad((3, 1, 2), np.nan), "trace[3, 1, 2]=nan is not a finite number >= 0; use 0 or more"),
        (bad((3, 1, 2), -1), "trace[3, 1, 2]=-1.0 is not a finite number >= 0; use 0 or more"),
        (bad(4, 0), "trace has no load at all in window 4; leave windows without traffic out"),
    ],
)
def test_bad_traces(trace, message):
    for call in (forecast, samples):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(trace)


def test_unknown_estimator():
    message = "estimator='holt' is unknown; use one of: last, mean, ewma, adaptive"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        forecast(TRACE, "holt")


@pytest.mark.parametrize("name", ["adaptive", "last", "mean", "ewma"])
def test_a_plan_for_the_estimator_that_is_asked_for(name):
    plan = solve(TRACE, Cluster(2, slots_per_gpu=4), estimator=name)
    np.testing.assert_allclose(plan.problem.load, forecast(TRACE, name))


def test_an_estimator_needs_a_trace():
    message = (
        "estimator='mean' needs loads over time, and the load is of one window; give a trace "
        "[T, L, E], or leave estimator out"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        solve(TRACE[0], Cluster(2, slots_per_gpu=4), estimator="mean")


# Windows of about 10k tokens (gpt-oss-20b) and 2k tokens (DeepSeek-V2-Lite).
REAL = [("gpt-oss-20b", 10), ("deepseek-v2-lite", 2)]


@pytest.mark.parametrize("order", ["load", "load_mixed"])
@pytest.mark.parametrize(("name", "merge"), REAL)
def test_adaptive_is_near_the_best_fixed_one_on_real_traces(shared, name, merge, order):
    """Within 0.2 points of balancedness of the window after, planned with the forecast alone."""
    with np.load(shared / "data" / f"{name}.npz") as arrays:
        load = arrays[order].astype(float)
    T, L, E = len(load) // merge, *load.shape[1:]
    trace = load[: T * merge].reshape(T, merge, L, E).sum(axis=1)
    cluster = Cluster(8, num_slots=E + 8)
    reached = {name: [] for name in ESTIMATORS}
    for t in range(4, T):
        for estimator, values in reached.items():
            plan = solve(forecast(trace[:t], estimator), cluster, effort="standard")
            placement = plan.placement
            values.append(placement.balancedness(trace[t]).mean())
    mean = {name: np.mean(values) for name, values in reached.items()}
    assert mean["adaptive"] >= max(mean.values()) - 0.002, mean
    assert isinstance(placement, Placement)
