"""Synthetic loads and traces: seeded, in whole tokens, NumPy only.

Every function takes `num_layers` L and `num_experts` E, at least 1; `seed`, a whole number >= 0;
and `tokens`, 1 to 2**48, to which every layer of every window adds up exactly: what it routes, a
token counted once for each expert it goes to (tokens x top-k). It scales a load and never changes
who is popular. A value out of range is a `ValueError`.

The same arguments give the same bytes, as far as NumPy keeps the streams of its `Generator` with
PCG64 and the last bit of its `exp`, `log` and `power` (a change there can move single tokens). More
layers with the same seed begin with the layers of fewer in `lognormal_load` and `zipf_load`, and a
longer trace begins with the shorter one.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Float, Int
from evenload.checks import in_range, positive_int, whole_number

__all__ = ["lognormal_load", "synthetic_load", "synthetic_trace", "two_phase_trace", "zipf_load"]


LOAD_TOKENS = 2**20  # of a layer in a load: 131,072 tokens that go to 8 experts each
WINDOW_TOKENS = 2**16  # of a layer in a window: 8,192 tokens that go to 8 experts each
MAX_TOKENS = 2**48  # above it the rounding of float64 shares could add up to a whole token
MAX_FACTOR = 1e6  # logs multiplied by it are still far from overflow

# Measured: DeepSeek-V3/R1's routers on GPQA, 58 layers x 256 experts, top-8. Load over mean by
# rank, averaged over layers. The last value was measured as 0.09; it is 0.076 here because the flat
# layers pull the average of the coldest expert up.
_RANK = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256)
_CURVE = (6.8, 4.5, 3.7, 2.8, 2.2, 1.66, 1.23, 0.81, 0.54, 0.076)
# Measured, too: quantiles over layers of max / mean.
_QUANTILE = (0.0, 0.1, 0.5, 0.9, 1.0)
_PEAK = (3.2, 3.9, 6.1, 11.0, 13.3)
# Fitted: the power of the curve below its peak that gives the measured coefficients of variation,
# 0.58, 0.79 and 0.96 at the quantiles 0.1, 0.5 and 0.9 (the ends are extrapolated).
_TEMPER = (0.725, 0.784, 1.023, 1.049, 1.055)
# Fitted to how much worse contiguous placements are than random ones: the mean over layers of the
# log odds by which expert 0 is preferred for a hot rank, and the part of all experts after which
# that preference has fallen by 1 / e.
_HOT_ODDS = 2.2
_HOT_REACH = 0.0875
# Fitted to a steady trace: the spread (standard deviation of the log popularity of an expert of
# average load) of the walk, and how much of it is left one window later.
_WALK_SPREAD = 0.15
_WALK_KEEP = 0.92
# Fitted to lie between steady and changing traffic: the spread of a topic, and how much of the old
# topic is left one window later, as the requests in flight end one by one.
_TOPIC_SPREAD = 0.22
_TOPIC_KEEP = 0.6
# Measured on gpt-oss-20b: the relative drift of an expert with p times the average load goes with
# p**-0.4 (changing topics) to p**-0.6 (steady traffic).
_COLD_UNREST = 0.4


def synthetic_load(
    num_layers: int = 58, num_experts: int = 256, *, seed: int = 0, tokens: int = LOAD_TOKENS
) -> Int:
    """Draw a load, [L, E] int64, like DeepSeek-V3/R1's on GPQA (58 x 256, top-8).

    Measured / here, over the layers: load over mean at rank 1 6.8 / 6.9, 16 2.2 / 2.15, 256 0.09 /
    0.09 (every rank within 5 %); at 10, 50 and 90 % of the layers max over mean 3.9, 6.1, 11.0 /
    3.9, 6.1, 10.9 and coefficient of variation 0.58, 0.79, 0.96 / 0.58, 0.79, 0.96; experts 0-31
    carry 1.49 / 1.50 of the mean; heaviest of 8 GPUs over mean 1.56 / 1.53 with contiguous experts,
    1.22 / 1.22 with shuffled ones, of 32 GPUs 2.19 / 2.18 and 1.81 / 1.79.

    A layer's curve is the measured rank curve (linear between the measured ranks) raised to a
    power, with a peak of its own, both read at a quantile of the measured spread. The layers take
    evenly spaced quantiles in random order, so the spread over layers does not hang on the seed.
    The hot ranks go to random experts, low-numbered ones preferred: strongly in some layers, hardly
    in others.

    For other `num_experts` E, rank r reads the curve at rank (r - 0.5) x 256 / E + 0.5, cut to
    1..256 and linear between ranks: the relative rank counts, so few experts have a lower peak.
    There is no sampling noise: each is within one token of its exact share.
    """
    shape, total = _sizes(num_layers, num_experts, tokens)
    return _whole_tokens(_calibrated_shares(*shape, _stream(seed)), total)


def lognormal_load(
    num_layers: int, num_experts: int, sigma: float, *, seed: int = 0, tokens: int = LOAD_TOKENS
) -> Int:
    """Draw a load, [L, E] int64, whose experts are independent and lognormally popular.

    `sigma` is the standard deviation of the natural logarithm of an expert's popularity, 0 to 1e6
    (0: all alike).
    """
    shape, total = _sizes(num_layers, num_experts, tokens)
    spread = in_range("sigma", sigma, 0, MAX_FACTOR)
    return _whole_tokens(_normalise_logs(spread * _stream(seed).standard_normal(shape)), total)


def zipf_load(
    num_layers: int,
    num_experts: int,
    exponent: float = 1.0,
    *,
    seed: int = 0,
    tokens: int = LOAD_TOKENS,
) -> Int:
    """Draw a load, [L, E] int64, whose expert at rank r has a share that goes with 1 / r**exponent.

    Which expert has which rank is a random permutation, another one in each layer; the exponent is
    0 to 1e6 (0: all alike).
    """
    shape, total = _sizes(num_layers, num_experts, tokens)
    power = in_range("exponent", exponent, 0, MAX_FACTOR)
    curve = _normalise_logs(-power * np.log(np.arange(1, shape[1] + 1)))
    return _whole_tokens(_by_order(_stream(seed).random(shape), curve), total)


def synthetic_trace(
    num_windows: int,
    num_layers: int = 58,
    num_experts: int = 256,
    *,
    drift: float = 1.0,
    topic_windows: int | None = 50,
    seed: int = 0,
    tokens: int = WINDOW_TOKENS,
) -> Int:
    """Draw a trace, [T, L, E] int64, near `synthetic_load` with the same seed over a long stretch.

    Total variation (0 to 1) between windows 1 / 10 / 50 apart, 24 layers x 32 experts, 1,024 tokens
    x top-4: here 0.051 / 0.085 / 0.137, `topic_windows=None` 0.051 / 0.075 / 0.090, sampling noise
    alone 0.046; measured on gpt-oss-20b: changing topics 0.052 / 0.092 / 0.151, steady 0.050 /
    0.073 / 0.091.

    The logarithm of an expert's popularity is that of the load, plus a random walk that reverts to
    0, plus a topic that is drawn anew for all experts from time to time and comes in over a few
    windows; cold experts move more than hot ones. Tokens are drawn from these popularities
    (multinomial), so windows differ by sampling noise even where `drift` is 0.

    `drift`, 0 to 1e6, scales walk and topics (0: the popularity never changes). `topic_windows` is
    the mean number of windows between two changes of the topic, at least 1 (from half to one and a
    half times as many, all equally likely); None: no topics, steady traffic.
    """
    count = positive_int("num_windows", num_windows)
    shape, total = _sizes(num_layers, num_experts, tokens)
    scale = in_range("drift", drift, 0, MAX_FACTOR)
    length = None if topic_windows is None else positive_int("topic_windows", topic_windows)
    shares = _calibrated_shares(*shape, _stream(seed))
    unrest = scale * (shares * shape[1]) ** -_COLD_UNREST
    # The mean of a lognormal lies half its variance above its centre: without this the cold
    # experts, which drift most, would be hotter in the long run than they are in the load.
    spread = _WALK_SPREAD**2 + (0 if length is None else _TOPIC_SPREAD**2)
    base = np.log(shares) - unrest**2 * spread / 2
    walk, topic = _walk(shape, _stream(seed, 1)), _topics(shape, length, _stream(seed, 2))
    sampler = _stream(seed, 3)
    trace = np.empty((count, *shape), dtype=np.int64)
    for window in trace:
        shares = _normalise_logs(base + unrest * (next(walk) + next(topic)))
        window[:] = sampler.multinomial(total, shares)
    return trace


def two_phase_trace(
    num_windows: int,
    num_layers: int = 58,
    num_experts: int = 256,
    *,
    ratio: int = 15,
    seed: int = 0,
    tokens: int = WINDOW_TOKENS,
    **how: Any,
) -> dict[str, Int]:
    """Draw traces of prefill and decode, [T, L, E] int64 each, as one server sees them.

    Both are of `synthetic_trace` with other seeds, so that other experts are popular in each, and
    each drifts on its own; `how` is its `drift` and `topic_windows`. `tokens` are decode's, and
    prefill has `ratio` times as many, 1 to 1e6. That the phases have nothing in common is the worst
    case, and not measured: in real models they share some popular experts.
    """
    times = whole_number("ratio", ratio, 1, int(MAX_FACTOR))
    first = 2 * whole_number("seed", seed, 0, math.inf)
    shape = num_windows, num_layers, num_experts
    return {
        "prefill": synthetic_trace(*shape, seed=first, tokens=times * tokens, **how),
        "decode": synthetic_trace(*shape, seed=first + 1, tokens=tokens, **how),
    }


def _calibrated_shares(num_layers: int, num_experts: int, rng: np.random.Generator) -> Float:
    """Draw the shares behind `synthetic_load`: [L, E] float64, every layer sums to 1."""
    quantile = _even_quantiles(num_layers, rng)
    strength = 2 * _HOT_ODDS * _even_quantiles(num_layers, rng)
    preference = np.exp(-np.arange(num_experts) / (_HOT_REACH * num_experts))
    # Exponential clocks: who rings first gets the hottest rank. Same as drawing rank after rank
    # with odds exp(strength * preference) among the experts left.
    clock = rng.standard_exponential((num_layers, num_experts))
    rings = clock * np.exp(-strength[:, None] * preference)
    return _by_order(rings, _rank_curves(quantile, num_experts))


def _by_order(key: Float, curve: NDArray[Any]) -> NDArray[Any]:
    """Give each expert, ordered by `key` [L, E] in its layer, its place's value of the curve."""
    values = np.empty(key.shape, curve.dtype)
    order = np.argsort(key, axis=1, kind="stable")
    np.put_along_axis(values, order, np.broadcast_to(curve, key.shape), axis=1)
    return values


def _even_quantiles(count: int, rng: np.random.Generator) -> Float:
    """Return the middles of `count` equal parts of (0, 1), in random order."""
    return np.asarray((rng.permutation(count) + 0.5) / count)


def _rank_curves(quantile: Float, num_experts: int) -> Float:
    """Return shares by rank, hottest first, of layers at these quantiles of the spread: [L, E]."""
    size = _RANK[-1]
    peak = np.exp(np.interp(quantile, _QUANTILE, np.log(_PEAK)))
    temper = np.interp(quantile, _QUANTILE, _TEMPER)
    curve = np.interp(np.arange(1, size + 1), _RANK, _CURVE) ** temper[:, None]
    curve[:, 1:] *= ((size - peak) / curve[:, 1:].sum(axis=1))[:, None]
    curve[:, 0] = peak
    # E experts read the 256 ranks at their relative ranks.
    position = np.clip((np.arange(num_experts) + 0.5) * (size / num_experts) - 0.5, 0, size - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    part = position - below
    stretched = curve[:, below] * (1 - part) + curve[:, above] * part
    return np.asarray(stretched / stretched.sum(axis=1, keepdims=True), dtype=np.float64)


def _walk(shape: tuple[int, int], rng: np.random.Generator) -> Iterator[Float]:
    """Yield, window by window, a stationary random walk that reverts to 0 (Ornstein-Uhlenbeck)."""
    step = _WALK_SPREAD * np.sqrt(1 - _WALK_KEEP**2)
    state = _WALK_SPREAD * rng.standard_normal(shape)
    while True:
        yield state
        state = _WALK_KEEP * state + step * rng.standard_normal(shape)


def _topics(
    shape: tuple[int, int], length: int | None, rng: np.random.Generator
) -> Iterator[Float]:
    """Yield, window by window, the topic's part of log popularity; all layers change at once."""
    while length is None:
        yield np.zeros(shape)
    state = topic = _TOPIC_SPREAD * rng.standard_normal(shape)
    # The trace begins somewhere inside a topic, not at its start.
    left = rng.integers(1, length, endpoint=True)
    while True:
        if left == 0:
            topic = _TOPIC_SPREAD * rng.standard_normal(shape)
            left = rng.integers(max(1, length // 2), length + length // 2, endpoint=True)
        left -= 1
        state = _TOPIC_KEEP * state + (1 - _TOPIC_KEEP) * topic
        yield state


def _sizes(num_layers: int, num_experts: int, tokens: int) -> tuple[tuple[int, int], int]:
    """Check what every function here takes; return the shape [L, E] and the tokens of a layer."""
    shape = positive_int("num_layers", num_layers), positive_int("num_experts", num_experts)
    return shape, whole_number("tokens", tokens, 1, MAX_TOKENS)


def _stream(seed: int, index: int = 0) -> np.random.Generator:
    """Return generator number `index` of `seed`; the generators of one seed are independent."""
    sequence = np.random.SeedSequence(whole_number("seed", seed, 0, math.inf), spawn_key=(index,))
    return np.random.Generator(np.random.PCG64(sequence))


def _normalise_logs(logs: Float) -> Float:
    """Return exp(logs) scaled so that the last axis sums to 1, whatever the size of the logs."""
    shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True), dtype=np.float64)


def _whole_tokens(shares: Float, tokens: int) -> Int:
    """Share out `tokens` of each layer by shares [L, E], by the largest remainders."""
    exact = shares * tokens
    load = np.floor(exact).astype(np.int64)
    missing = tokens - load.sum(axis=1, keepdims=True)
    load += _by_order(load - exact, np.arange(shares.shape[1]) < missing)
    return load
