"""NumPy .npz archives: ``load``, or ``topk`` with the experts that each token was routed to."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.checks import positive_int
from evenload.formats.array_stream import read_array
from evenload.formats.base import FileFormatError, Format, RawLoad
from evenload.formats.magic import kind_of
from evenload.formats.topk import check_routed, count_topk

# What zipfile and zlib raise on damaged bytes; OSError is a seek to before the file's start.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except _DAMAGED:
            kind = kind_of(path)
            if kind == "it is a zip archive":
                raise FileFormatError(f"{path}: the archive is cut off or damaged") from None
            raise FileFormatError(f"{path}: this is no .npz archive: {kind}") from None
        with archive:
            yield archive


def _array(archive: zipfile.ZipFile, key: str, path: Path) -> NDArray[Any]:
    member = archive.getinfo(f"{key}.npy")
    where = f"{path}, key {key!r}"
    try:
        with archive.open(member) as stream:
            return read_array(stream, member.file_size, where)  # type: ignore[arg-type]
    except FileFormatError:
        raise
    except _DAMAGED as error:
        raise FileFormatError(f"{where}: the archive is cut off or damaged ({error})") from None


def _num_experts(archive: zipfile.ZipFile, keys: set[str], path: Path) -> int | None:
    if "num_experts" not in keys:
        return None
    array = _array(archive, "num_experts", path)
    if array.size != 1:
        raise FileFormatError(f"{path}: num_experts has shape {array.shape}; use one number")
    return positive_int(f"{path}: num_experts", array.reshape(-1)[0].item())


def read_load(path: Path, num_experts: int | None) -> RawLoad:
    """Read ``load`` [T, L, E] or [L, E]; where there is none, count ``topk`` [tokens, L, k].

    Parameters
    ----------
    path : Path
    num_experts : int or None
        Experts E of the model, for counting `topk`. None takes the archive's ``num_experts``, or
        else the largest number in `topk` + 1, with a note.

    Raises
    ------
    FileFormatError
        If the file is no such archive, is damaged, has neither key, or its array holds pickled
        objects or anything else but numbers.
    """
    with _open(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if "load" in names:
            return RawLoad(_array(archive, "load", path))
        if "topk" in names:
            experts = num_experts or _num_experts(archive, set(names), path)
            return count_topk(_array(archive, "topk", path), experts, str(path))
    found = ", ".join(names) or "none"
    raise FileFormatError(f"{path}: no key 'load' or 'topk' in the archive; keys found: {found}")


def read_topk(path: Path) -> NDArray[Any] | None:
    """Read ``topk`` [tokens, L, k], or return None where the archive has none.

    Raises
    ------
    FileFormatError
        If the file is no such archive, is damaged, or its ``topk`` has another shape or dtype.
    """
    with _open(path) as archive:
        if "topk.npy" not in archive.namelist():
            return None
        topk = _array(archive, "topk", path)
    check_routed(topk, str(path))
    return topk


FORMAT = Format(
    name="npz",
    suffixes=(".npz",),
    summary="`load` [windows, layers, experts] or [layers, experts], or `topk` [tokens, layers, k]",
    read_load=read_load,
    read_topk=read_topk,
)
