"""NumPy .npz archives: ``load``, or ``topk`` with the experts that each token was routed to."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.checks import positive_int
from evenload.formats.array_stream import read_array, read_layout
from evenload.formats.base import FileFormatError, Format, RawLoad, RawTrace
from evenload.formats.damage import DAMAGED
from evenload.formats.magic import kind_of
from evenload.formats.topk import check_routed, count_topk
from evenload.formats.windows import FileWindows, StreamWindows, trace_shape
from evenload.trace import ArrayWindows

# A member's own header in the file: up to the lengths of its name and of its extra field.
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
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


def _array(archive: zipfile.ZipFile, key: str, path: Path) -> NDArray[Any]:
    member = archive.getinfo(f"{key}.npy")
    where = f"{path}, key {key!r}"
    try:
        with archive.open(member) as stream:
            return read_array(stream, member.file_size, where)  # type: ignore[arg-type]
    except FileFormatError:
        raise
    except DAMAGED as error:
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


def read_trace(path: Path, num_experts: int | None) -> RawTrace:
    """Read ``load`` window by window; a count of ``topk`` is a trace of one window.

    A member that is stored as it is is read from its place in the file, a compressed one is
    unpacked as it is read; only one that lies column by column is read at once.

    Raises
    ------
    FileFormatError
        As `read_load`.
    """
    with _open(path) as archive:
        names = archive.namelist()
        if "load.npy" not in names:
            return RawTrace.of(read_load(path, num_experts))
        member = archive.getinfo("load.npy")
        where = f"{path}, key 'load'"
        try:
            with archive.open(member) as stream:
                layout = read_layout(stream, member.file_size, where)  # type: ignore[arg-type]
        except FileFormatError:
            raise
        except DAMAGED as error:
            raise FileFormatError(f"{where}: the archive is cut off or damaged ({error})") from None
        if layout.by_column:
            shape = trace_shape(layout.shape, where)
            return RawTrace(ArrayWindows(_array(archive, "load", path).reshape(shape)))
        if member.compress_type != zipfile.ZIP_STORED:
            return RawTrace(StreamWindows(path, member.filename, layout))
        return RawTrace(FileWindows(path, layout, _start_of(path, member)))


def _start_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: behind a header of its own."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return member.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


def keys_in(path: Path) -> list[str]:
    """Return the names of an archive's arrays, in its order.

    Raises
    ------
    FileFormatError
        If the file is no such archive, or damaged.
    """
    with _open(path) as archive:
        return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


def read_key(path: Path, key: str, most: int) -> NDArray[Any]:
    """Read one array of an archive, whatever its name, of `most` bytes at most.

    Raises
    ------
    FileFormatError
        If the archive is damaged, or the array larger or no plain numbers.
    """
    with _open(path) as archive:
        size = archive.getinfo(f"{key}.npy").file_size
        if size > most:
            raise FileFormatError(
                f"{path}, key {key!r}: the array has {size} bytes, more than the {most} that are "
                "read at once"
            )
        return _array(archive, key, path)


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
    read_trace=read_trace,
    read_topk=read_topk,
)
