"""NumPy .npy files: one array of loads."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from evenload.formats.array_stream import read_array, read_layout
from evenload.formats.base import FileFormatError, Format, RawLoad, RawTrace
from evenload.formats.magic import kind_of
from evenload.formats.windows import FileWindows, trace_shape
from evenload.formats.write_arrays import write_npy
from evenload.trace import ArrayWindows


def read_load(path: Path, num_experts: int | None) -> RawLoad:
    """Read a load ``[L, E]`` or a trace ``[T, L, E]``.

    Raises
    ------
    FileFormatError
        If the file is no .npy file, is damaged, or holds anything but plain numbers.
    """
    with path.open("rb") as stream:
        _check_kind(stream, path)
        return RawLoad(read_array(stream, path.stat().st_size, str(path)))


def read_trace(path: Path, num_experts: int | None) -> RawTrace:
    """Read a trace window by window, each from its place in the file.

    Raises
    ------
    FileFormatError
        As `read_load`.
    """
    with path.open("rb") as stream:
        _check_kind(stream, path)
        layout = read_layout(stream, path.stat().st_size, str(path))
    if layout.by_column:
        mapped = np.memmap(path, layout.dtype, "r", layout.offset, layout.shape, "F")
        return RawTrace(ArrayWindows(mapped.reshape(trace_shape(layout.shape, str(path)))))
    return RawTrace(FileWindows(path, layout))


def _check_kind(stream: BinaryIO, path: Path) -> None:
    if not stream.read(6).startswith(b"\x93NUMPY"):
        raise FileFormatError(f"{path}: this is no .npy file: {kind_of(path)}")
    stream.seek(0)


FORMAT = Format(
    name="npy",
    suffixes=(".npy",),
    summary="one array: a load [layers, experts] or a trace [windows, layers, experts]",
    read_load=read_load,
    read_trace=read_trace,
    write_load=write_npy,
    written_to=(".npy",),
)
