"""Loads from one textbook distribution, without any model behind them."""

import numpy as np

from evenload.synth._common import (
    LOAD_TOKENS,
    IntArray,
    check_factor,
    check_shape,
    check_tokens,
    normalise_logs,
    stream,
    whole_tokens,
)


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
