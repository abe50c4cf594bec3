"""Files that ``torch.save`` wrote: a zip archive with a pickle and the numbers of the tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from evenload.engines.archives.pickle_scan import PickleError, check_pickle
from evenload.extras import needed
from evenload.formats.base import FileFormatError
from evenload.formats.damage import DAMAGED, briefly
from evenload.formats.magic import kind_of

MOST_PICKLE = 2**26  # bytes of the pickle, which is read whole; tensors are mapped
_PICKLE = "data.pkl"


def load_torch(path: Path) -> Any:
    """Read what ``torch.save`` wrote: tensors, numbers, texts, lists and dicts of them.

    A pickle can run any code when it is read; ``weights_only=True`` refuses all but plain values,
    and `check_pickle` before it what could still take any memory or time. Tensors are mapped: their
    memory is taken only as they are looked at.

    Raises
    ------
    FileFormatError
        If torch is not installed, or the file is no such archive, damaged, or holds anything else.
    """
    data = _read_pickle(path)
    try:
        check_pickle(data)
    except PickleError as error:
        raise FileFormatError(
            f"{path}: its pickle is refused: {error}; only tensors and plain values are read"
        ) from None
    what = f"{path}: a file that torch.save wrote"
    torch = needed("torch", "torch", "torch", what, error=FileFormatError)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler of damaged bytes may raise anything
        raise FileFormatError(
            f"{path}: the file is damaged, or holds more than tensors and plain values "
            f"({briefly(error)})"
        ) from None


def pickle_has(path: Path, *words: str) -> bool:
    """Whether one of the words stands near either end of the pickle in such a file."""
    ends = _peek(path, 2**16)
    return any(word.encode() in ends for word in words)


def is_bare_tensor(path: Path) -> bool:
    """Whether such a file holds one tensor and nothing around it."""
    return _peek(path, 64).startswith(b"\x80\x02ctorch._utils\n_rebuild_")


def _read_pickle(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            member = _checked_pickle(archive.infolist(), path)
            return archive.read(member)
    except FileFormatError:
        raise
    except DAMAGED:
        if not path.exists():
            raise
        kind = kind_of(path)
        what = "it is cut off or damaged" if "zip" in kind else kind
        raise FileFormatError(
            f"{path}: this is no file that torch.save wrote (torch 1.6 or newer): {what}"
        ) from None


def _checked_pickle(members: list[zipfile.ZipInfo], path: Path) -> zipfile.ZipInfo:
    """Return the pickle's member, all of them being stored as they are and small enough."""
    size = path.stat().st_size
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise FileFormatError(
                f"{path}: {member.filename} is compressed or larger than the file, which "
                "torch.save does not write"
            )
    pickles = [m for m in members if m.filename.rpartition("/")[2] == _PICKLE]
    if len(pickles) != 1:
        raise FileFormatError(
            f"{path}: the archive has {len(pickles)} members {_PICKLE}; torch.save writes one"
        )
    if pickles[0].file_size > MOST_PICKLE:
        raise FileFormatError(
            f"{path}: its pickle has {pickles[0].file_size} bytes, more than the {MOST_PICKLE} "
            "that are read"
        )
    return pickles[0]


def _peek(path: Path, enough: int) -> bytes:
    """Return both ends of the pickle; nothing where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith(_PICKLE)]
            return _ends(archive, names[0], enough) if names else b""
    except DAMAGED:
        return b""


def _ends(archive: zipfile.ZipFile, name: str, enough: int) -> bytes:
    size = archive.getinfo(name).file_size
    with archive.open(name) as stream:
        head = stream.read(enough)
        stream.seek(max(size - enough, 0))
        return head + b"\0" + stream.read(enough)
