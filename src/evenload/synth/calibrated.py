"""Loads like DeepSeek-V3/R1's: measured rank curve and spread, hot low-numbered experts."""

import numpy as np

from evenload.synth._common import (
    LOAD_TOKENS,
    FloatArray,
    IntArray,
    check_shape,
    check_tokens,
    stream,
    whole_tokens,
)

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
