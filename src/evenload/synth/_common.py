"""What all generators share: checks of arguments, seeded streams, shares to whole tokens."""

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
