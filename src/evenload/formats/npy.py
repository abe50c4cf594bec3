"""NumPy .npy files: one array of loads."""

from __future__ import annotations

from pathlib import Path

from evenload.formats.array_stream import read_array
from evenload.formats.base import FileFormatError, Format, RawLoad
from evenload.formats.magic import kind_of


def read_load(path: Path, num_experts: int | None) -> RawLoad:
    """Read a load ``[L, E]`` or a trace ``[T, L, E]``.

    Raises
    ------
    FileFormatError
        If the file is no .npy file, is damaged, or holds anything but plain numbers.
    """
    with path.open("rb") as stream:
        if not stream.read(6).startswith(b"\x93NUMPY"):
            raise FileFormatError(f"{path}: this is no .npy file: {kind_of(path)}")
        stream.seek(0)
        return RawLoad(read_array(stream, path.stat().st_size, str(path)))


FORMAT = Format(
    name="npy",
    suffixes=(".npy",),
    summary="one array: a load [layers, experts] or a trace [windows, layers, experts]",
    read_load=read_load,
)
