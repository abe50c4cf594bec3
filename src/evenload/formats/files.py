"""Recordings of several files: a folder, or a pattern that they match."""

from __future__ import annotations

import errno
import glob
import os
import re
from pathlib import Path

_DIGITS = re.compile(r"(\d+)")


def is_glob(path: Path) -> bool:
    """Whether a path is a pattern as ``dump/*.pt``; what there is under that very name is none."""
    return glob.has_magic(str(path)) and not path.exists()


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """Return what sorts names as people do: ``rank2`` before ``rank10``."""
    parts = _DIGITS.split(path.name)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """Return the files that a path stands for, sorted by name with numbers as numbers.

    Parameters
    ----------
    path : Path
        A file; a folder, of which those files are taken that are directly in it; or a pattern,
        where ``**`` is any folders.
    *suffixes : str
        Endings in lower case that files of a folder must have; none for any.

    Raises
    ------
    FileNotFoundError
        If nothing matches the pattern.
    """
    if is_glob(path):
        found = map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207 (absolute too)
        files = [p for p in found if p.is_file()]
        if not files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    elif path.is_dir():
        files = [p for p in path.iterdir() if p.is_file()]
        if suffixes:
            files = [p for p in files if p.suffix.lower() in suffixes]
    else:
        return [path]
    return sorted(files, key=natural)
