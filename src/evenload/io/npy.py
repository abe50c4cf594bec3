"""NumPy .npy files, one array of loads [T, L, E] or [L, E], and arrays in files at large.

Headers are checked before any memory is taken. Windows are read from their place in the file, not
through a memory map: what was looked at through a map counts as memory of the process, and a file
that is cut off meanwhile would end the process.
"""

from __future__ import annotations

import itertools
import math
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import mul
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from evenload.arrays import check_weights
from evenload.io.base import FileFormatError, check_array, refusing, trace_shape
from evenload.io.doubts import refuse_mask, refuse_rows
from evenload.io.files import kind_of
from evenload.io.table import trace_of_rows
from evenload.layers import ModelLayers
from evenload.trace import Trace, Windows

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# NumPy reads the header's text as Python, so that damage shows as any of these.
_BAD_HEADER = (ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError)


def read_load(path: Path, num_experts: int | None, *, layout: str | None = None) -> Trace:
    """Read a load or a trace, each window from its place in the file."""
    return stored_array(path).unnamed_trace(layout, num_experts)


def stored_array(path: Path) -> StoredArray:
    """Return where the numbers of the array in a .npy file are, whatever it is."""
    with path.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise ValueError(f"this is not a .npy file: {kind_of(path)}")
        stream.seek(0)
        return read_layout(stream, path.stat().st_size, path)


# ---- arrays that lie in files --------------------------------------------------------------------


@lru_cache(64)
def row_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides in elements of an array whose last axis runs fastest."""
    return tuple(itertools.accumulate((1, *shape[:0:-1]), mul))[::-1] if shape else ()


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array that lies in a file, read in parts as they are asked for; nothing is kept open.

    `strides` count elements, `offset` bytes from the start of the file. The numbers of `bfloat16`,
    uint16 to NumPy, are the upper halves of float32.
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    bfloat16: bool = False

    def read(self, number: int) -> NDArray[Any]:
        """Return what is at one number of the first axis, in memory of its own."""
        skipped = number * self.strides[0]
        return self._read(skipped, self.shape[1:], self.strides[1:], f"window {number}")

    def whole(self) -> NDArray[Any]:
        """Return all of it, in memory of its own."""
        return self._read(0, self.shape, self.strides, "an array")

    @property
    def by_row(self) -> bool:
        """Whether the last axis runs fastest, without gaps."""
        return self.strides == row_strides(self.shape)

    def windows(self) -> StoredArray:
        """Return it as windows [T, L, E]; [L, E] and [E] are one window."""
        shape = trace_shape(self.shape)
        return replace(self, shape=shape, strides=(0,) * (3 - len(self.shape)) + self.strides)

    def trace(self, layers: ModelLayers | None = None) -> Trace:
        """Return the trace of its windows."""
        windows, over_time = cast("Windows", self.windows()), len(self.shape) == 3
        return Trace.of(windows, source=str(self.path), layers=layers, over_time=over_time)

    def unnamed_trace(self, layout: str | None, num_experts: int | None) -> Trace:
        """Return its trace, unless it looks like something else and no `layout` says what it is."""
        trace_shape(self.shape)
        if layout == "long":
            return trace_of_rows(self.whole(), self.path, num_experts)
        if layout != "loads" and len(self.shape) == 3:
            refuse_mask(map(self.read, range(self.shape[0])), str(self.path))
        elif layout != "loads":
            refuse_rows(self.whole(), str(self.path))
        return self.trace()

    def _read(
        self, skipped: int, shape: tuple[int, ...], strides: tuple[int, ...], what: str
    ) -> NDArray[Any]:
        span = 1 + sum(map(mul, shape, strides)) - sum(strides)
        offset = self.offset + skipped * self.dtype.itemsize
        if offset + span * self.dtype.itemsize > self.path.stat().st_size:
            raise FileFormatError(f"{self.path}: the file ends inside {what}")
        if strides == row_strides(shape):
            array = np.fromfile(self.path, self.dtype, span, offset=offset).reshape(shape)
        else:
            flat = np.memmap(self.path, self.dtype, "r", offset, (span,))
            steps = [stride * self.dtype.itemsize for stride in strides]
            array = np.array(as_strided(flat, shape, steps))
        return (array.astype(np.uint32) << 16).view(np.float32) if self.bfloat16 else array


def read_layout(
    stream: IO[bytes], num_bytes: int, path: Path = Path(), kinds: str = "iuf"
) -> StoredArray:
    """Read how an array lies in a file; the stream ends at the first number.

    `num_bytes` are there from the stream's place on, and have to be as many as the header claims;
    the array's offset counts from there. Damaged headers, pickled objects and anything but numbers,
    or other `kinds` of dtype, are refused.
    """
    start = stream.tell()
    with refusing("the array's header is cut off or damaged", *_BAD_HEADER):
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(
                f"the array has .npy version {version}, which only structured data needs; save one "
                "plain array of numbers"
            )
        shape, by_column, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError(
            "the array is a pickle of Python objects, which could run any code when read, and is "
            "refused; save plain numbers"
        )
    if dtype.kind not in kinds:
        use = "an integer or floating dtype" if kinds == "iuf" else "names, as np.array(['decode'])"
        raise ValueError(f"the array has dtype {dtype}; save {use}")
    offset = stream.tell() - start
    there, needed = num_bytes - offset, math.prod(shape) * dtype.itemsize
    if there != needed:
        what = "cut off" if there < needed else "followed by something else"
        raise ValueError(
            f"the array is {what}: shape {shape} of {dtype} takes {needed} bytes, and {there} are "
            "there"
        )
    strides = row_strides(shape[::-1])[::-1] if by_column else row_strides(shape)
    return StoredArray(path, dtype, shape, strides, offset)


def read_array(stream: IO[bytes], num_bytes: int, kinds: str = "iuf") -> NDArray[Any]:
    """Read one array of plain numbers, as `read_layout`; refused too if it is too large."""
    layout = read_layout(stream, num_bytes, kinds=kinds)
    shape = layout.shape
    check_array(shape, layout.dtype.itemsize)
    content = stream.read(num_bytes - layout.offset)
    if len(content) < num_bytes - layout.offset:
        raise ValueError("the file ends inside an array")
    array: NDArray[Any] = np.frombuffer(content, layout.dtype)
    return array.reshape(shape) if layout.by_row else array.reshape(shape[::-1]).T


# ---- written -------------------------------------------------------------------------------------


def checked_windows(trace: Trace) -> Iterator[NDArray[Any]]:
    """Yield each window as it was recorded, in order, its numbers checked; gaps are kept."""
    for t in range(len(trace)):
        window = trace.read(t)
        check_weights(f"window {t}: load", window)
        yield window


def left_out(trace: Trace, ending: str) -> tuple[str, ...]:
    """Return notes that the model's layer numbers and the phases are not kept, if known."""
    lost = f"left out, since a {ending} file has no place for it: "
    notes: tuple[str, ...] = ()
    if trace.layers is not None:
        ids = trace.layers.ids
        notes += (f"{lost}the model's layer numbers ({ids[0]} to {ids[-1]})",)
    if trace.phases:
        notes += (f"{lost}what phase tokens are of; {' and '.join(trace.phases)} are summed",)
    return notes


def write_load(stream: IO[bytes], trace: Trace) -> tuple[str, ...]:
    """Write a trace window by window as one array [T, L, E], in the dtype of its first window."""
    for t, window in enumerate(checked_windows(trace)):
        if t == 0:
            dtype = window.dtype.newbyteorder("<")
            descr = np.lib.format.dtype_to_descr(dtype)
            header = {"descr": descr, "fortran_order": False, "shape": trace.shape}
            np.lib.format.write_array_header_1_0(stream, header)
        stream.write(window.astype(dtype, order="C", casting="safe", copy=False).tobytes())
    return left_out(trace, ".npy")
