"""From what a format read to a checked load of one window or of all."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from evenload.arrays import check_weights
from evenload.formats.base import FileFormatError, LoadFile, RawLoad, RawTrace
from evenload.formats.windows import trace_shape
from evenload.trace import Trace


def check_experts(found: int, asked: int | None, source: str) -> None:
    """Raise `FileFormatError` if a file has another number of experts than was asked for."""
    if asked is not None and asked != found:
        raise FileFormatError(
            f"{source}: the file has {found} experts a layer, and num_experts={asked} was given; "
            f"use {found}, or leave it out"
        )


def check_window(window: Any, num_windows: int, source: str) -> int:
    """Return the number of a window, from 0; negative ones count from the end.

    Raises
    ------
    ValueError
        If it is no integer, or there is no such window.
    """
    try:
        index = operator.index(window)
    except TypeError:
        raise ValueError(f"window={window!r} is not an integer; use 0 or more") from None
    if not -num_windows <= index < num_windows:
        nearest = num_windows - 1 if index > 0 else -num_windows
        raise ValueError(
            f"window={index} is not in {source}, which has {num_windows} (0 to {num_windows - 1}, "
            f"or from the end -1 to {-num_windows}); use {nearest}"
        )
    return index % num_windows


def finish_load(
    raw: RawLoad, source: str, name: str, window: int | None, num_experts: int | None
) -> LoadFile:
    """Check a load, and sum its windows or take one of them.

    Parameters
    ----------
    raw : RawLoad
    source, name : str
        The file, and the format that read it.
    window : int or None
        Window to take; None sums over all.
    num_experts : int or None
        Experts that the caller expects.

    Raises
    ------
    FileFormatError
        If the array has another number of dimensions, is empty, or has not `num_experts` experts.
    ValueError
        If the window is not there, or a number is not finite and >= 0.
    """
    trace_shape(raw.array.shape, source)
    check_experts(raw.array.shape[-1], num_experts, source)
    weights = check_weights(f"{source}: load", raw.array)
    trace = weights if weights.ndim == 3 else None
    windows = weights if trace is not None else np.atleast_2d(weights)[None]
    index = None if window is None else check_window(window, windows.shape[0], source)
    load = windows.sum(axis=0) if index is None else windows[index]
    return LoadFile(np.ascontiguousarray(load), trace, source, name, index, raw.notes, raw.layers)


def finish_trace(raw: RawTrace, source: str, name: str, window: int | None) -> LoadFile:
    """Sum windows that are read as they are needed, or take one of them; one is in memory at most.

    Parameters
    ----------
    raw : RawTrace
    source, name : str
        The file, and the format that read it.
    window : int or None
        Window to take; None sums over all.

    Raises
    ------
    ValueError
        If the window is not there, or a number is not finite and >= 0.
    """
    T, L, E = raw.windows.shape
    index = None if window is None else check_window(window, T, source)
    load = np.zeros((L, E))
    for t in range(T) if index is None else (index,):
        load += check_weights(f"{source}: window {t}: load", raw.windows.read(t))
    trace = Trace.of(raw.windows, source=source, notes=raw.notes, layers=raw.layers)
    return LoadFile(load, trace, source, name, index, raw.notes, raw.layers)
