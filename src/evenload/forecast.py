"""What the next window may look like: one load, or samples of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Float, Rewrap, check_trace_shape, check_weights, to_numpy, within_range
from evenload.checks import one_of
from evenload.trace import Trace

__all__ = ["ESTIMATORS", "Samples", "forecast", "samples"]


MEMORY = 64  # windows that a forecast looks back: older ones tell nothing, whatever the trace
KEEP = 0.8  # of the weight is left a window later, in "ewma"

# Of "adaptive", chosen on four real traces and two numbers of GPUs:
CANDIDATE_KEEP = (0.0, 0.3, 0.6, 0.8, 1.0)  # from the last window to the mean of all
FORGET = 0.95  # is what a past error still counts a window later
POOLED = 0.8  # of an error is the mean over layers: single layers tell little
DOUBLINGS = 6  # weights fall with the 2**6th power of the error
JUMP = 3.0  # times the usual distance between two windows

# Of the samples:
RECENT = 8  # windows that are samples as they are
RECENT_KEEP = 0.75  # of the weight is left a window further back
ERRORS = 10  # past errors of the prediction that are samples, each added and subtracted
ERRORS_KEEP = 0.85
PREDICTION = 0.1  # of the weight of the errors is the prediction's own
ERRORS_SHARE = 0.8  # of all weight is that of the prediction and its errors
BEFORE_JUMP = 0.2  # of the weight is left of windows before the traffic jumped


class Samples(NamedTuple):
    """Loads that the next window may have, and how likely each is: float64 [M, L, E] and [M].

    Each layer of each load adds up to 1, and so do the weights.
    """

    load: Float
    weight: Float


def forecast(trace: Any, estimator: str = "adaptive") -> Any:
    """Predict the load of the window after a trace: float64 [L, E].

    Each layer has as much load as in the last window. A trace with NaN, negative numbers or windows
    without load is a `ValueError`.

    Parameters
    ----------
    trace : Trace, array_like or torch.Tensor, [T, L, E]
        Tokens routed to each expert, the oldest window first; the last 64 windows are looked at.
    estimator : {"adaptive", "last", "mean", "ewma"}, default "adaptive"
        ``"last"`` repeats the last window, ``"mean"`` averages all, ``"ewma"`` with weights that
        shrink by 0.8 a window, and ``"adaptive"`` mixes such averages per layer by how well each
        would have predicted the windows already seen, and starts anew where traffic jumps.

    Examples
    --------
    >>> forecast([[[4, 0]], [[2, 2]]], "mean")
    array([[3., 1.]])
    """
    load, _, rewrap = outlook(trace, estimator)
    return rewrap(load)


def samples(trace: Any) -> Samples:
    """Draw up samples of the window after a trace.

    A fifth of the weight goes to the last windows, which show what experts peak together; the rest
    to the adaptive prediction with each of its last errors added and subtracted, which says how far
    off the prediction may be. One for a trace of one window, else up to 29; the trace, and its
    errors, are as for `forecast`.
    """
    return outlook(trace, "adaptive")[1]


def outlook(trace: Any, estimator: str) -> tuple[Float, Samples, Rewrap]:
    """Return a forecast, float64 [L, E], samples around it, and how results go back."""
    predict = ESTIMATORS[one_of("estimator", estimator, ESTIMATORS)]
    windows, rewrap = _last_windows(trace)
    seen = shares(windows)
    path = predict(seen)
    load = path[-1] * windows[-1].sum(axis=-1, keepdims=True)
    recent = seen[-RECENT:]
    later_jumps = np.append(np.cumsum(_jumps(seen)[::-1])[::-1][1:], 0)[-RECENT:]
    recent_weight = _fading(len(recent), RECENT_KEEP) * BEFORE_JUMP**later_jumps
    recent_weight = recent_weight / recent_weight.sum()
    if len(seen) == 1:
        return load, Samples(recent, recent_weight), rewrap
    error = (seen[1:] - path[:-1])[-ERRORS:]
    weight = (1.0 - PREDICTION) / 2.0 * _fading(len(error), ERRORS_KEEP)
    around = path[-1:], np.maximum(path[-1] + error, 0.0), np.maximum(path[-1] - error, 0.0)
    around_weight = np.concatenate([[PREDICTION], weight, weight])
    parts = (1.0 - ERRORS_SHARE) * recent_weight, ERRORS_SHARE * around_weight
    return load, Samples(np.concatenate([recent, *around]), np.concatenate(parts)), rewrap


def is_trace(value: Any) -> bool:
    """Whether a value is a `Trace`, or has three dimensions."""
    depth = 0
    while isinstance(value, list | tuple) and len(value) > 0:
        value = value[0]
        depth += 1
    return isinstance(value, Trace) or depth + getattr(value, "ndim", 0) == 3


def shares(load: Float) -> Float:
    """Divide each layer of each window by its tokens; one without any counts as even."""
    largest = load.max(axis=-1, keepdims=True)
    scaled = np.divide(load, largest, out=np.ones_like(load), where=largest > 0.0)
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True))


def _last_windows(trace: Any) -> tuple[Float, Rewrap]:
    """Return the last windows of a trace, at most `MEMORY`, checked; they may share its memory."""
    if isinstance(trace, Trace):
        trace = trace.last(MEMORY, trace.num_windows)
    array, rewrap = to_numpy("trace", trace)
    check_trace_shape("trace", array.shape)
    first = max(0, len(array) - MEMORY)
    load = within_range(check_weights("trace", array[first:]))
    empty = np.flatnonzero(~load.any(axis=(1, 2)))
    if empty.size:
        raise ValueError(
            f"trace has no load at all in window {first + empty[0]}; leave windows without traffic "
            "out"
        )
    return load, rewrap


def _averages(seen: Float, keep: float, anew: NDArray[np.bool_] | None = None) -> Float:
    """Average the windows up to each, with weights that shrink by `keep` a window into the past.

    From a window that `anew` marks, bool [T], those before count no more.
    """
    path = np.empty_like(seen)
    total, weight = np.zeros(seen.shape[1:]), 0.0
    for t, window in enumerate(seen):
        kept = 0.0 if anew is not None and anew[t] else keep
        total *= kept
        total += window
        weight = weight * kept + 1.0
        np.divide(total, weight, out=path[t])
    return path


def _jumps(seen: Float) -> NDArray[np.bool_]:
    """Tell which windows [T] jump: by 3 times the median of all such distances before.

    The distance to the window before is the total variation, averaged over the layers.
    """
    step = np.abs(np.diff(seen, axis=0)).sum(axis=-1).mean(axis=-1)
    found = np.zeros(len(seen), np.bool_)
    for t in range(2, len(seen)):
        found[t] = step[t - 1] > JUMP * np.median(step[: t - 1])
    return found


def _adaptive(seen: Float) -> Float:
    """Predict a mixture of averages, weighed per layer by how they would have done so far.

    Where the traffic jumps the averages begin anew. The absolute errors of each, relative to those
    of the others, are added up, recent ones counting more, and averaged for the most part over the
    layers; its weight falls with the 64th power of that sum.
    """
    anew = _jumps(seen)
    paths = [_averages(seen, keep, anew) for keep in CANDIDATE_KEEP]
    error = np.zeros((len(paths), seen.shape[1]))
    result = np.zeros_like(seen)
    for t in range(len(seen)):
        if t > 0:
            missed = np.stack([np.abs(path[t - 1] - seen[t]).sum(axis=-1) for path in paths])
            usual = missed.mean(axis=0)
            relative = np.divide(missed, usual, out=np.ones_like(missed), where=usual > 0.0)
            pooled = relative.mean(axis=1, keepdims=True)
            error = error * FORGET + (POOLED * pooled + (1.0 - POOLED) * relative)
        for share, path in zip(_weights(error), paths, strict=True):
            result[t] += share[:, None] * path[t]
    return result


def _weights(error: Float) -> Float:
    """Weigh candidates by their errors [C, L], the least one most; columns add up to 1."""
    least = error.min(axis=0)
    ratio = np.divide(least, error, out=np.ones_like(error), where=error > 0.0)
    for _ in range(DOUBLINGS):  # a power would not be the same to the last bit everywhere
        ratio = ratio * ratio
    return np.asarray(ratio / ratio.sum(axis=0))


def _fading(count: int, keep: float) -> Float:
    """Return weights that add up to 1 and shrink by `keep` a window into the past, oldest first."""
    weight = np.cumprod([1.0] + [keep] * (count - 1))[::-1].copy()
    return np.asarray(weight / weight.sum())


ESTIMATORS: dict[str, Callable[[Float], Float]] = {
    "last": lambda seen: seen,
    "mean": partial(_averages, keep=1.0),
    "ewma": partial(_averages, keep=KEEP),
    "adaptive": _adaptive,
}
"""Shares [T, L, E] to predictions [T, L, E]: entry t is made of the windows up to t, for t + 1."""
