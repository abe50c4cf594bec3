"""Our own placement files as a NumPy archive: small, and read fast.

``physical_to_logical`` [L, S] is the expert in each slot, -1 on GPUs that are gone. ``about`` is a
JSON text as bytes (uint8) with all that the .json file says beside it: the cluster with slots,
speed and life of each GPU, the solver, the loads' digest, the dispatch that it is for, the model's
layers, the version.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evenload.io.base import PlacementFile, PlacementShape, refusing
from evenload.io.npz import open_archive, read_member, write_member
from evenload.io.placement_json import EXPERTS, about_of, file_of
from evenload.io.placements import MOST_SLOTS

_MOST_ABOUT = 2**22  # bytes


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    with open_archive(path) as archive:
        array = read_member(archive, EXPERTS, path, 8 * MOST_SLOTS + 1024)
        text = read_member(archive, "about", path, _MOST_ABOUT)
    with refusing("key 'about': this is not JSON", ValueError, RecursionError):
        about = json.loads(text.astype(np.uint8).tobytes())
    if isinstance(about, dict):
        about[EXPERTS] = array
    return file_of(about, path, shape)


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement; the same one gives the same bytes."""
    about = json.dumps(about_of(file)).encode()
    with zipfile.ZipFile(stream, "w") as archive:
        write_member(archive, EXPERTS, np.array(file.placement.physical_to_logical, np.int64))
        write_member(archive, "about", np.frombuffer(about, np.uint8))
    return ()
