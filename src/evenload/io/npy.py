"""NumPy .npy files: one array of loads, [T, L, E] or [L, E]."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from evenload.io.arrays import (
    StoredArray,
    layers_left_out,
    read_layout,
    write_windows,
)
from evenload.io.base import FileFormatError, RawTrace
from evenload.io.files import kind_of


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load or a trace, each window from its place in the file."""
    return stored_array(path).trace()


def stored_array(path: Path) -> StoredArray:
    """Return where the numbers of the array are, whatever it is."""
    with path.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise FileFormatError(f"{path}: this is no .npy file: {kind_of(path)}")
        stream.seek(0)
        return read_layout(stream, path.stat().st_size, str(path), path)


def write_load(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace as one array [T, L, E], in the dtype that it was recorded in."""
    write_windows(stream, trace)
    return layers_left_out(trace, ".npy")
