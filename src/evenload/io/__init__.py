"""Files with loads and placements, ours and the engines': `FORMATS` lists what there is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import check_load, check_weights
from evenload.checks import whole_number
from evenload.io.base import (
    MOST_EXPERTS,
    ClusterMissingError,
    FileFormatError,
    Float,
    LoadFile,
    PlacementFile,
    PlacementShape,
    check_window,
    checking,
)
from evenload.io.doubts import PlacementFoundError, UncertainError
from evenload.io.files import check_place, max_bytes, replace_file
from evenload.io.formats import (
    FORMATS,
    Format,
    check_options,
    find_either,
    find_input,
    find_output,
)
from evenload.io.placements import for_layers
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.trace import Trace

__all__ = [
    "FORMATS",
    "ClusterMissingError",
    "FileFormatError",
    "Format",
    "LoadFile",
    "PlacementFile",
    "PlacementShape",
    "check_place",
    "check_window",
    "find_output",
    "for_layers",
    "load_digest",
    "max_bytes",
    "read_anything",
    "read_load",
    "read_placement",
    "read_placement_file",
    "read_topk",
    "read_trace",
    "replace_file",
    "write_load",
    "write_placement",
    "write_placement_file",
]

AnyPath = str | os.PathLike[str]


# ---- loads ---------------------------------------------------------------------------------------


def read_load(
    path: AnyPath,
    window: int | None = None,
    *,
    num_experts: int | None = None,
    format: str | None = None,
    phase: str | None = None,
    **layout: Any,
) -> LoadFile:
    """Read a load, float64 [L, E], finite and >= 0; a trace is summed over its windows and phases.

    Parameters
    ----------
    path : path-like
        A file, a folder or a pattern as ``dump/*.pt``; see `FORMATS` for what each may hold.
    window : int, optional
        The window of a trace to take alone, from 0, or from the end where negative.
    num_experts : int, optional
        Experts E of the model, for a file of routed experts that does not say it. Where the file
        does say it the two must agree.
    format : str, optional
        Name of the file's format, see `FORMATS`. Default: told by its ending and what is in it.
    phase : str, optional
        ``"prefill"`` or ``"decode"``: only tokens of that phase, and the windows that have some.
    layout : {"loads", "long"}, optional
        How numbers lie in a table or an array that may be read in two ways: "loads" as tokens of
        [layers, experts], whatever they look like; "long" as rows of layer, expert and tokens.
    key : str, optional
        The key under which the loads are, in a file that has others; parts joined by dots.
    window_tokens : int, optional
        Tokens of a window, for a log of routed experts. Default: each request is a window.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty, damaged, of the wrong kind or holds no load; or there is no
        such format; or it is no regular file, or would take more than `max_bytes` at once.
    ValueError
        If the window is not in the file, the numbers are no load, or `num_experts` is below 1.
    """
    trace, reader = _read_trace(path, num_experts, format, phase, layout)
    index = None if window is None else check_window(window, len(trace), trace.source)
    over_time = trace if trace.over_time else None
    about = trace.source, reader.name, index, trace.notes, trace.layers
    if over_time is None and not trace.phases:
        only = trace.read(0)
        del trace  # the array that was read goes before the one that comes back is made
        return LoadFile(check_weights(f"{about[0]}: load", only), None, *about)
    numbers = range(len(trace)) if index is None else [index]
    phases = {name: _summed(part, numbers) for name, part in trace.phases.items()}
    phases = {name: load for name, load in phases.items() if load.any()}
    load = sum(phases.values()) if phases else _summed(trace, numbers)
    return LoadFile(np.asarray(load), over_time, *about, phases)


def _summed(trace: Trace, numbers: Sequence[int]) -> Float:
    load = np.zeros(trace.shape[1:])
    for t in numbers:
        load += trace.checked(t)
    return load


def read_trace(
    path: AnyPath,
    *,
    num_experts: int | None = None,
    format: str | None = None,
    phase: str | None = None,
    **layout: Any,
) -> Trace:
    """Read loads over time, with the arguments and errors of `read_load`.

    A file without windows is a trace of one. Windows are read, and their numbers checked, when they
    are asked for, so that memory does not grow with the file, except those of .csv and .json files,
    of arrays that lie column by column in a compressed .npz, and of a .parquet that is not
    sorted by window, which are read at once.
    """
    return _read_trace(path, num_experts, format, phase, layout)[0]


def _read_trace(
    path: AnyPath,
    num_experts: int | None,
    format: str | None,
    phase: str | None,
    layout: Mapping[str, Any],
) -> tuple[Trace, Format]:
    reader = find_input(Path(path), "read_load", format)
    trace = _trace_by(reader, Path(path), num_experts, layout)
    with checking(trace.source):
        return trace if phase is None else trace.phase(phase), reader


def _trace_by(
    reader: Format, path: Path, num_experts: int | None, layout: Mapping[str, Any]
) -> Trace:
    if num_experts is not None:
        num_experts = whole_number("num_experts", num_experts, 1, MOST_EXPERTS)
    given = {name: value for name, value in layout.items() if value is not None}
    check_options(reader, given)
    with checking(str(path)):
        trace: Trace = reader.function("read_load")(path, num_experts, **given)
        if num_experts not in (None, trace.num_experts):
            raise ValueError(
                f"the file has {trace.num_experts} experts per layer, and "
                f"num_experts={num_experts} "
                f"was given; use {trace.num_experts}, or leave it out"
            )
    return trace


def read_topk(path: AnyPath, *, format: str | None = None) -> NDArray[Any] | None:
    """Read the experts of each token, integers [tokens, L, k]; None where the file has none."""
    reader = find_input(Path(path), "read_load", format)
    if "read_topk" not in reader.can:
        return None
    with checking(str(Path(path))):
        topk: NDArray[Any] | None = reader.function("read_topk")(Path(path))
    return topk


def write_load(path: AnyPath, trace: Trace, *, format: str | None = None) -> tuple[str, ...]:
    """Write loads; the file appears whole or not at all.

    Each window is asked for once, in order, so that memory need not grow with the trace. Gaps are
    kept.

    Parameters
    ----------
    path, format
        The path's ending picks the format where none is named: .npz, .npy, .csv or .parquet.
    trace : Trace

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
    return _write(path, "write_load", format, trace)


def load_digest(load: Float) -> str:
    """Return ``sha256:`` and 64 hex digits of a load's shape and values, float64 [L, E].

    Tells later which load a placement was made for. Hashed are ``LxE:`` and little-endian float64.
    """
    shape = "x".join(str(n) for n in load.shape)
    values = np.ascontiguousarray(load, dtype="<f8").tobytes()
    return "sha256:" + hashlib.sha256(f"{shape}:".encode() + values).hexdigest()


# ---- placements ----------------------------------------------------------------------------------


def read_placement(path: AnyPath, **shape: Any) -> Placement:
    """Read a placement, as `read_placement_file`; it equals the one that was written."""
    return read_placement_file(path, **shape).placement


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
    path, format
        As `read_load`.
    num_gpus, num_nodes, num_experts, agree : optional
        What a `PlacementShape` says, for files that do not.
    layers : ModelLayers, optional
        The model's MoE layers. Where the file has rows for more layers (SGLang has one for each
        dense layer too), those of these layers are taken, which is said in `notes`; where it does
        not name its layers, they are these.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If the file is empty, damaged, of the wrong kind or holds no placement, or has not these
        layers; or there is no such format. A `ClusterMissingError` if neither the file nor the
        caller says the number of GPUs.
    ValueError
        If a number is below 1.
    """
    shape = PlacementShape(num_gpus, num_nodes, num_experts, agree)
    file = _read_placement(find_input(Path(path), "read_placement", format), Path(path), shape)
    return file if layers is None else for_layers(file, layers)


def _read_placement(reader: Format, path: Path, shape: PlacementShape) -> PlacementFile:
    with checking(str(path)):
        file: PlacementFile = reader.function("read_placement")(path, shape)
    return file


def write_placement(
    path: AnyPath,
    placement: Placement,
    *,
    solver: str | None = None,
    load: Any = None,
    layers: ModelLayers | None = None,
    dispatch: str | None = None,
    format: str | None = None,
) -> tuple[str, ...]:
    """Write a placement; the file appears whole or not at all.

    Parameters
    ----------
    path, format
        The path's ending picks the format where none is named; ``.json`` and ``.npz`` are ours.
    placement : Placement
    solver : str, optional
        Name of the solver that made it, for the record.
    load : array_like, [L, E], optional
        The load it was made for; its digest is kept, where the format has a place for it.
    layers : ModelLayers, optional
        The model's numbers of the layers, for formats that need them.
    dispatch : str, optional
        Dispatch that it was made for, for the record; see `evenload.dispatch`.

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
    file = PlacementFile(placement, "", solver, digest, layers, dispatch=dispatch)
    return write_placement_file(path, file, format=format)


def write_placement_file(
    path: AnyPath, file: PlacementFile, *, format: str | None = None
) -> tuple[str, ...]:
    """Write a placement with what is known of its origin, as `write_placement` does."""
    layers, there = file.layers, file.placement.num_layers
    if layers is not None and len(layers) != there:
        raise ValueError(
            f"layers names {len(layers)} layers, and the placement has {there}; name {there}"
        )
    return _write(path, "write_placement", format, replace(file, source=str(path)))


# ---- either --------------------------------------------------------------------------------------


def _write(path: AnyPath, ability: str, format: str | None, what: Any) -> tuple[str, ...]:
    write = find_output(Path(path), format, ability).function(ability)
    with replace_file(path) as stream:
        left_out: tuple[str, ...] = write(stream, what)
        return left_out


def read_anything(
    path: Path,
    shape: PlacementShape,
    *,
    format: str | None = None,
    prefer: str | None = None,
    **layout: Any,
) -> tuple[str, Trace | PlacementFile]:
    """Read a file of loads or of a placement, and name its format; arguments as for the two.

    `prefer`, "read_load" or "read_placement", decides where a file may be either. What is neither
    is refused in the words of the likelier. ``layout="placement"`` says that it is a placement.
    """
    refusals = list[FileFormatError]()
    if layout.get("layout") == "placement":
        able = [f for f in FORMATS if "read_placement" in f.can and f.told_by]
        told = any(f.recognises(path) for f in able)
        name = format or (None if told else "table-placement")
        reader = find_input(path, "read_placement", name)
        try:
            return reader.name, _read_placement(reader, path, shape)
        except ClusterMissingError:
            raise
        except FileFormatError as error:
            reader = next(f for f in FORMATS if f.name == "table-placement")
            with suppress(ValueError):  # a tensor of 0 and 1 is told from a map by its numbers
                if format is None:
                    return reader.name, _read_placement(reader, path, shape)
            raise error from None
    given = any(value is not None for value in layout.values())
    for ability, reader in find_either(path, format, prefer):
        try:
            if ability == "read_load":
                return reader.name, _trace_by(reader, path, shape.num_experts, layout)
            if not given and (reader.told_by or not refusals):
                return reader.name, _read_placement(reader, path, shape)
        except (ClusterMissingError, UncertainError):
            raise
        except FileFormatError as error:
            refusals.append(error)
            sure = prefer != "read_placement" and reader.recognises(path)
            if sure and not isinstance(error, PlacementFoundError):
                break
    raise refusals[0]
