"""Estimators of the next window, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from evenload.forecast.windows import Float, last_windows, shares

Path: TypeAlias = Float
"""Shares [T, L, E] to predictions [T, L, E]: entry t is made of the windows up to t, for t + 1."""

KEEP = 0.8  # of the weight is left a window later, in "ewma"
CANDIDATE_KEEP = (0.0, 0.5, 0.8, 1.0)  # of "adaptive": last, two averages, mean
FORGET = 0.9  # a past error counts this much less each window
SHARPNESS = 8  # a candidate twice as wrong gets 2**-8 of the weight


def last(seen: Float) -> Path:
    """Predict that the next window is like the last one."""
    return seen


def mean(seen: Float) -> Path:
    """Predict the mean of all windows."""
    return decayed(seen, 1.0)


def ewma(seen: Float) -> Path:
    """Predict an average in which a window counts 0.8 of the one after it."""
    return decayed(seen, KEEP)


def decayed(seen: Float, keep: float) -> Path:
    """Average all windows up to each, with weights that shrink by `keep` a window into the past."""
    path = np.empty_like(seen)
    total, weight = np.zeros(seen.shape[1:]), 0.0
    for t, window in enumerate(seen):
        total = total * keep + window
        weight = weight * keep + 1.0
        path[t] = total / weight
    return path


def adaptive(seen: Float) -> Path:
    """Predict a mixture of estimators, weighed per layer by how they would have done so far.

    Each candidate's squared error on the windows that it would have predicted is added up, recent
    ones counting more; its weight falls with the 8th power of that sum. All alike before there is
    an error.
    """
    paths = [decayed(seen, keep) for keep in CANDIDATE_KEEP]
    error = np.zeros((len(paths), seen.shape[1]))
    result = np.empty_like(seen)
    for t in range(len(seen)):
        if t > 0:
            missed = [((path[t - 1] - seen[t]) ** 2).sum(axis=-1) for path in paths]
            error = error * FORGET + np.stack(missed)
        weight = _weights(error)
        result[t] = sum(w[:, None] * path[t] for w, path in zip(weight, paths, strict=True))
    return result


def _weights(error: Float) -> Float:
    """Weigh candidates by their errors [C, L], the least one most; columns add up to 1."""
    least = error.min(axis=0)
    ratio = np.divide(least, error, out=np.ones_like(error), where=error > 0.0)
    for _ in range(SHARPNESS.bit_length() - 1):  # exact to the bit everywhere, unlike a power
        ratio = ratio * ratio
    weight: Float = ratio / ratio.sum(axis=0)
    return weight


ESTIMATORS: dict[str, Callable[[Float], Path]] = {
    "last": last,
    "mean": mean,
    "ewma": ewma,
    "adaptive": adaptive,
}


def get_estimator(name: Any) -> Callable[[Float], Path]:
    """Return an estimator by name, or raise `ValueError` with the names there are."""
    if not isinstance(name, str) or name not in ESTIMATORS:
        raise ValueError(f"estimator={name!r} is unknown; use one of: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def forecast(trace: Any, estimator: str = "adaptive") -> Any:
    """Predict the load of the window after a trace.

    Parameters
    ----------
    trace : array_like or torch.Tensor, [T, L, E], or an object with ``last(n, until)``
        Tokens routed to each expert, the oldest window first; the last 64 windows are looked at.
    estimator : {"adaptive", "last", "mean", "ewma"}, default "adaptive"
        ``"last"`` repeats the last window, ``"mean"`` averages all, ``"ewma"`` with weights that
        shrink by 0.8 a window, and ``"adaptive"`` mixes such averages per layer by how well each
        would have predicted the windows already seen.

    Returns
    -------
    float64, [L, E]
        In the unit of the trace: each layer has as much load as in the last window.

    Raises
    ------
    ValueError
        For an illegal trace (NaN, negative, empty windows) or an unknown estimator.

    Examples
    --------
    >>> forecast([[[4, 0]], [[2, 2]]], "mean")
    array([[3., 1.]])
    """
    predict = get_estimator(estimator)
    load, rewrap = last_windows(trace)
    return rewrap(predict(shares(load))[-1] * load[-1].sum(axis=-1, keepdims=True))
