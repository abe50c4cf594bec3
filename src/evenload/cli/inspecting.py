"""From a file to facts about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evenload.io import ClusterMissingError, PlacementShape, read_anything
from evenload.report.inspect import Facts, inspect_loads, inspect_placement


def facts_of(path: Path, name: str | None, shape: PlacementShape) -> Facts:
    """Read a file and say what it is; a placement may be without its number of GPUs.

    Raises
    ------
    FileFormatError, OSError
        If it cannot be read.
    ValueError
        If loads have a number that is none of tokens.
    """
    known = True
    try:
        found = read_anything(path, shape, format=name)
    except ClusterMissingError:
        known = False
        found = read_anything(path, replace(shape, num_gpus=1), format=name)
    if found.loads is not None:
        return inspect_loads(found.loads, str(path), found.format.name)
    assert found.placement is not None
    return inspect_placement(found.placement, found.format.name, cluster_known=known)
