"""What comes out of files and goes into them, and the errors of those that cannot be read."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.checks import positive_int, printable, whole_number
from evenload.io.files import check_bytes
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.trace import ArrayWindows, Trace

Float = NDArray[np.float64]

MOST_EXPERTS = 2**16  # of a layer, in a file: what a model has, with much to spare
MOST_LAYERS = 2**16


class FileFormatError(ValueError):
    """A file that cannot be read as what it is meant to be; the message starts with its name.

    What is quoted from the file may be anything: what does not print is shown escaped, so that the
    message stays one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ClusterMissingError(FileFormatError):
    """A placement whose file does not say on how many GPUs it is, and nobody else said it."""


@contextmanager
def refusing(what: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise a `ValueError` for a library's errors: `what`, and the start of their message."""
    try:
        yield
    except FileFormatError:
        raise
    except errors as error:
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{what} ({text})") from None


@contextmanager
def checking(where: str) -> Iterator[None]:
    """Raise a `FileFormatError` that names the file for what our own checks refuse in it."""
    try:
        yield
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}") from None


def trace_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (windows, layers, experts) of an array of loads; [L, E] and [E] are one window."""
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            f"the load has {len(shape)} dimensions {shape}; use [layers, experts] or [windows, "
            "layers, experts]"
        )
    for word, length in zip(("windows", "layers", "experts")[-len(shape) :], shape, strict=True):
        if length == 0:
            raise ValueError(f"the load has 0 {word} {shape}; use at least 1")
    T, L, E = (1,) * (3 - len(shape)) + shape
    check_array((L, E))
    return T, L, E


def check_array(shape: tuple[int, ...], itemsize: int = 8) -> None:
    """Raise `ValueError` if an array is too large to be held at once."""
    check_bytes(f"an array of shape {shape}", math.prod(shape) * itemsize)


def check_window(window: Any, num_windows: int, source: str) -> int:
    """Return the number of a window, from 0; negative ones count from the end."""
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


def trace_of(
    array: NDArray[Any],
    source: str,
    notes: tuple[str, ...] = (),
    layers: ModelLayers | None = None,
) -> Trace:
    """Return the trace of an array that was read at once, [T, L, E], [L, E] or [E]."""
    windows = ArrayWindows(array.reshape(trace_shape(array.shape)))
    over_time = array.ndim == 3
    return Trace.of(windows, source=source, notes=notes, layers=layers, over_time=over_time)


@dataclass(frozen=True, eq=False)
class LoadFile:
    """A load read from a file."""

    load: Float  # [L, E], tokens routed to each expert: one window, or the sum over all of them
    trace: Trace | None  # where the file has windows; they are read again when they are asked for
    source: str  # the path as it was given
    format: str  # name of the format that read it
    window: int | None = None  # that was picked, from 0; None for all of them together
    notes: tuple[str, ...] = ()  # what the reader had to assume, one sentence each
    layers: ModelLayers | None = (
        None  # the model's numbers of the L layers, where the file has them
    )
    # The load of each phase that has tokens, [L, E]; nothing where the phases are not known.
    phases: Mapping[str, Float] = field(default_factory=dict)

    @property
    def num_windows(self) -> int:
        """Windows T of the file; 1 where it has no window axis."""
        return 1 if self.trace is None else len(self.trace)


@dataclass(frozen=True, eq=False)
class PlacementFile:
    """A placement read from or written to a file, with what is known of its origin."""

    placement: Placement
    source: str = ""  # the path, as it was given
    solver: str | None = None  # name of the one that made it
    load_digest: str | None = None  # of the load that it was made for, see `io.load_digest`
    layers: ModelLayers | None = None  # the model's numbers of its layers, where they are known
    notes: tuple[str, ...] = ()  # what the reader had to assume, one sentence each
    dispatch: str | None = None  # that it was made for, see `evenload.dispatch`


@dataclass(frozen=True)
class PlacementShape:
    """What a caller says of a placement, for files that do not have it; None is not said.

    A number below 1 is a `ValueError`.
    """

    num_gpus: int | None = None
    num_nodes: int | None = None
    num_experts: int | None = None
    agree: bool = True  # whether a file that says them too has to say the same; else it is believed

    def __post_init__(self) -> None:
        for name in ("num_gpus", "num_nodes", "num_experts"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive_int(name, getattr(self, name)))


def model_layers(ids: list[Any], number: Any) -> ModelLayers:
    """Return the model's layers as a file says them, which may be anything, or a `ValueError`."""
    numbers = [whole_number("layer id", i) for i in ids]
    most = None if number is None else whole_number("num_model_layers", number)
    for value in (*numbers, most or 0):
        if value > MOST_LAYERS:
            raise ValueError(
                f"the model's layer {value} is past {MOST_LAYERS}; use what the model has"
            )
    return ModelLayers(numbers, most)
