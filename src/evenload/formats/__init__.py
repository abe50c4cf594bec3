"""Files with loads and placements. One file a format; each that has a ``FORMAT`` is known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.arrays import check_load
from evenload.checks import positive_int
from evenload.formats.anything import Found, read_anything, read_windows
from evenload.formats.base import (
    ClusterMissingError,
    FileFormatError,
    Format,
    LoadFile,
    PlacementFile,
    PlacementShape,
    RawTrace,
)
from evenload.formats.digest import load_digest
from evenload.formats.load import check_experts, finish_load, finish_trace
from evenload.formats.registry import find_input, find_output, known_formats
from evenload.formats.rows import for_layers
from evenload.formats.write import atomic_write
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.trace import Trace

__all__ = [
    "ClusterMissingError",
    "FileFormatError",
    "Format",
    "Found",
    "LoadFile",
    "PlacementFile",
    "PlacementShape",
    "RawTrace",
    "atomic_write",
    "check_placement_path",
    "for_layers",
    "known_formats",
    "load_digest",
    "placement_shape",
    "read_anything",
    "read_load",
    "read_placement",
    "read_placement_file",
    "read_topk",
    "read_trace",
    "write_load",
    "write_placement",
    "write_placement_file",
]

AnyPath = str | os.PathLike[str]


def read_load(
    path: AnyPath,
    window: int | None = None,
    *,
    num_experts: int | None = None,
    format: str | None = None,
) -> LoadFile:
    """Read a load or a trace.

    Parameters
    ----------
    path : path-like
        A file, a folder or a pattern as ``dump/*.pt``; see `known_formats` for what each may hold.
    window : int, optional
        The window of a trace to take, from 0, or from the end where negative. Without it a trace is
        summed over its windows.
    num_experts : int, optional
        Experts E of the model, for a file of routed experts that does not say it. Where the file
        does say it the two must agree.
    format : str, optional
        Name of the file's format, see `known_formats`. Default: told by the file's ending and what
        is in it.

    Returns
    -------
    LoadFile
        Its `load` is float64 [L, E], finite and >= 0.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty, damaged, of the wrong kind or holds no load; or there is no
        such format.
    ValueError
        If the window is not in the file, the numbers are no load, or `num_experts` is below 1.
    """
    place = Path(path)
    if num_experts is not None:
        num_experts = positive_int("num_experts", num_experts)
    reader = find_input(place, "read_load", format)
    if reader.read_load is None:
        assert reader.read_trace is not None
        windows = reader.read_trace(place, num_experts)
        check_experts(windows.windows.shape[-1], num_experts, str(place))
        return finish_trace(windows, str(place), reader.name, window)
    raw = reader.read_load(place, num_experts)
    return finish_load(raw, str(place), reader.name, window, num_experts)


def read_trace(
    path: AnyPath, *, num_experts: int | None = None, format: str | None = None
) -> Trace:
    """Read loads over time.

    Parameters
    ----------
    path : path-like
        As `read_load`. A file without windows is a trace of one. Windows are read when they are
        asked for, so that memory does not grow with the file, except those of .csv and .json files,
        of arrays that lie column by column in a .npz, and of a .parquet that is not sorted by
        window, which are read at once.
    num_experts : int, optional
    format : str, optional
        As `read_load`.

    Returns
    -------
    Trace
        Its numbers are checked window by window, as they are read.

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_load`.
    ValueError
        If `num_experts` is below 1.
    """
    place = Path(path)
    if num_experts is not None:
        num_experts = positive_int("num_experts", num_experts)
    reader = find_input(place, "read_load", format)
    raw = read_windows(reader, place, num_experts)
    return Trace.of(raw.windows, source=str(place), notes=raw.notes, layers=raw.layers)


def read_topk(path: AnyPath, *, format: str | None = None) -> NDArray[Any] | None:
    """Read the experts that each token was routed to, where a file of loads has them.

    Returns
    -------
    integer ndarray, [tokens, L, k], or None

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_load`.
    """
    place = Path(path)
    reader = find_input(place, "read_load", format)
    return None if reader.read_topk is None else reader.read_topk(place)


def read_placement_file(
    path: AnyPath,
    *,
    num_gpus: int | None = None,
    num_nodes: int | None = None,
    num_experts: int | None = None,
    agree: bool = True,
    layers: ModelLayers | None = None,
    format: str | None = None,
) -> PlacementFile:
    """Read a placement together with what the file says about its origin.

    Parameters
    ----------
    path : path-like
    num_gpus, num_nodes, num_experts : int, optional
        The placement's cluster and experts, for files that do not say them.
    agree : bool, default True
        Whether a file that says them too has to say the same; else the file is believed.
    layers : ModelLayers, optional
        The model's MoE layers. Where the file has rows for more layers (SGLang has one for each
        dense layer too), those of these layers are taken, which is said in `notes`; where it does
        not name its layers, they are these.
    format : str, optional
        Name of the file's format, see `known_formats`. Default: told by the file's ending and what
        is in it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty, damaged, of the wrong kind or holds no placement, or has not these
        layers; or there is no such format.
    ClusterMissingError
        A `FileFormatError`: neither the file nor the caller says the number of GPUs.
    ValueError
        If a number is below 1.
    """
    place = Path(path)
    shape = placement_shape(num_gpus, num_nodes, num_experts, agree=agree)
    reader = find_input(place, "read_placement", format)
    assert reader.read_placement is not None
    file = reader.read_placement(place, shape)
    return file if layers is None else for_layers(file, layers)


def placement_shape(
    num_gpus: int | None, num_nodes: int | None, num_experts: int | None, *, agree: bool = True
) -> PlacementShape:
    """Return what a caller says of a placement, checked: positive integers, or not said."""
    names = ("num_gpus", "num_nodes", "num_experts")
    given = dict(zip(names, (num_gpus, num_nodes, num_experts), strict=True))
    known = {name: positive_int(name, n) for name, n in given.items() if n is not None}
    return PlacementShape(**known, agree=agree)


def read_placement(path: AnyPath, **shape: Any) -> Placement:
    """Read a placement; it equals the one that was written.

    Parameters
    ----------
    path : path-like
    **shape
        As `read_placement_file`.

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_placement_file`.
    """
    return read_placement_file(path, **shape).placement


def check_placement_path(path: AnyPath, *, format: str | None = None) -> None:
    """Raise `FileFormatError` if no format writes placements to a file of that name."""
    find_output(Path(path), format)


def write_placement(
    path: AnyPath,
    placement: Placement,
    *,
    solver: str | None = None,
    load: Any = None,
    layers: ModelLayers | None = None,
    format: str | None = None,
) -> tuple[str, ...]:
    """Write a placement; the file appears whole or not at all.

    Parameters
    ----------
    path : path-like
        Its ending picks the format where none is named; ``.json`` and ``.npz`` are ours.
    placement : Placement
    solver : str, optional
        Name of the solver that made it, for the record.
    load : array_like, [L, E], optional
        The load it was made for; its digest is kept, where the format has a place for it.
    layers : ModelLayers, optional
        The model's numbers of the layers, for formats that need them.
    format : str, optional
        Name of the format, see `known_formats`.

    Returns
    -------
    tuple of str
        What the format has no place for and what was assumed, one sentence each.

    Raises
    ------
    FileFormatError
        If no format writes placements to a file of that name.
    ValueError
        If the format cannot hold the placement, or `layers` are of another number.
    OSError
        If the file cannot be written.
    """
    digest = None if load is None else load_digest(check_load(load)[0])
    file = PlacementFile(placement, "", solver, digest, layers)
    return write_placement_file(path, file, format=format)


def write_placement_file(
    path: AnyPath, file: PlacementFile, *, format: str | None = None
) -> tuple[str, ...]:
    """Write a placement with what is known of its origin, as `write_placement` does."""
    writer = find_output(Path(path), format)
    assert writer.write_placement is not None
    layers, there = file.layers, file.placement.num_layers
    if layers is not None and len(layers) != there:
        raise ValueError(
            f"layers names {len(layers)} layers, and the placement has {there}; name {there}"
        )
    with atomic_write(path) as stream:
        return writer.write_placement(stream, replace(file, source=str(path)))


def write_load(path: AnyPath, trace: RawTrace, *, format: str | None = None) -> tuple[str, ...]:
    """Write loads; the file appears whole or not at all.

    Parameters
    ----------
    path : path-like
        Its ending picks the format where none is named: .npz, .npy, .csv or .parquet.
    trace : RawTrace
        Asked for each window once, in order, so that memory need not grow with it.
    format : str, optional
        Name of the format, see `known_formats`.

    Returns
    -------
    tuple of str
        What the format has no place for, one sentence each.

    Raises
    ------
    FileFormatError
        If no format writes loads to a file of that name.
    ValueError
        If the format cannot hold them, or a number is not finite and >= 0.
    OSError
        If the file cannot be written.
    """
    writer = find_output(Path(path), format, "write_load")
    assert writer.write_load is not None
    with atomic_write(path) as stream:
        return writer.write_load(stream, trace)
