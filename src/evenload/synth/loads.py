"""Loads of one window: like DeepSeek-V3's, lognormal, or Zipf."""

from __future__ import annotations

import math
import operator
from typing import SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LOAD_TOKENS = 2**20
"""Default tokens of a layer in a load: 131,072 tokens that go to 8 experts each."""

# Above this the rounding errors of float64 shares could add up to a whole token.
MAX_TOKENS = 2**48

# Logs multiplied by it are still far from overflow.
MAX_FACTOR = 1e6

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


def synthetic_load(
    num_layers: int = 58,
    num_experts: int = 256,
    *,
    seed: int = 0,
    tokens: int = LOAD_TOKENS,
) -> IntArray:
    """Draw a load like DeepSeek-V3/R1's on GPQA (58 x 256, top-8).

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

    Parameters
    ----------
    num_layers, num_experts
        L and E, at least 1.
    seed
        Whole number >= 0.
    tokens
        Sum of every layer, 1 to 2**48; it scales the load and never changes who is popular.

    Returns
    -------
    [L, E] int64, tokens, without sampling noise (each is within one token of its exact share).

    Raises
    ------
    ValueError
        An argument is outside its range.
    """
    shape = check_shape(num_layers, num_experts)
    total = check_tokens(tokens)
    return whole_tokens(calibrated_shares(*shape, stream(seed)), total)


def lognormal_load(
    num_layers: int,
    num_experts: int,
    sigma: float,
    *,
    seed: int = 0,
    tokens: int = LOAD_TOKENS,
) -> IntArray:
    """Draw a load whose experts are independent and lognormally popular.

    Parameters
    ----------
    num_layers, num_experts
        L and E, at least 1. More layers with the same seed begin with the layers of fewer.
    sigma
        Standard deviation of the natural logarithm of an expert's popularity, 0 to 1e6 (0: all
        alike).
    seed
        Whole number >= 0.
    tokens
        Sum of every layer, 1 to 2**48; it scales the load and never changes who is popular.

    Returns
    -------
    [L, E] int64, tokens.

    Raises
    ------
    ValueError
        An argument is outside its range.
    """
    shape = check_shape(num_layers, num_experts)
    spread, total = check_factor("sigma", sigma), check_tokens(tokens)
    return whole_tokens(normalise_logs(spread * stream(seed).standard_normal(shape)), total)


def zipf_load(
    num_layers: int,
    num_experts: int,
    exponent: float = 1.0,
    *,
    seed: int = 0,
    tokens: int = LOAD_TOKENS,
) -> IntArray:
    """Draw a load in which the expert at rank r gets a share proportional to 1 / r**exponent.

    Which expert has which rank is a random permutation, another one in each layer.

    Parameters
    ----------
    num_layers, num_experts
        L and E, at least 1. More layers with the same seed begin with the layers of fewer.
    exponent
        0 to 1e6 (0: all alike).
    seed
        Whole number >= 0.
    tokens
        Sum of every layer, 1 to 2**48; it scales the load and never changes who is popular.

    Returns
    -------
    [L, E] int64, tokens.

    Raises
    ------
    ValueError
        An argument is outside its range.
    """
    shape = check_shape(num_layers, num_experts)
    power, total = check_factor("exponent", exponent), check_tokens(tokens)
    order = np.argsort(stream(seed).random(shape), axis=1, kind="stable")
    curve = normalise_logs(-power * np.log(np.arange(1, shape[1] + 1)))
    shares = np.empty(shape)
    np.put_along_axis(shares, order, np.broadcast_to(curve, shape), axis=1)
    return whole_tokens(shares, total)


def calibrated_shares(num_layers: int, num_experts: int, rng: np.random.Generator) -> FloatArray:
    """Draw the shares behind `synthetic_load`: [L, E] float64, every layer sums to 1."""
    quantile = _even_quantiles(num_layers, rng)
    strength = 2 * _HOT_ODDS * _even_quantiles(num_layers, rng)
    preference = np.exp(-np.arange(num_experts) / (_HOT_REACH * num_experts))
    # Exponential clocks: who rings first gets the hottest rank. Same as drawing rank after rank
    # with odds exp(strength * preference) among the experts left.
    clock = rng.standard_exponential((num_layers, num_experts))
    order = np.argsort(clock * np.exp(-strength[:, None] * preference), axis=1, kind="stable")
    shares = np.empty((num_layers, num_experts))
    np.put_along_axis(shares, order, _rank_curves(quantile, num_experts), axis=1)
    return shares


def _even_quantiles(count: int, rng: np.random.Generator) -> FloatArray:
    """Return the middles of `count` equal parts of (0, 1), in random order."""
    return np.asarray((rng.permutation(count) + 0.5) / count, dtype=np.float64)


def _rank_curves(quantile: FloatArray, num_experts: int) -> FloatArray:
    """Return shares by rank, hottest first, of layers at these quantiles of the spread: [L, E]."""
    size = _RANK[-1]
    peak = np.exp(np.interp(quantile, _QUANTILE, np.log(_PEAK)))
    temper = np.interp(quantile, _QUANTILE, _TEMPER)
    curve = np.interp(np.arange(1, size + 1), _RANK, _CURVE) ** temper[:, None]
    curve[:, 1:] *= ((size - peak) / curve[:, 1:].sum(axis=1))[:, None]
    curve[:, 0] = peak
    return _stretch(curve, num_experts)


def _stretch(curve: FloatArray, num_experts: int) -> FloatArray:
    """Read curves of 256 ranks at the relative ranks of E experts; result rows sum to 1."""
    size = curve.shape[1]
    position = np.clip((np.arange(num_experts) + 0.5) * (size / num_experts) - 0.5, 0, size - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    part = position - below
    stretched = curve[:, below] * (1 - part) + curve[:, above] * part
    return np.asarray(stretched / stretched.sum(axis=1, keepdims=True), dtype=np.float64)


def check_whole(name: str, value: SupportsIndex, low: int, high: int | None = None) -> int:
    """Return `value` as an int; ValueError unless it is a whole number in [low, high]."""
    rule = f"a whole number >= {low}" if high is None else f"a whole number from {low} to {high}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} is not {rule}") from None
    if isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not {rule}")
    if number < low:
        raise ValueError(f"{name}={number} is not {rule}; use {low}")
    if high is not None and number > high:
        raise ValueError(f"{name}={number} is not {rule}; use {high}")
    return number


def check_factor(name: str, value: SupportsFloat) -> float:
    """Return `value` as a float; ValueError unless it is a number from 0 to 1e6."""
    rule = f"a number from 0 to {MAX_FACTOR:g}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, SupportsFloat):
        raise ValueError(f"{name}={value!r} is not {rule}")
    try:
        number = float(value)
    except (TypeError, OverflowError):
        raise ValueError(f"{name}={value!r} is not {rule}") from None
    if math.isnan(number):
        raise ValueError(f"{name}={number} is not {rule}")
    if not 0 <= number <= MAX_FACTOR:
        nearest = f"{MAX_FACTOR:g}" if number > 0 else "0"
        raise ValueError(f"{name}={number} is not {rule}; use {nearest}")
    return number


def check_shape(num_layers: SupportsIndex, num_experts: SupportsIndex) -> tuple[int, int]:
    """Return both sizes as ints; ValueError unless both are whole numbers >= 1."""
    return check_whole("num_layers", num_layers, 1), check_whole("num_experts", num_experts, 1)


def check_tokens(tokens: SupportsIndex) -> int:
    """Return `tokens` as an int; ValueError unless it is a whole number from 1 to 2**48."""
    return check_whole("tokens", tokens, 1, MAX_TOKENS)


def stream(seed: SupportsIndex, index: int = 0) -> np.random.Generator:
    """Return generator number `index` of `seed`; the generators of one seed are independent."""
    sequence = np.random.SeedSequence(check_whole("seed", seed, 0), spawn_key=(index,))
    return np.random.Generator(np.random.PCG64(sequence))


def normalise_logs(logs: FloatArray) -> FloatArray:
    """Return exp(logs) scaled so that the last axis sums to 1, whatever the size of the logs."""
    shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True), dtype=np.float64)


def whole_tokens(shares: FloatArray, tokens: int) -> IntArray:
    """Share out `tokens` in whole tokens, by the largest remainders (ties: the lowest expert).

    Parameters
    ----------
    shares
        [L, E] float64, every row sums to 1.
    tokens
        What every row of the result sums to.

    Returns
    -------
    [L, E] int64; a larger share never gets fewer tokens.
    """
    exact = shares * tokens
    load = np.floor(exact).astype(np.int64)
    missing = tokens - load.sum(axis=1)
    order = np.argsort(load - exact, axis=1, kind="stable")
    one_more = np.arange(shares.shape[1]) < missing[:, None]
    extra = np.empty_like(load)
    np.put_along_axis(extra, order, one_more.astype(np.int64), axis=1)
    return load + extra
