"""Files of which nobody has said whether they hold loads or a placement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evenload.formats.base import (
    ClusterMissingError,
    FileFormatError,
    Format,
    PlacementFile,
    PlacementShape,
    RawTrace,
)
from evenload.formats.load import check_experts
from evenload.formats.registry import find_input, known_formats
from evenload.formats.windows import trace_shape

LOADS = "read_load"
PLACEMENT = "read_placement"


@dataclass(frozen=True)
class Found:
    """What a file turned out to hold: loads or a placement, one of them None.

    Parameters
    ----------
    format : Format
        That read it.
    loads : RawTrace or None
        Windows as they were recorded, not checked; read when they are asked for.
    placement : PlacementFile or None
    """

    format: Format
    loads: RawTrace | None = None
    placement: PlacementFile | None = None


def read_windows(reader: Format, path: Path, num_experts: int | None) -> RawTrace:
    """Open loads as they were recorded, window by window where the format can.

    Raises
    ------
    FileFormatError
        If the file cannot be read, or has another number of experts.
    """
    if reader.read_trace is not None:
        raw = reader.read_trace(path, num_experts)
    else:
        assert reader.read_load is not None
        whole = reader.read_load(path, num_experts)
        trace_shape(whole.array.shape, str(path))
        raw = RawTrace.of(whole)
    check_experts(raw.windows.shape[-1], num_experts, str(path))
    return raw


def _read_placement(reader: Format, path: Path, shape: PlacementShape) -> PlacementFile:
    assert reader.read_placement is not None
    return reader.read_placement(path, shape)


def _candidates(path: Path, name: str | None, prefer: str | None) -> list[tuple[str, Format]]:
    """Return what the file may be, most likely first: told by content, preferred, loads."""
    found, errors = [], []
    for ability in (LOADS, PLACEMENT):
        try:
            reader = find_input(path, ability, name)
        except FileFormatError as error:
            errors.append(error)
            continue
        sure = name is None and reader.recognises is not None and reader.recognises(path)
        found.append((ability, reader, sure))
    if not found:
        if name is None:
            raise errors[-1]
        readable = [f.name for f in known_formats() if f.read_load or f.read_trace]
        readable += [f.name for f in known_formats() if f.read_placement]
        raise FileFormatError(
            f"format={name!r} is not known; use one of {', '.join(dict.fromkeys(readable))}"
        )
    found.sort(key=lambda f: (not f[2], f[0] != prefer))
    return [(ability, reader) for ability, reader, _ in found]


def read_anything(
    path: Path, shape: PlacementShape, *, format: str | None = None, prefer: str | None = None
) -> Found:
    """Read a file of loads or of a placement.

    Parameters
    ----------
    path : Path
    shape : PlacementShape
        What the caller says of a placement; `num_experts` of loads too.
    format : str, optional
        Name of the file's format. Default: told by what is in the file, then by its ending.
    prefer : {"read_load", "read_placement"}, optional
        Which of them, where a file may be either.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If it is neither; the message is that of the likelier one.
    """
    first: FileFormatError | None = None
    for ability, reader in _candidates(path, format, prefer):
        try:
            if ability == LOADS:
                return Found(reader, loads=read_windows(reader, path, shape.num_experts))
            return Found(reader, placement=_read_placement(reader, path, shape))
        except ClusterMissingError:
            raise
        except FileFormatError as error:
            first = first or error
    assert first is not None
    raise first
