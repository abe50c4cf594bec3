"""Windows of a trace, read from a file one at a time: memory does not grow with the trace."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from evenload.formats.array_stream import Layout
from evenload.formats.base import FileFormatError
from evenload.formats.damage import DAMAGED


def trace_shape(shape: tuple[int, ...], source: str) -> tuple[int, int, int]:
    """Return (windows, layers, experts) of an array of loads; [L, E] and [E] are one window.

    Raises
    ------
    FileFormatError
        For another number of dimensions, or nothing in one of them.
    """
    if len(shape) not in (1, 2, 3):
        raise FileFormatError(
            f"{source}: the load has {len(shape)} dimensions {shape}; use "
            "[layers, experts] or [windows, layers, experts]"
        )
    for word, length in zip(("windows", "layers", "experts")[-len(shape) :], shape, strict=True):
        if length == 0:
            raise FileFormatError(f"{source}: the load has 0 {word} {shape}; use at least 1")
    T, L, E = (1,) * (3 - len(shape)) + shape
    return T, L, E


class FileWindows:
    """Windows that lie one after the other in a file, each read from its place.

    Nothing is kept open or in memory. (A memory map would count every window that was looked at as
    memory of the process.)

    Parameters
    ----------
    path : Path
    layout : Layout
        Row by row.
    start : int
        Bytes from the start of the file to that of the .npy layout.
    """

    def __init__(self, path: Path, layout: Layout, start: int = 0) -> None:
        assert not layout.by_column
        self._path, self._dtype = path, layout.dtype
        self._first = start + layout.offset
        self.shape = trace_shape(layout.shape, str(path))

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        _, L, E = self.shape
        with self._path.open("rb") as stream:
            stream.seek(self._first + number * L * E * self._dtype.itemsize)
            window = np.fromfile(stream, self._dtype, L * E)
        if window.size < L * E:
            raise FileFormatError(f"{self._path}: the file ends inside window {number}")
        return window.reshape(L, E)


class StreamWindows:
    """Windows of a compressed member of an archive, unpacked as they are read.

    Reading forwards unpacks each byte once; reading backwards starts anew.

    Parameters
    ----------
    path : Path
    member : str
        Name in the archive.
    layout : Layout
        Row by row.
    """

    def __init__(self, path: Path, member: str, layout: Layout) -> None:
        assert not layout.by_column
        self._path, self._member, self._layout = path, member, layout
        self.shape = trace_shape(layout.shape, str(path))
        self._open: tuple[zipfile.ZipFile, IO[bytes]] | None = None
        self._next = 0

    @property
    def _num_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self._layout.dtype.itemsize

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        try:
            stream = self._stream_at(number)
            packed = stream.read(self._num_bytes)
            self._next = number + 1
            if self._next == self.shape[0]:
                stream.read(1)  # only at the very end does zipfile compare the checksum
                self.close()
        except DAMAGED as error:
            self.close()
            raise FileFormatError(
                f"{self._path}: the archive is cut off or damaged at window {number} ({error})"
            ) from None
        _, L, E = self.shape
        return np.frombuffer(packed, self._layout.dtype, L * E).reshape(L, E)

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
