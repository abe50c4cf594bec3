"""Which formats there are, and which of them a path is meant for."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from evenload.formats.base import FileFormatError, Format
from evenload.formats.files import files_of, is_glob

CAN = {
    "read_load": "a load",
    "read_placement": "a placement",
    "write_placement": "a placement",
    "write_load": "a load",
}


def _modules() -> Iterator[str]:
    """Name the modules that may have a format: those here, and those of each engine."""
    engines = import_module("evenload.engines")
    packages = [f"evenload.engines.{m.name}" for m in iter_modules(engines.__path__) if m.ispkg]
    for package in ("evenload.formats", *packages):
        # What an engine loads imports that engine: it is in a package of its own, and left alone.
        modules = iter_modules(import_module(package).__path__)
        yield from (f"{package}.{m.name}" for m in modules if not m.ispkg)


@cache
def known_formats() -> tuple[Format, ...]:
    """Return every format of evenload: those told by content first, then by name."""
    modules = map(import_module, _modules())
    found = [module.FORMAT for module in modules if hasattr(module, "FORMAT")]
    return tuple(sorted(found, key=lambda f: (f.recognises is None, f.name)))


def _able(ability: str) -> list[Format]:
    return [f for f in known_formats() if f.can(ability)]


def _named(name: str, ability: str) -> Format:
    able = _able(ability)
    for candidate in able:
        if candidate.name == name:
            return candidate
    names = ", ".join(f.name for f in able)
    can = "written" if ability.startswith("write") else "read"
    raise FileFormatError(
        f"format={name!r} is not known for {CAN[ability]} to be {can}; use one of {names}"
    )


def _no_format(path: Path, ability: str, endings: set[str]) -> FileFormatError:
    ending = f"the ending {path.suffix!r}" if path.suffix else "no ending"
    known = ", ".join(sorted(endings))
    return FileFormatError(
        f"{path}: a file with {ending} is not known as {CAN[ability]}; use one of {known}"
    )


def find_output(path: Path, name: str | None = None, ability: str = "write_placement") -> Format:
    """Return the format in which a placement or a load is written to `path`.

    Parameters
    ----------
    path : Path
    name : str, optional
        Name of the format; None goes by the path's ending.
    ability : {"write_placement", "write_load"}
        What is written.

    Raises
    ------
    FileFormatError
        If there is no such format, or none for the ending; the message lists what there is.
    """
    if name is not None:
        return _named(name, ability)
    able = _able(ability)
    for candidate in able:
        if path.suffix.lower() in candidate.written_to:
            return candidate
    raise _no_format(path, ability, {end for f in able for end in f.written_to})


def find_input(path: Path, ability: str, name: str | None = None) -> Format:
    """Return the format of an existing file or folder, or of all files that match a pattern.

    Parameters
    ----------
    path : Path
    ability : {"read_load", "read_placement"}
        What the format must be able to do.
    name : str, optional
        Name of the format; None asks the file.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`, which may be a pattern as ``dump/*.pt`` too.
    FileFormatError
        If it is a folder that no format takes, is empty, or has an unknown ending; or if no format
        has that name.
    """
    if is_glob(path):
        return _find_pattern(path, ability, name)
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise FileFormatError(f"{path}: the file is empty (0 bytes)")
    if name is not None:
        return _named(name, ability)
    able = _able(ability)
    for candidate in able:
        if candidate.recognises is not None and candidate.recognises(path):
            return candidate
    # Those that go by the ending alone come first: the others have looked, and did not know it.
    for candidate in sorted(able, key=lambda f: f.recognises is not None):
        if candidate.ends(path):
            return candidate
    if stat.S_ISDIR(status.st_mode):
        raise FileFormatError(f"{path}: this is a folder; give a file")
    raise _no_format(path, ability, {suffix for f in able for suffix in f.suffixes})


def _find_pattern(path: Path, ability: str, name: str | None) -> Format:
    """Return the format of several files, told by the first of them where none is named."""
    first = files_of(path)[0]
    found = find_input(first, ability) if name is None else _named(name, ability)
    if not found.many:
        able = ", ".join(f.name for f in _able(ability) if f.many)
        raise FileFormatError(
            f"{path}: files of format {found.name} are read one at a time; give one, or name the "
            f"format of a recording of several, {able or 'which there is none of'}"
        )
    return found
