"""Arrays in .npz archives."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.formats.array_stream import read_array
from evenload.formats.base import FileFormatError
from evenload.formats.damage import DAMAGED
from evenload.formats.magic import kind_of


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a .npz archive.

    Raises
    ------
    FileFormatError
        If the file is something else, or damaged.
    """
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


def read_member(
    archive: zipfile.ZipFile, key: str, path: Path, most: int | None = None
) -> NDArray[Any]:
    """Read one array of plain numbers.

    Parameters
    ----------
    archive : ZipFile
    key : str
        Its name, without the ending .npy.
    path : Path
        The archive's, for messages.
    most : int, optional
        Bytes that it may have.

    Raises
    ------
    FileFormatError
        If it is damaged, too large, or no array of plain numbers.
    """
    member = archive.getinfo(f"{key}.npy")
    where = f"{path}, key {key!r}"
    if most is not None and member.file_size > most:
        raise FileFormatError(
            f"{where}: the array has {member.file_size} bytes, more than the {most} that are read"
        )
    try:
        with archive.open(member) as stream:
            return read_array(stream, member.file_size, where)  # type: ignore[arg-type]
    except FileFormatError:
        raise
    except DAMAGED as error:
        raise FileFormatError(f"{where}: the archive is cut off or damaged ({error})") from None


def keys_of(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of an archive's arrays."""
    return [name.removesuffix(".npy") for name in archive.namelist()]


def keys_in(path: Path) -> list[str]:
    """Return the names of the arrays in a file, in its order.

    Raises
    ------
    FileFormatError
        If the file is no such archive, or damaged.
    """
    with open_archive(path) as archive:
        return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


def read_key(path: Path, key: str, most: int) -> NDArray[Any]:
    """Read one array of a file, whatever its name, of `most` bytes at most.

    Raises
    ------
    FileFormatError
        If the archive is damaged, or the array larger or no plain numbers.
    """
    with open_archive(path) as archive:
        return read_member(archive, key, path, most)
