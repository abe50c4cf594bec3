"""NumPy .npy files: one array of loads, [T, L, E] or [L, E]."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from evenload.io.arrays import Layout, layers_left_out, read_array, read_layout, write_windows
from evenload.io.base import FileFormatError, RawTrace
from evenload.io.files import kind_of


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load or a trace, each window from its place in the file."""
    layout = _layout(path)
    return RawTrace(layout.stored(path).over_time(), over_time=len(layout.shape) == 3)


def read_whole(path: Path) -> NDArray[Any]:
    """Read the array at once, whatever it is; the errors are those of `read_load`."""
    _layout(path)
    with path.open("rb") as stream:
        return read_array(stream, path.stat().st_size, str(path))


def _layout(path: Path) -> Layout:
    with path.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise FileFormatError(f"{path}: this is no .npy file: {kind_of(path)}")
        stream.seek(0)
        return read_layout(stream, path.stat().st_size, str(path))


def write_load(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace as one array [T, L, E], in the dtype that it was recorded in."""
    write_windows(stream, trace)
    return layers_left_out(trace, ".npy")
