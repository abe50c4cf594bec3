"""Estimators of the next window, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload.forecast.windows import Float, last_windows, shares

Path: TypeAlias = Float
"""Shares [T, L, E] to predictions [T, L, E]: entry t is made of the windows up to t, for t + 1."""

KEEP = 0.8  # of the weight is left a window later, in "ewma"

# Of "adaptive", chosen on four real traces and two numbers of GPUs:
CANDIDATE_KEEP = (0.0, 0.3, 0.6, 0.8, 1.0)  # from the last window to the mean of all
FORGET = 0.95  # is what a past error still counts a window later
POOLED = 0.8  # of an error is the mean over layers: single layers tell little
DOUBLINGS = 6  # weights fall with the 2**6th power of the error
JUMP = 3.0  # times the usual distance between two windows


def last(seen: Float) -> Path:
    """Predict that the next window is like the last one."""
    return seen


def mean(seen: Float) -> Path:
    """Predict the mean of all windows."""
    return decayed(seen, 1.0)


def ewma(seen: Float) -> Path:
    """Predict an average in which a window counts 0.8 of the one after it."""
    return decayed(seen, KEEP)


def decayed(seen: Float, keep: float, anew: NDArray[np.bool_] | None = None) -> Path:
    """Average the windows up to each, with weights that shrink by `keep` a window into the past.

    Parameters
    ----------
    seen : float64 ndarray, [T, L, E]
    keep : float
    anew : bool ndarray, [T], optional
        Windows from which those before count no more. Default: none.
    """
    path = np.empty_like(seen)
    total, weight = np.zeros(seen.shape[1:]), 0.0
    for t, window in enumerate(seen):
        if anew is not None and anew[t]:
            total, weight = np.zeros_like(total), 0.0
        total *= keep
        total += window
        weight = weight * keep + 1.0
        np.divide(total, weight, out=path[t])
    return path


def jumps(seen: Float) -> NDArray[np.bool_]:
    """Tell which windows begin something new: bool [T].

    A window does whose distance to the one before, the total variation averaged over the layers, is
    more than 3 times the median of all such distances before it.
    """
    step = np.abs(np.diff(seen, axis=0)).sum(axis=-1).mean(axis=-1)
    found = np.zeros(len(seen), np.bool_)
    for t in range(2, len(seen)):
        found[t] = step[t - 1] > JUMP * np.median(step[: t - 1])
    return found


def adaptive(seen: Float) -> Path:
    """Predict a mixture of averages, weighed per layer by how they would have done so far.

    Where the traffic jumps, see `jumps`, the averages begin anew. Each one's absolute error on the
    windows that it would have predicted is added up, relative to that of the others, recent ones
    counting more, and averaged for the most part over the layers; its weight falls with the 64th
    power of that sum. All alike before there is an error.
    """
    anew = jumps(seen)
    paths = [decayed(seen, keep, anew) for keep in CANDIDATE_KEEP]
    error = np.zeros((len(paths), seen.shape[1]))
    result = np.empty_like(seen)
    for t in range(len(seen)):
        if t > 0:
            missed = np.stack([np.abs(path[t - 1] - seen[t]).sum(axis=-1) for path in paths])
            error = error * FORGET + _relative(missed)
        result[t] = 0.0
        for share, path in zip(_weights(error), paths, strict=True):
            result[t] += share[:, None] * path[t]
    return result


def _relative(missed: Float) -> Float:
    """Divide errors [C, L] by the candidates' mean, and draw them to the layers' mean."""
    usual = missed.mean(axis=0)
    relative = np.divide(missed, usual, out=np.ones_like(missed), where=usual > 0.0)
    pooled = relative.mean(axis=1, keepdims=True)
    drawn: Float = POOLED * pooled + (1.0 - POOLED) * relative
    return drawn


def _weights(error: Float) -> Float:
    """Weigh candidates by their errors [C, L], the least one most; columns add up to 1."""
    least = error.min(axis=0)
    ratio = np.divide(least, error, out=np.ones_like(error), where=error > 0.0)
    for _ in range(DOUBLINGS):  # a power would not be the same to the last bit everywhere
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
    trace : Trace, array_like or torch.Tensor, [T, L, E]
        Tokens routed to each expert, the oldest window first; the last 64 windows are looked at.
    estimator : {"adaptive", "last", "mean", "ewma"}, default "adaptive"
        ``"last"`` repeats the last window, ``"mean"`` averages all, ``"ewma"`` with weights that
        shrink by 0.8 a window, and ``"adaptive"`` mixes such averages per layer by how well each
        would have predicted the windows already seen, and starts anew where traffic jumps.

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
