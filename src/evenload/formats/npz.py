"""NumPy .npz archives: ``load``, or ``topk`` with the experts that each token was routed to.

``layer_ids`` [L] and ``num_model_layers`` say which of the model's layers the rows are.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.checks import positive_int
from evenload.formats.archive import keys_of, open_archive, read_member
from evenload.formats.array_stream import read_layout
from evenload.formats.base import FileFormatError, Format, RawLoad, RawTrace
from evenload.formats.damage import DAMAGED
from evenload.formats.sizes import model_layers
from evenload.formats.topk import check_routed, count_topk
from evenload.formats.windows import FileWindows, StreamWindows, trace_shape
from evenload.formats.write_arrays import write_npz
from evenload.layers import ModelLayers
from evenload.trace import ArrayWindows

# A member's own header in the file: up to the lengths of its name and of its extra field.
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_MOST_IDS = 2**20  # bytes of an array that names layers


def _num_experts(archive: zipfile.ZipFile, keys: set[str], path: Path) -> int | None:
    if "num_experts" not in keys:
        return None
    array = read_member(archive, "num_experts", path)
    if array.size != 1:
        raise FileFormatError(f"{path}: num_experts has shape {array.shape}; use one number")
    return positive_int(f"{path}: num_experts", array.reshape(-1)[0].item())


def _layers(archive: zipfile.ZipFile, keys: list[str], path: Path) -> ModelLayers | None:
    if "layer_ids" not in keys:
        return None
    ids = read_member(archive, "layer_ids", path, _MOST_IDS).ravel().tolist()
    number = None
    if "num_model_layers" in keys:
        number = read_member(archive, "num_model_layers", path, _MOST_IDS).ravel().tolist()
    return model_layers(ids, number[0] if number else None, str(path))


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
    with open_archive(path) as archive:
        names = keys_of(archive)
        layers = _layers(archive, names, path)
        if "load" in names:
            return RawLoad(read_member(archive, "load", path), layers=layers)
        if "topk" in names:
            experts = num_experts or _num_experts(archive, set(names), path)
            counted = count_topk(read_member(archive, "topk", path), experts, str(path))
            return replace(counted, layers=layers)
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
    with open_archive(path) as archive:
        names = archive.namelist()
        if "load.npy" not in names:
            return RawTrace.of(read_load(path, num_experts))
        member = archive.getinfo("load.npy")
        layers = _layers(archive, keys_of(archive), path)
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
            array = read_member(archive, "load", path).reshape(shape)
            return RawTrace(ArrayWindows(array), layers=layers)
        if member.compress_type != zipfile.ZIP_STORED:
            return RawTrace(StreamWindows(path, member.filename, layout), layers=layers)
        return RawTrace(FileWindows(path, layout, _start_of(path, member)), layers=layers)


def _start_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: behind a header of its own."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return member.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


def read_topk(path: Path) -> NDArray[Any] | None:
    """Read ``topk`` [tokens, L, k], or return None where the archive has none.

    Raises
    ------
    FileFormatError
        If the file is no such archive, is damaged, or its ``topk`` has another shape or dtype.
    """
    with open_archive(path) as archive:
        if "topk.npy" not in archive.namelist():
            return None
        topk = read_member(archive, "topk", path)
    check_routed(topk, str(path))
    return topk


FORMAT = Format(
    name="npz",
    suffixes=(".npz",),
    summary="`load` [windows, layers, experts] or [layers, experts], or `topk` [tokens, layers, k]",
    read_load=read_load,
    read_trace=read_trace,
    read_topk=read_topk,
    write_load=write_npz,
    written_to=(".npz",),
)
