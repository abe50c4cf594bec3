"""A trace for a forecast: its last windows, checked, as shares of their tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Rewrap, check_trace_shape, check_weights, to_numpy, within_range
from evenload.trace import Trace

Float = NDArray[np.float64]

MEMORY = 64  # windows that a forecast looks back: older ones tell nothing, whatever the trace


def is_trace(value: Any) -> bool:
    """Whether a value is a `Trace`, or has three dimensions."""
    if isinstance(value, Trace):
        return True
    depth = 0
    while isinstance(value, list | tuple) and len(value) > 0:
        value = value[0]
        depth += 1
    dimensions: int = depth + getattr(value, "ndim", 0)
    return dimensions == 3


def last_windows(trace: Any) -> tuple[Float, Rewrap]:
    """Return the last windows of a trace, at most `MEMORY`.

    Parameters
    ----------
    trace : Trace, array_like or torch.Tensor, [T, L, E]
        Tokens routed to each expert, the oldest window first.

    Returns
    -------
    load : float64 ndarray, [T', L, E]
        May share memory with the input: read it only.
    rewrap : callable
        Brings results to the kind and device of the input.

    Raises
    ------
    ValueError
        For a wrong number of dimensions, no window, layer or expert, an illegal dtype or value, or
        a window without any load.
    """
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


def shares(load: Float) -> Float:
    """Divide each layer of each window by its tokens; one without any counts as even."""
    largest = load.max(axis=-1, keepdims=True)
    scaled = np.divide(load, largest, out=np.ones_like(load), where=largest > 0.0)
    result: Float = scaled / scaled.sum(axis=-1, keepdims=True)
    return result
