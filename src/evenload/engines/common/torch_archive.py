"""Files that ``torch.save`` wrote: a zip archive with a pickle and the numbers of the tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from evenload.formats.base import FileFormatError
from evenload.formats.damage import DAMAGED
from evenload.formats.magic import kind_of

MOST_PICKLE = 2**26  # bytes of the pickle, which is read whole; tensors are mapped


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except DAMAGED:
        kind = kind_of(path)
        what = "it is cut off or damaged" if "zip" in kind else kind
        raise FileFormatError(
            f"{path}: this is no file that torch.save wrote (torch 1.6 or newer): {what}"
        ) from None


def _check_members(members: list[zipfile.ZipInfo], path: Path) -> None:
    size = path.stat().st_size
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise FileFormatError(
                f"{path}: {member.filename} is compressed or larger than the file, which "
                "torch.save does not write"
            )
        if member.filename.endswith("data.pkl") and member.file_size > MOST_PICKLE:
            raise FileFormatError(
                f"{path}: its pickle has {member.file_size} bytes, more than the {MOST_PICKLE} "
                "that are read"
            )


def _check_pickle(path: Path) -> None:
    """Refuse the one thing that torch lets a pickle make without limit: bytes, all zero."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl") and b"bytearray" in archive.read(name):
                raise FileFormatError(
                    f"{path}: the file holds more than tensors and plain values (a bytearray)"
                )


def load_torch(path: Path) -> Any:
    """Read what ``torch.save`` wrote: tensors, numbers, texts, lists and dicts of them.

    A pickle can run any code when it is read; ``weights_only=True`` refuses all but plain values.
    Tensors are mapped: their memory is taken only as they are looked at.

    Raises
    ------
    FileFormatError
        If torch is not installed, or the file is no such archive, damaged, or holds anything else.
    """
    _check_members(_members(path), path)
    try:
        _check_pickle(path)
    except DAMAGED as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{path}: the file is damaged ({error})") from None
    try:
        import torch
    except ModuleNotFoundError:
        raise FileFormatError(
            f"{path}: a file that torch.save wrote needs torch, which is not installed; use "
            "pip install 'evenload[torch]'"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler of damaged bytes may raise anything
        first = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        raise FileFormatError(
            f"{path}: the file is damaged, or holds more than tensors and plain values ({first})"
        ) from None


def pickle_has(path: Path, *words: str) -> bool:
    """Whether one of the words stands near either end of the pickle in such a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("data.pkl")]
            if not names:
                return False
            ends = _ends(archive, names[0])
    except DAMAGED:
        return False
    return any(word.encode() in ends for word in words)


def _ends(archive: zipfile.ZipFile, name: str, enough: int = 2**16) -> bytes:
    size = archive.getinfo(name).file_size
    with archive.open(name) as stream:
        head = stream.read(enough)
        stream.seek(max(size - enough, 0))
        return head + b"\0" + stream.read(enough)
