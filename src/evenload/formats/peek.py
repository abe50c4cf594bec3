"""Formats told by the keys that a file starts with."""

from __future__ import annotations

from pathlib import Path

_ENOUGH = 4096  # bytes: keys stand first in what programs write


def json_has(path: Path, *keys: str) -> bool:
    """Whether a .json file has one of the keys near its start; the text is not parsed."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(_ENOUGH)
    return any(f'"{key}"'.encode() in head for key in keys)
