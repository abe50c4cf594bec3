"""Our own placement files as text: one JSON object that says what it is.

They hold all that a placement has: the cluster with slots, speed and life of each GPU, the solver,
the loads' digest, the model's layers, and the version that wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

from evenload.formats.base import Format, PlacementFile, PlacementShape
from evenload.formats.json_text import lines_of, to_array
from evenload.formats.peek import json_has
from evenload.formats.placement_head import NAME, check_keys, file_of, head_of, layers_of
from evenload.formats.sizes import parse_placement


def write(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer, so that two files can be compared by eye."""
    parts = [json.dumps(head_of(file), indent=2).removesuffix("\n}")]
    parts += [f'"{key}": {json.dumps(value)}' for key, value in layers_of(file).items()]
    rows = lines_of(file.placement.physical_to_logical, "    ")
    parts.append(f'"physical_to_logical": [\n{rows}\n  ]')
    stream.write((",\n  ".join(parts) + "\n}\n").encode())
    return ()


def read(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement.

    Raises
    ------
    FileFormatError
        If the file is no placement file of ours, of another version, lacks a key, or holds a
        placement that is none or another than the caller says.
    """
    where = str(path)
    value = check_keys(parse_placement(path), where)
    array = to_array(value["physical_to_logical"], "physical_to_logical", where)
    return file_of(value, array, where, shape)


FORMAT = Format(
    name="evenload",
    suffixes=(".json",),
    summary="an evenload placement: the expert in each slot, and the cluster it is for",
    recognises=lambda path: json_has(path, NAME),
    read_placement=read,
    write_placement=write,
    written_to=(".json",),
)
