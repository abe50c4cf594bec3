"""Our own placement files: one JSON object that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import evenload
from evenload.cluster import Cluster
from evenload.formats.base import FileFormatError, Format, PlacementFile, PlacementShape
from evenload.formats.json_text import parse, to_array
from evenload.placement import Placement

_NAME = "evenload.placement"
_VERSION = 1
_NEEDED = ("num_gpus", "num_nodes", "num_experts", "physical_to_logical")
_SLOTS = ("slots_per_gpu", "slots")


def _read_cluster(value: dict[str, Any]) -> Cluster:
    optional = {key: value.get(key) for key in (*_SLOTS, "speed", "alive")}
    return Cluster(value["num_gpus"], value["num_nodes"], **optional)


def _head(file: PlacementFile) -> dict[str, Any]:
    cluster = file.placement.cluster
    return {
        "format": _NAME,
        "version": _VERSION,
        "evenload": evenload.__version__,
        **cluster.arguments,
        "num_experts": file.placement.num_experts,
        "solver": file.solver,
        "load_digest": file.load_digest,
    }


def write(stream: BinaryIO, file: PlacementFile) -> None:
    """Write a placement with one line a layer, so that two files can be compared by eye."""
    head = json.dumps(_head(file), indent=2).removesuffix("\n}")
    rows = file.placement.physical_to_logical.tolist()
    lines = ",\n    ".join(json.dumps(row, separators=(",", ":")) for row in rows)
    stream.write(f'{head},\n  "physical_to_logical": [\n    {lines}\n  ]\n}}\n'.encode())


def _check_keys(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("format") != _NAME:
        found = ", ".join(value) or "none" if isinstance(value, dict) else type(value).__name__
        raise FileFormatError(
            f'{path}: this is no placement file: no "format": "{_NAME}"; keys found: {found}'
        )
    if value.get("version") != _VERSION:
        raise FileFormatError(
            f"{path}: placement file of version {value.get('version')!r}, and this evenload reads "
            f"version {_VERSION}; use the evenload that wrote it, or a newer one"
        )
    missing = [key for key in _NEEDED if key not in value]
    if not any(key in value for key in _SLOTS):
        missing.append(" or ".join(_SLOTS))
    if missing:
        raise FileFormatError(f"{path}: the placement file has no key {', '.join(missing)}")
    return value


def read(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement.

    Raises
    ------
    FileFormatError
        If the file is no placement file of ours, of another version, lacks a key, or holds a
        placement that is none.
    """
    value = _check_keys(parse(path), path)
    experts = to_array(value["physical_to_logical"], "physical_to_logical", str(path))
    try:
        placement = Placement(experts, _read_cluster(value), value["num_experts"])
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
    return PlacementFile(placement, str(path), value.get("solver"), value.get("load_digest"))


FORMAT = Format(
    name="evenload",
    suffixes=(".json",),
    summary="an evenload placement: the expert in each slot, and the cluster it is for",
    read_placement=read,
    write_placement=write,
    written_to=(".json",),
)
