"""NumPy .npz archives: ``load``, or ``topk`` with the experts that each token was routed to.

Or arrays under other keys, see `evenload.io.keyed`. ``layer_ids`` [L] and ``num_model_layers`` say
which of the model's layers the rows are.

Phases: ``prefill`` and ``decode`` in place of ``load``, each [T, L, E] of the same windows; or
beside ``load`` or ``topk`` an array ``phase`` with the name of each window's or token's phase.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.checks import whole_number
from evenload.io import npy
from evenload.io.base import (
    MOST_EXPERTS,
    checking,
    model_layers,
    refusing,
    trace_of,
    trace_shape,
)
from evenload.io.files import DAMAGED, first_twice, kind_of, some
from evenload.io.keyed import find
from evenload.io.npy import StoredArray, read_array, read_layout
from evenload.io.recorded import (
    check_routed,
    count_topk,
    experts_note,
    padding_note,
    without_padding,
)
from evenload.layers import ModelLayers
from evenload.trace import PHASES, Trace

_CUT_OFF = "the archive is cut off or damaged"
_MOST_IDS = 2**20  # bytes of an array that names layers
# A member's own header in an archive: up to the lengths of its name and of its extra field.
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def read_load(path: Path, num_experts: int | None, *, key: str | None = None) -> Trace:
    """Read ``load`` [T, L, E] or [L, E], or what is known or given; else count ``topk``."""
    with open_archive(path) as archive:
        keys = keys_of(archive)
        ids, number, experts = (
            read_member(archive, name, path, _MOST_IDS).ravel().tolist() if name in keys else None
            for name in ("layer_ids", "num_model_layers", "num_experts")
        )
        layers = None if ids is None else model_layers(ids, number[0] if number else None)
        if key is None and not {"load", "topk"} & set(keys) and {*PHASES} & set(keys):
            parts = {
                name: _stored_trace(archive, member_of(archive, name), path, layers)
                for name in PHASES
                if name in keys
            }
            over_time = any(part.over_time for part in parts.values())
            return Trace.of_phases(parts, source=str(path), layers=layers, over_time=over_time)
        if key is not None or not {"load", "topk"} & set(keys):
            return _keyed_trace(archive, path, key, layers, num_experts)
        member = member_of(archive, "load", "topk")
        if "load" in keys:
            trace = _stored_trace(archive, member, path, layers)
            return trace if "phase" not in keys else trace.with_phase(_phases(archive, path))
        if num_experts is None and experts is not None:
            if len(experts) != 1:
                raise ValueError(f"num_experts has {len(experts)} numbers; use one")
            num_experts = whole_number("num_experts", experts[0], 1, MOST_EXPERTS)
        topk = read_member(archive, "topk", path)
        counted = count_topk(topk, num_experts)
        skipped = int((topk[:, :, 0] < 0).sum())
        notes = padding_note(str(path), skipped, topk[:, :, 0].size)
        if num_experts is None:
            notes += (experts_note(path, counted.shape[1]),)
        whole = trace_of(counted, str(path), notes, layers)
        if "phase" not in keys:
            return whole
        phase = np.array(_phases(archive, path))
        if len(phase) != len(topk):
            raise ValueError(
                f"phase has {len(phase)} names, and topk {len(topk)} tokens; use one name for each"
            )
        parts = {
            name: trace_of(count_topk(topk[phase == name], counted.shape[1]), str(path))
            for name in PHASES
            if (phase == name).any()
        }
        return Trace.of(
            whole, source=str(path), notes=notes, layers=layers, over_time=False, phases=parts
        )


def _phases(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """Return the names in the array ``phase``."""
    member = member_of(archive, "phase")
    with _unpacking(archive, member, path) as stream:
        names: list[str] = read_array(stream, member.file_size, "US").astype(str).ravel().tolist()
        for i, name in enumerate(names):
            if name not in PHASES:
                raise ValueError(f"[{i}] is {name!r:.40}; use {' or '.join(PHASES)}")
        return names


class _Member(NamedTuple):
    """Stands for an array of an archive, of which only the header was read."""

    name: str
    shape: tuple[int, ...]


def _keyed_trace(
    archive: zipfile.ZipFile,
    path: Path,
    key: str | None,
    layers: ModelLayers | None,
    num_experts: int | None,
) -> Trace:
    members = dict[str, Any]()
    for name in keys_of(archive):
        if name not in ("layer_ids", "num_model_layers", "num_experts"):
            member = archive.getinfo(f"{name}.npy")
            shape: tuple[int, ...] = ()
            with suppress(ValueError), _unpacking(archive, member, path) as stream:
                shape = read_layout(stream, member.file_size).shape  # () for what is no numbers
            members[name] = _Member(name, shape)
    found = find(members, path, key, num_experts, lambda m: read_member(archive, m.name, path))
    if isinstance(found, Trace):
        return found
    if isinstance(found.value, _Member):
        return _stored_trace(archive, member_of(archive, found.value.name), path, layers)
    return trace_of(found.value, str(path), found.notes, found.layers)


def _stored_trace(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, layers: ModelLayers | None
) -> Trace:
    """Return the windows of an array of loads; they stay in the archive until they are asked for.

    A stored array is compared with its checksum and read from its place in the file; a compressed
    one is unpacked window by window, or at once if it lies column by column.
    """
    with _unpacking(archive, member, path) as stream:
        layout = read_layout(stream, member.file_size, path)
        trace_shape(layout.shape)
        stored = member.compress_type == zipfile.ZIP_STORED
        while stored and stream.read(2**20):
            pass
    if stored:
        return replace(layout, offset=start_of(path, member) + layout.offset).trace(layers)
    if not layout.by_row:
        key = member.filename.removesuffix(".npy")
        return trace_of(read_member(archive, key, path), str(path), (), layers)
    windows, over_time = StreamWindows(member.filename, layout), len(layout.shape) == 3
    return Trace.of(windows, source=str(path), layers=layers, over_time=over_time)


def read_topk(path: Path) -> NDArray[Any] | None:
    """Read ``topk`` [tokens, L, k] without padding, or return None where there is none."""
    with open_archive(path) as archive:
        if "topk" not in keys_of(archive):
            return None
        topk = read_member(archive, "topk", path)
    check_routed(topk)
    return without_padding(topk)


def write_load(stream: BinaryIO, trace: Trace) -> tuple[str, ...]:
    """Write a trace as ``load``, or by phase, and the model's layers where they are known."""
    with zipfile.ZipFile(stream, "w", allowZip64=True) as archive:
        for name, part in (trace.phases or {"load": trace}).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_load(member, part)
        if trace.layers is not None:
            write_member(archive, "layer_ids", np.array(trace.layers.ids, np.int64))
            if trace.layers.num_model_layers is not None:
                number = np.array(trace.layers.num_model_layers, np.int64)
                write_member(archive, "num_model_layers", number)
    return ()


# ---- archives ------------------------------------------------------------------------------------


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a .npz archive."""
    with path.open("rb") as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except DAMAGED:
            kind = kind_of(path)
            if kind == "it is a zip archive":
                raise ValueError(_CUT_OFF) from None
            raise ValueError(f"this is not a .npz archive: {kind}") from None
        with archive:
            if (twice := first_twice(archive.namelist())) is not None:
                raise ValueError(f"the archive has {twice} twice; leave one out")
            yield archive


def keys_of(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of an archive's arrays, in its order."""
    return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


def member_of(archive: zipfile.ZipFile, *keys: str) -> zipfile.ZipInfo:
    """Return the first of these arrays that an archive has."""
    there = keys_of(archive)
    for key in keys:
        if key in there:
            return archive.getinfo(f"{key}.npy")
    raise ValueError(
        f"no key {' or '.join(map(repr, keys))} in the archive; keys found: {some(there)}"
    )


@contextmanager
def _unpacking(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path
) -> Iterator[IO[bytes]]:
    where = f"{path}, key {member.filename.removesuffix('.npy')!r}"
    with (
        checking(where),
        refusing(_CUT_OFF, *DAMAGED),
        archive.open(member) as stream,
        checking(where),  # before zipfile's own errors, which may be of any kind
    ):
        yield stream


def read_member(
    archive: zipfile.ZipFile, key: str, path: Path, most: int | None = None
) -> NDArray[Any]:
    """Read one array of plain numbers, of `most` bytes at most."""
    member = member_of(archive, key)
    with _unpacking(archive, member, path) as stream:
        if most is not None and member.file_size > most:
            raise ValueError(
                f"the array has {member.file_size} bytes, more than the {most} that are read"
            )
        array = read_array(stream, member.file_size)
        stream.read(1)  # only at the very end does zipfile compare the checksum
        return array


def start_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: behind a header of its own."""
    with path.open("rb") as stream:
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise ValueError(_CUT_OFF)
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return member.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


def write_member(archive: zipfile.ZipFile, key: str, array: NDArray[Any]) -> None:
    """Write one small array of an archive; its bytes do not depend on the time."""
    with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)


class StreamWindows:
    """Windows of a compressed member, unpacked as they are read; reading backwards starts anew."""

    def __init__(self, member: str, layout: StoredArray) -> None:
        self._path, self._member, self._layout = layout.path, member, layout
        self.shape = trace_shape(layout.shape)
        self._num_bytes = math.prod(self.shape[1:]) * layout.dtype.itemsize
        self._stream: IO[bytes] | None = None
        self._next = 0

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        with checking(str(self._path)), refusing(f"{_CUT_OFF} at window {number}", *DAMAGED):
            stream, self._stream = self._stream, None  # let go, should anything be wrong with it
            if stream is None or number < self._next:
                with zipfile.ZipFile(self._path) as archive:
                    stream = archive.open(self._member)  # outlives the archive
                stream.read(self._layout.offset)
                self._next = 0
            for _ in range(number - self._next):
                stream.read(self._num_bytes)
            packed = stream.read(self._num_bytes)
            window = np.frombuffer(packed, self._layout.dtype).reshape(self.shape[1:])
            if number + 1 < self.shape[0]:
                self._stream, self._next = stream, number + 1
            else:
                with stream:
                    stream.read(1)  # only at the very end does zipfile compare the checksum
            return window

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stream": None, "_next": 0}
