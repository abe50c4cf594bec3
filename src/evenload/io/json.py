"""JSON loads: nested lists, alone or under ``load`` or ``logical_count``."""

from __future__ import annotations

from pathlib import Path

from evenload.io.base import FileFormatError, RawTrace
from evenload.io.text import keys_found, parse_json, to_array


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read nested lists ``[L][E]`` or ``[T][L][E]``, alone or under a key."""
    value = parse_json(path)
    key = "load"
    if isinstance(value, dict):
        if key not in value:
            key = "logical_count"
        if key not in value:
            raise FileFormatError(
                f"{path}: no key 'load' or 'logical_count'; keys found: {keys_found(value)}"
            )
        value = value[key]
    elif not isinstance(value, list):
        raise FileFormatError(f"{path}: the file holds {value!r}; use nested lists or an object")
    return RawTrace.of(to_array(value, key, str(path)), str(path))
