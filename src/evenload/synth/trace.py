"""Traces: a calibrated load whose popularities drift from window to window."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evenload.synth.loads import (
    FloatArray,
    IntArray,
    calibrated_shares,
    check_factor,
    check_shape,
    check_tokens,
    check_whole,
    normalise_logs,
    stream,
)

WINDOW_TOKENS = 2**16
"""Default tokens of a layer in a window: 8,192 tokens that go to 8 experts each."""

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


def synthetic_trace(
    num_windows: int,
    num_layers: int = 58,
    num_experts: int = 256,
    *,
    drift: float = 1.0,
    topic_windows: int | None = 50,
    seed: int = 0,
    tokens: int = WINDOW_TOKENS,
) -> IntArray:
    """Draw a trace whose load over a long stretch is near `synthetic_load` with the same seed.

    Total variation (0 to 1) between windows 1 / 10 / 50 apart, 24 layers x 32 experts, 1,024 tokens
    x top-4: here 0.051 / 0.085 / 0.137, `topic_windows=None` 0.051 / 0.075 / 0.090, sampling noise
    alone 0.046; measured on gpt-oss-20b: changing topics 0.052 / 0.092 / 0.151, steady 0.050 /
    0.073 / 0.091.

    The logarithm of an expert's popularity is that of the load, plus a random walk that reverts to
    0, plus a topic that is drawn anew for all experts from time to time and comes in over a few
    windows; cold experts move more than hot ones. Tokens are drawn from these popularities
    (multinomial), so windows differ by sampling noise even where `drift` is 0.

    Parameters
    ----------
    num_windows
        T, at least 1. A longer trace with the same seed begins with the shorter one.
    num_layers, num_experts
        L and E, at least 1.
    drift
        Scales walk and topics, 0 to 1e6 (0: the popularity never changes).
    topic_windows
        Mean number of windows between two changes of the topic, at least 1 (from half to one and a
        half times as many, all equally likely); None: no topics, steady traffic.
    seed
        Whole number >= 0.
    tokens
        Sum of every layer of every window, 1 to 2**48.

    Returns
    -------
    [T, L, E] int64, tokens.

    Raises
    ------
    ValueError
        An argument is outside its range.
    """
    count = check_whole("num_windows", num_windows, 1)
    shape, scale = check_shape(num_layers, num_experts), check_factor("drift", drift)
    length = None if topic_windows is None else check_whole("topic_windows", topic_windows, 1)
    total = check_tokens(tokens)
    base, unrest = _base_and_unrest(shape, scale, length is not None, stream(seed))
    walk, topic = _walk(shape, stream(seed, 1)), _topics(shape, length, stream(seed, 2))
    sampler = stream(seed, 3)
    trace = np.empty((count, *shape), dtype=np.int64)
    for window in trace:
        shares = normalise_logs(base + unrest * (next(walk) + next(topic)))
        window[:] = sampler.multinomial(total, shares)
    return trace


def _base_and_unrest(
    shape: tuple[int, int], drift: float, topics: bool, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return centre and factor of the drift of each expert's log popularity: [L, E] both."""
    shares = calibrated_shares(*shape, rng)
    unrest = drift * (shares * shape[1]) ** -_COLD_UNREST
    spread = _WALK_SPREAD**2 + (_TOPIC_SPREAD**2 if topics else 0)
    # The mean of a lognormal lies half its variance above its centre: without this the cold
    # experts, which drift most, would be hotter in the long run than they are in the load.
    return np.log(shares) - unrest**2 * spread / 2, unrest


def _walk(shape: tuple[int, int], rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield, window by window, a stationary random walk that reverts to 0 (Ornstein-Uhlenbeck)."""
    step = _WALK_SPREAD * np.sqrt(1 - _WALK_KEEP**2)
    state = _WALK_SPREAD * rng.standard_normal(shape)
    while True:
        yield state
        state = _WALK_KEEP * state + step * rng.standard_normal(shape)


def _topics(
    shape: tuple[int, int], length: int | None, rng: np.random.Generator
) -> Iterator[FloatArray]:
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
