"""Samples of what the next window may look like, so that a plan holds in most of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evenload.forecast.estimators import adaptive, jumps
from evenload.forecast.windows import Float, last_windows, shares

RECENT = 8  # windows that are samples as they are
RECENT_KEEP = 0.75  # of the weight is left a window further back
ERRORS = 10  # past errors of the prediction that are samples, each added and subtracted
ERRORS_KEEP = 0.85
PREDICTION = 0.1  # of the weight of the errors is the prediction's own
ERRORS_SHARE = 0.8  # of all weight is that of the prediction and its errors
BEFORE_JUMP = 0.2  # of the weight is left of windows before the traffic jumped


@dataclass(frozen=True, eq=False)
class Samples:
    """Loads that the next window may have.

    Parameters
    ----------
    load : float64 ndarray, [M, L, E]
        Shares: each layer of each sample adds up to 1.
    weight : float64 ndarray, [M]
        How likely each is; they add up to 1.
    """

    load: Float
    weight: Float


def samples(trace: Any) -> Samples:
    """Draw up samples of the window after a trace.

    A fifth of the weight goes to the last windows, which show what experts peak together; the rest
    to the adaptive prediction with each of its last errors added and subtracted, which says how far
    off the prediction may be.

    Parameters
    ----------
    trace : Trace, array_like or torch.Tensor, [T, L, E]
        Tokens routed to each expert, the oldest window first.

    Returns
    -------
    Samples
        One for a trace of one window, else up to 29.

    Raises
    ------
    ValueError
        As `forecast`.
    """
    seen = shares(last_windows(trace)[0])
    return samples_of(seen, adaptive(seen))


def samples_of(seen: Float, path: Float) -> Samples:
    """Do what `samples` does, for shares [T, L, E] and the predictions of any estimator."""
    recent = seen[-RECENT:]
    recent_weight = _decayed(len(recent), RECENT_KEEP)
    before = np.cumsum(jumps(seen)[::-1])[::-1]
    before = np.append(before[1:], 0)[-RECENT:]  # jumps after each window
    recent_weight = recent_weight * BEFORE_JUMP**before
    recent_weight = recent_weight / recent_weight.sum()
    if len(seen) == 1:
        return Samples(recent, recent_weight)
    error = (seen[1:] - path[:-1])[-ERRORS:]
    weight = (1.0 - PREDICTION) / 2.0 * _decayed(len(error), ERRORS_KEEP)
    around = [path[-1:], np.maximum(path[-1] + error, 0.0), np.maximum(path[-1] - error, 0.0)]
    around_weight = np.concatenate([[PREDICTION], weight, weight])
    return Samples(
        np.concatenate([recent, *around]),
        np.concatenate([(1.0 - ERRORS_SHARE) * recent_weight, ERRORS_SHARE * around_weight]),
    )


def _decayed(count: int, keep: float) -> Float:
    """Return weights that add up to 1 and shrink by `keep` a window into the past, oldest first."""
    weight = np.ones(count)
    for t in range(count - 2, -1, -1):
        weight[t] = weight[t + 1] * keep
    result: Float = weight / weight.sum()
    return result
