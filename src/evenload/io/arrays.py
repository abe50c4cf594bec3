"""Arrays in files: NumPy's .npy layout and .npz archives, read window by window.

Headers are checked before any memory is taken. Windows are read from their place in the file, not
through a memory map: what was looked at through a map counts as memory of the process, and a file
that is cut off meanwhile would end the process.
"""

from __future__ import annotations

import itertools
import math
import struct
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import mul
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from evenload.arrays import check_weights
from evenload.io.base import FileFormatError, RawTrace, check_elements, refusing, trace_shape
from evenload.io.files import DAMAGED, kind_of
from evenload.layers import ModelLayers
from evenload.trace import Windows

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# NumPy reads the header's text as Python, so that damage shows as any of these.
_BAD_HEADER = (ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError)
# A member's own header in an archive: up to the lengths of its name and of its extra field.
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@lru_cache(64)
def row_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many elements apart neighbours on each axis are, where the last runs fastest."""
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

    def trace(self, layers: ModelLayers | None = None) -> RawTrace:
        """Return it as windows [T, L, E]; [L, E] and [E] are one window."""
        shape = trace_shape(self.shape, str(self.path))
        strides = (0,) * (3 - len(self.shape)) + self.strides
        windows = cast("Windows", replace(self, shape=shape, strides=strides))
        return RawTrace(windows, (), layers, len(self.shape) == 3)

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


class StreamWindows:
    """Windows of a compressed member of an archive, unpacked as they are read.

    Reading forwards unpacks each byte once; reading backwards starts anew.
    """

    def __init__(self, member: str, layout: StoredArray) -> None:
        assert layout.by_row
        self._path, self._member, self._layout = layout.path, member, layout
        self.shape = trace_shape(layout.shape, str(layout.path))
        self._num_bytes = math.prod(self.shape[1:]) * layout.dtype.itemsize
        self._open: tuple[zipfile.ZipFile, IO[bytes]] | None = None
        self._next = 0

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        damaged = f"{self._path}: the archive is cut off or damaged at window {number}"
        try:
            with refusing(damaged, *DAMAGED):
                stream = self._stream_at(number)
                packed = stream.read(self._num_bytes)
                self._next = number + 1
                if self._next == self.shape[0]:
                    stream.read(1)  # only at the very end does zipfile compare the checksum
                    self.close()
                return np.frombuffer(packed, self._layout.dtype).reshape(self.shape[1:])
        except FileFormatError:
            self.close()
            raise

    def _stream_at(self, number: int) -> IO[bytes]:
        if self._open is None or number < self._next:
            self.close()
            archive = zipfile.ZipFile(self._path)
            stream = archive.open(self._member)
            self._open, self._next = (archive, stream), 0
            stream.read(self._layout.offset)
        stream = self._open[1]
        for _ in range(number - self._next):
            stream.read(self._num_bytes)
        return stream

    def close(self) -> None:
        """Let go of the file; the next window opens it anew."""
        if self._open is not None:
            archive, stream = self._open
            stream.close()
            archive.close()
        self._open, self._next = None, 0

    def __del__(self) -> None:
        if getattr(self, "_open", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None, "_next": 0}


# ---- the .npy layout ---------------------------------------------------------------------------


def read_layout(
    stream: BinaryIO | IO[bytes], num_bytes: int, where: str, path: Path = Path()
) -> StoredArray:
    """Read how an array lies in a file; the stream ends at the first number.

    `num_bytes` are there from the stream's place on, and have to be as many as the header claims;
    the array's offset counts from there. Damaged headers, pickled objects and anything but numbers
    are refused.
    """
    start = stream.tell()
    with refusing(f"{where}: the array's header is cut off or damaged", *_BAD_HEADER):
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise FileFormatError(
                f"{where}: the array has .npy version {version}, which only structured data needs; "
                "save one plain array of numbers"
            )
        shape, by_column, dtype = _HEADERS[version](stream)
    _check_dtype(dtype, where)
    offset = stream.tell() - start
    there, needed = num_bytes - offset, math.prod(shape) * dtype.itemsize
    if there != needed:
        what = "cut off" if there < needed else "followed by something else"
        raise FileFormatError(
            f"{where}: the array is {what}: shape {shape} of {dtype} takes {needed} bytes, and "
            f"{there} are there"
        )
    strides = row_strides(shape[::-1])[::-1] if by_column else row_strides(shape)
    return StoredArray(path, dtype, shape, strides, offset)


def _check_dtype(dtype: np.dtype[Any], where: str) -> None:
    if dtype.hasobject:
        raise FileFormatError(
            f"{where}: the array is a pickle of Python objects, which could run any code when "
            "read, and is refused; save plain numbers"
        )
    if dtype.kind not in "iuf":
        raise FileFormatError(
            f"{where}: the array has dtype {dtype}; save an integer or floating dtype"
        )


def read_array(stream: BinaryIO | IO[bytes], num_bytes: int, where: str) -> NDArray[Any]:
    """Read one array of plain numbers, as `read_layout`; refused too if it is too large."""
    layout = read_layout(stream, num_bytes, where)
    check_elements(layout.shape, where)
    content = stream.read(num_bytes - layout.offset)
    if len(content) < num_bytes - layout.offset:
        raise FileFormatError(f"{where}: the file ends inside an array")
    array: NDArray[Any] = np.frombuffer(content, layout.dtype)
    shape = layout.shape
    return array.reshape(shape) if layout.by_row else array.reshape(shape[::-1]).T


# ---- .npz archives -----------------------------------------------------------------------------


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a .npz archive."""
    with path.open("rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except DAMAGED:
            kind = kind_of(path)
            if kind == "it is a zip archive":
                raise FileFormatError(f"{path}: the archive is cut off or damaged") from None
            raise FileFormatError(f"{path}: this is no .npz archive: {kind}") from None
        with archive:
            yield archive


def keys_of(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of an archive's arrays, in its order."""
    return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


@contextmanager
def _open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Iterator[Any]:
    damaged = f"{where}: the archive is cut off or damaged"
    with refusing(damaged, *DAMAGED), archive.open(member) as stream:
        yield stream


def read_member(
    archive: zipfile.ZipFile, key: str, path: Path, most: int | None = None
) -> NDArray[Any]:
    """Read one array of plain numbers, of `most` bytes at most."""
    member = archive.getinfo(f"{key}.npy")
    where = f"{path}, key {key!r}"
    if most is not None and member.file_size > most:
        raise FileFormatError(
            f"{where}: the array has {member.file_size} bytes, more than the {most} that are read"
        )
    with _open_member(archive, member, where) as stream:
        array = read_array(stream, member.file_size, where)
        stream.read(1)  # only at the very end does zipfile compare the checksum
        return array


def member_trace(
    archive: zipfile.ZipFile, key: str, path: Path, layers: ModelLayers | None
) -> RawTrace:
    """Return the windows of an array of loads; they stay in the archive until they are asked for.

    Stored ones are compared with their checksum here, compressed ones as they are unpacked; only
    what lies column by column and compressed is read at once.
    """
    member = archive.getinfo(f"{key}.npy")
    where = f"{path}, key {key!r}"
    with _open_member(archive, member, where) as stream:
        layout = read_layout(stream, member.file_size, where, path)
        trace_shape(layout.shape, where)
        stored = member.compress_type == zipfile.ZIP_STORED
        while stored and stream.read(2**20):
            pass
    if stored:
        offset = start_of(path, member) + layout.offset
        return replace(layout, offset=offset).trace(layers)
    if layout.by_row:
        windows = StreamWindows(member.filename, layout)
        return RawTrace(windows, (), layers, len(layout.shape) == 3)
    return RawTrace.of(read_member(archive, key, path), where, (), layers)


def start_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: behind a header of its own."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise FileFormatError(f"{path}: the archive is cut off or damaged")
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return member.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


# ---- written -----------------------------------------------------------------------------------


def checked_windows(trace: RawTrace) -> Iterator[NDArray[Any]]:
    """Yield each window as it was recorded, in order, its numbers checked; gaps are kept."""
    for t in range(trace.windows.shape[0]):
        window = trace.windows.read(t)
        check_weights(f"window {t}: load", window)
        yield window


def layers_left_out(trace: RawTrace, what: str) -> tuple[str, ...]:
    """Return a note that the model's layer numbers are not kept, where they are known."""
    if trace.layers is None:
        return ()
    ids = trace.layers.ids
    return (
        f"left out, since a {what} file has no place for it: the model's layer numbers "
        f"({ids[0]} to {ids[-1]})",
    )


def write_windows(stream: IO[bytes], trace: RawTrace) -> None:
    """Write the windows one by one as one array [T, L, E], in the dtype that they have."""
    dtype = None
    for window in checked_windows(trace):
        if dtype is None:
            dtype = window.dtype.newbyteorder("<")
            descr = np.lib.format.dtype_to_descr(dtype)
            header = {"descr": descr, "fortran_order": False, "shape": trace.windows.shape}
            np.lib.format.write_array_header_1_0(stream, header)
        stream.write(window.astype(dtype, order="C", casting="safe", copy=False).tobytes())


def write_member(archive: zipfile.ZipFile, key: str, array: NDArray[Any]) -> None:
    """Write one small array of an archive; its bytes do not depend on the time."""
    with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)
