"""Our own placement files as a NumPy archive: small, and read fast.

``physical_to_logical`` [L, S] is the expert in each slot, -1 on GPUs that are gone. ``about`` is a
JSON text as bytes (uint8) with all that the .json file says beside it: the cluster with slots,
speed and life of each GPU, the solver, the loads' digest, the model's layers, the version.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from evenload.formats.archive import keys_of, open_archive, read_member
from evenload.formats.base import FileFormatError, Format, PlacementFile, PlacementShape
from evenload.formats.damage import DAMAGED
from evenload.formats.placement_head import check_keys, file_of, head_of, layers_of
from evenload.formats.sizes import MOST_SLOTS
from evenload.formats.write_arrays import write_member

_KEY = "physical_to_logical"
_MOST_ABOUT = 2**22  # bytes


def write(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement; the same one gives the same bytes."""
    about = json.dumps(head_of(file) | layers_of(file)).encode()
    with zipfile.ZipFile(stream, "w") as archive:
        write_member(archive, _KEY, np.array(file.placement.physical_to_logical, np.int64))
        write_member(archive, "about", np.frombuffer(about, np.uint8))
    return ()


def recognises(path: Path) -> bool:
    """Whether a file is a .npz archive with a placement."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_KEY}.npy" in archive.namelist()
    except DAMAGED:
        return False


def _about(array: Any, path: Path) -> Any:
    try:
        return json.loads(array.astype(np.uint8).tobytes())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}, key 'about': this is no JSON ({error})") from None


def read(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement.

    Raises
    ------
    FileFormatError
        If the file is no such archive, of another version, lacks a key, or holds a placement that
        is none or another than the caller says.
    """
    with open_archive(path) as archive:
        keys = keys_of(archive)
        if _KEY not in keys or "about" not in keys:
            raise FileFormatError(
                f"{path}: no keys {_KEY!r} and 'about' in the archive; keys found: "
                f"{', '.join(keys) or 'none'}"
            )
        array = read_member(archive, _KEY, path, 8 * MOST_SLOTS + 1024)
        about = _about(read_member(archive, "about", path, _MOST_ABOUT), path)
    if isinstance(about, dict):
        about[_KEY] = None
    return file_of(check_keys(about, str(path)), array, str(path), shape)


FORMAT = Format(
    name="evenload-npz",
    suffixes=(".npz",),
    summary="an evenload placement: `physical_to_logical`, and `about` with the cluster it is for",
    recognises=recognises,
    read_placement=read,
    write_placement=write,
    written_to=(".npz",),
)
