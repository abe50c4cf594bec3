"""Which formats there are, and which of them a path is meant for."""

from __future__ import annotations

import stat
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from evenload.formats.base import FileFormatError, Format

CAN = {
    "read_load": "a load",
    "read_placement": "a placement",
    "write_placement": "a placement",
}


@cache
def known_formats() -> tuple[Format, ...]:
    """Return every format of this package: those told by content first, then by name."""
    package = import_module("evenload.formats")
    modules = (import_module(f"evenload.formats.{m.name}") for m in iter_modules(package.__path__))
    found = [module.FORMAT for module in modules if hasattr(module, "FORMAT")]
    return tuple(sorted(found, key=lambda f: (f.recognises is None, f.name)))


def find_format(path: Path, ability: str) -> Format:
    """Return the format that `path` is meant for.

    Parameters
    ----------
    path : Path
    ability : {"read_load", "read_placement", "write_placement"}
        What the format must be able to do.

    Raises
    ------
    FileFormatError
        If no format with that ability takes the path; the message lists the known endings.
    """
    able = [f for f in known_formats() if getattr(f, ability) is not None]
    for candidate in able:
        if candidate.matches(path):
            return candidate
    endings = ", ".join(sorted({suffix for f in able for suffix in f.suffixes}))
    ending = f"the ending {path.suffix!r}" if path.suffix else "no ending"
    raise FileFormatError(
        f"{path}: a file with {ending} is not known as {CAN[ability]}; use one of {endings}"
    )


def find_input(path: Path, ability: str) -> Format:
    """Return the format of an existing file or folder.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    FileFormatError
        If it is a folder that no format takes, is empty, or has an unknown ending.
    """
    status = path.stat()
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder and not any(f.matches(path) for f in known_formats() if f.recognises):
        raise FileFormatError(f"{path}: this is a folder; give a file")
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise FileFormatError(f"{path}: the file is empty (0 bytes)")
    return find_format(path, ability)
