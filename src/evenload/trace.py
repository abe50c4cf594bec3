"""Loads over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import Float, check_trace_shape, check_weights, is_tensor, to_numpy
from evenload.checks import positive_int, whole_number
from evenload.layers import ModelLayers

PHASES = ("prefill", "decode")
"""Names of the phases in files and on the command line."""


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
    """Recorded windows summed, a fixed number of them into one; of phases they may be empty."""

    def __init__(self, recorded: Trace, each: int, empty: bool = False) -> None:
        self._read = recorded.checked if empty else recorded.window
        self._each = each
        self.shape = recorded.num_windows // each, recorded.num_layers, recorded.num_experts

    def read(self, number: int) -> NDArray[Any]:
        first = number * self._each
        total = self._read(first)
        for t in range(first + 1, first + self._each):
            total += self._read(t)
        return total


class _Sum:
    """Windows of several phases summed."""

    def __init__(self, parts: Sequence[Trace]) -> None:
        self._parts, self.shape = parts, parts[0].shape

    def read(self, number: int) -> NDArray[Any]:
        total = self._parts[0].checked(number)
        for part in self._parts[1:]:
            total += part.checked(number)
        return total


class _Chosen:
    """Some windows of a trace by their numbers, those of None without a token."""

    def __init__(self, recorded: Trace, numbers: Sequence[int | None]) -> None:
        self._recorded, self._numbers = recorded, numbers
        self.shape = len(numbers), recorded.num_layers, recorded.num_experts

    def read(self, number: int) -> NDArray[Any]:
        chosen = self._numbers[number]
        return np.zeros(self.shape[1:]) if chosen is None else self._recorded.read(chosen)


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
    phases: Mapping[str, Trace]
    """The same windows by phase, each with the tokens of that phase alone, and empty where it has
    none; see `phase`. Nothing where the phases are not known."""

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
        phases: Mapping[str, Trace] | None = None,
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
        trace.__dict__["phases"] = dict(phases or {})
        return trace

    @classmethod
    def of_phases(cls, phases: Mapping[str, Any], **about: Any) -> Trace:
        """Return the trace of several phases, which sums them; `about` is as for `of`.

        `phases` are traces [T, L, E] by the phase's name, of the same windows. A window may be
        empty in some. None at all, or some of other windows, layers or experts, are a `ValueError`.
        """
        parts = {name: check_trace(part) for name, part in phases.items()}
        if not parts:
            raise ValueError("phases is empty; give the trace of at least one, e.g. 'decode'")
        first = next(iter(parts))
        for name, part in parts.items():
            for what, here, there in zip(
                ("windows", "layers", "experts"), part.shape, parts[first].shape, strict=True
            ):
                if here != there:
                    raise ValueError(
                        f"phase {name!r} has {here} {what}, and phase {first!r} {there}; use "
                        "phases of the same windows of one model"
                    )
        return cls.of(_Sum(list(parts.values())), phases=parts, **about)

    def with_phase(self, names: Sequence[str]) -> Trace:
        """Return the same trace, each of whose windows is of one phase: T names."""
        if len(names) != self.num_windows:
            raise ValueError(
                f"phase has {len(names)} names, and there are {self.num_windows} windows; use one "
                "name for each"
            )
        about: dict[str, Any] = {"source": self.source, "layers": self.layers}
        parts = {}
        for phase in dict.fromkeys(names):
            numbers = [t if name == phase else None for t, name in enumerate(names)]
            parts[phase] = Trace.of(_Chosen(self, numbers), **about)
        return Trace.of(self, **about, notes=self.notes, over_time=self.over_time, phases=parts)

    def phase(self, name: str) -> Trace:
        """Return the windows of one phase, its tokens alone; those without any are left out.

        Each window is read once. A phase that is not in the trace is a `ValueError`.
        """
        if name not in self.phases:
            there = " and ".join(self.phases)
            raise ValueError(
                f"phase={name!r} is not in the trace, which has {there}; use one of them"
                if there
                else f"phase={name!r}: the file does not tell phases apart; leave it out"
            )
        part = self.phases[name]
        numbers = [t for t in range(len(part)) if part.read(t).any()]
        notes = self.notes
        if not numbers:
            raise ValueError(f"phase={name!r} has no token in any window; use another phase")
        if left := len(part) - len(numbers):
            notes += (
                f"{left} of {len(part)} windows have no token of the phase {name!r} and are left "
                "out",
            )
        about: dict[str, Any] = {"layers": self.layers, "over_time": self.over_time}
        return Trace.of(part.only(numbers), source=self.source, notes=notes, **about)

    def only(self, numbers: Sequence[int]) -> Trace:
        """Return some of the windows, by their numbers from 0."""
        return Trace.of(
            _Chosen(self, list(numbers)),
            source=self.source,
            notes=self.notes,
            layers=self.layers,
            phases={name: part.only(numbers) for name, part in self.phases.items()},
        )

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

    def checked(self, number: int) -> Float:
        """Return one window as it was recorded, its numbers checked; it may be empty or a gap."""
        where = f"{self.source}: window {number}" if self.source else f"window {number}"
        return check_weights(f"{where}: load", self._windows.read(number))

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
        load = self.checked(index)
        where = f"{self.source}: window {index}" if self.source else f"window {index}"
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
        each = positive_int("merge", count)
        if each > self.num_windows:
            raise ValueError(
                f"merge={each} is longer than the trace, which has {self.num_windows} windows; "
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
        about: dict[str, Any] = {"source": self.source, "layers": self.layers}
        parts = {
            name: Trace.of(_Merged(part, each, empty=True), **about)
            for name, part in self.phases.items()
        }
        return Trace.of(_Merged(self, each), notes=notes, phases=parts, **about)

    def __len__(self) -> int:
        return self.num_windows

    def __iter__(self) -> Iterator[Float]:
        return (self.window(t) for t in range(self.num_windows))

    def __repr__(self) -> str:
        T, L, E = self.shape
        origin = f" from {self.source}" if self.source else ""
        phases = f", phases {', '.join(self.phases)}" if self.phases else ""
        return f"<Trace: {T} windows, {L} layers, {E} experts{phases}{origin}>"


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
