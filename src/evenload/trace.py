"""Loads over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Float, check_trace_shape, check_weights, is_tensor, to_numpy
from evenload.checks import positive_int, whole_number
from evenload.layers import ModelLayers


class Windows(Protocol):
    """Where the windows of a trace come from: an array, or a file that is read as it is needed."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts."""

    def read(self, number: int) -> NDArray[Any]:
        """Return one window as it was recorded, [L, E], in memory of its own."""


class ArrayWindows:
    """Windows of an array [T, L, E]; of a memory map only what is asked for is read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape: tuple[int, int, int] = array.shape

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, copied."""
        return np.array(self._array[number])


class _Merged:
    """Recorded windows summed, a fixed number of them into one."""

    def __init__(self, recorded: Trace, each: int) -> None:
        self._recorded, self._each = recorded, each
        self.shape = recorded.num_windows // each, recorded.num_layers, recorded.num_experts

    def read(self, number: int) -> NDArray[Any]:
        first = number * self._each
        total = self._recorded.window(first)
        for t in range(first + 1, first + self._each):
            total += self._recorded.window(t)
        return total


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Trace:
    """Loads over time: windows of tokens routed to each expert of each layer.

    Immutable. Windows are read and checked one at a time, when they are asked for, so that a trace
    on disk takes the memory of a single window however long it is; see
    `evenload.io.read_trace`.

    `load` is an array or tensor [T, L, E], or a sequence of loads [L, E]; what is not, or is empty,
    is a `ValueError`. It is copied, but a ``numpy.memmap`` is read where it lies. `source` says
    where it is from, for messages and reports: a path, or a few words. `layers` are the model's
    numbers of the L layers.

    Examples
    --------
    >>> trace = Trace([[[3, 1]], [[2, 2]], [[1, 5]]])
    >>> trace
    <Trace: 3 windows, 1 layers, 2 experts>
    >>> trace.window(2)
    array([[1., 5.]])
    >>> trace.merged(2).notes
    ('the last 1 of 3 windows are left out: they do not fill a window of 2',)
    """

    _windows: Windows
    source: str
    notes: tuple[str, ...]
    """What had to be assumed or left out, one sentence each."""
    layers: ModelLayers | None
    over_time: bool
    """Whether there is an axis of windows where it is from; else the one window is the load."""

    def __init__(self, load: Any, *, source: str = "", layers: ModelLayers | None = None) -> None:
        made = Trace.of(ArrayWindows(_check_array(load, source)), source=source, layers=layers)
        self.__dict__.update(made.__dict__)

    @classmethod
    def of(
        cls,
        windows: Windows,
        *,
        source: str = "",
        notes: tuple[str, ...] = (),
        layers: ModelLayers | None = None,
        over_time: bool = True,
    ) -> Trace:
        """Return the trace of windows that are read from somewhere; another trace may be that."""
        there = windows.shape[1]
        if layers is not None and len(layers) != there:
            raise ValueError(
                f"layers names {len(layers)} layers, and the load has {there}; name {there}"
            )
        trace = object.__new__(cls)
        trace.__dict__.update(
            _windows=windows, source=str(source), notes=notes, layers=layers, over_time=over_time
        )
        return trace

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows T, layers L, experts E."""
        return self._windows.shape

    @property
    def num_windows(self) -> int:
        """Windows T."""
        return self.shape[0]

    @property
    def num_layers(self) -> int:
        """Layers L."""
        return self.shape[1]

    @property
    def num_experts(self) -> int:
        """Logical experts E of a layer."""
        return self.shape[2]

    def read(self, number: int) -> NDArray[Any]:
        """Return one window as it was recorded, [L, E]: unchecked, in its own dtype, may be a gap.

        Whoever reads windows in order reads a file once; `number` is from 0.
        """
        return self._windows.read(number)

    def window(self, number: int) -> Float:
        """Return the load of one window, counted from 0: float64 [L, E], the caller's own.

        A number in it that is not finite or negative, a layer that is all zero, and a damaged file
        are a `ValueError`.
        """
        index = whole_number("window", number)
        if index >= self.num_windows:
            raise ValueError(
                f"window={index} is not in the trace, which has {self.num_windows}; "
                f"use 0 to {self.num_windows - 1}"
            )
        where = f"{self.source}: window {index}" if self.source else f"window {index}"
        load = check_weights(f"{where}: load", self._windows.read(index))
        empty = np.flatnonzero(~load.any(axis=1))
        if empty.size == len(load):
            raise ValueError(
                f"{where} is all zero, a gap in the recording; leave such windows out of the trace"
            )
        if empty.size:
            raise ValueError(
                f"{where}: layer {empty[0]} is all zero, a gap in the recording or a layer without "
                "experts; leave it out of the trace"
            )
        return load

    def last(self, count: int, until: int) -> Float:
        """Return the last windows before number `until`, 1 to T: float64 [H, L, E], oldest first.

        H is `count`, or fewer near the beginning. Errors are those of `window`.
        """
        wanted, end = positive_int("count", count), positive_int("until", until)
        if end > self.num_windows:
            raise ValueError(
                f"until={end} is past the trace, which has {self.num_windows} windows; "
                f"use {self.num_windows}"
            )
        return np.stack([self.window(t) for t in range(max(end - wanted, 0), end)])

    def merged(self, count: int) -> Trace:
        """Return the trace with every `count` windows summed into one, 1 to T.

        Windows at the end that do not fill one are left out, which is said in `notes`.
        """
        each = positive_int("window", count)
        if each > self.num_windows:
            raise ValueError(
                f"window={each} is longer than the trace, which has {self.num_windows} windows; "
                f"use {self.num_windows}"
            )
        if each == 1:
            return self
        notes = self.notes
        if rest := self.num_windows % each:
            notes += (
                f"the last {rest} of {self.num_windows} windows are left out: they do not fill a "
                f"window of {each}",
            )
        return Trace.of(_Merged(self, each), source=self.source, notes=notes, layers=self.layers)

    def __len__(self) -> int:
        return self.num_windows

    def __iter__(self) -> Iterator[Float]:
        return (self.window(t) for t in range(self.num_windows))

    def __repr__(self) -> str:
        T, L, E = self.shape
        origin = f" from {self.source}" if self.source else ""
        return f"<Trace: {T} windows, {L} layers, {E} experts{origin}>"


def check_trace(value: Any) -> Trace:
    """Return `value` as a `Trace`; an array becomes one."""
    return value if isinstance(value, Trace) else Trace(value)


def _check_array(load: Any, source: str) -> NDArray[Any]:
    name = f"{source}: load" if source else "load"
    if isinstance(load, Sequence):
        _check_shapes(load, name)
        if any(is_tensor(window) for window in load):
            load = [to_numpy(f"{name}[{t}]", window)[0] for t, window in enumerate(load)]
    array: NDArray[Any] = load
    if not isinstance(load, np.memmap):
        array = np.array(to_numpy(name, load)[0])
    check_trace_shape(name, array.shape)
    check_weights(name, array[:0])  # the dtype; windows are checked as they are read
    return array


def _check_shapes(load: Sequence[Any], name: str) -> None:
    """Name the first window whose shape differs from the first one's."""
    try:
        shapes = [tuple(getattr(window, "shape", None) or np.shape(window)) for window in load]
    except (ValueError, TypeError):
        return  # not even one window is rectangular: to_numpy says so
    for t, shape in enumerate(shapes):
        if len(shape) == len(shapes[0]) == 2 and shape[0] == shapes[0][0] and shape != shapes[0]:
            raise ValueError(
                f"{name}: the number of experts changes: window {t} has {shape[1]}, and window 0 "
                f"has {shapes[0][1]}; use windows of one model"
            )
        if shape != shapes[0]:
            raise ValueError(
                f"{name}: window {t} has shape {shape}, and window 0 has {shapes[0]}; use windows "
                "of one shape"
            )
