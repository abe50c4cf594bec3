"""JSON loads: nested lists, alone or under ``load`` or ``logical_count``."""

from __future__ import annotations

from pathlib import Path

from evenload.formats.base import FileFormatError, Format, RawLoad
from evenload.formats.json_text import parse, to_array

_KEYS = ("load", "logical_count")


def read_load(path: Path, num_experts: int | None) -> RawLoad:
    """Read nested lists ``[L][E]`` or ``[T][L][E]``.

    They are the whole file, or stand under ``load`` or ``logical_count`` (SGLang's name for it in
    the file that its ``--init-expert-location`` takes).

    Raises
    ------
    FileFormatError
        If the text is no JSON, has neither key, or the lists are not rectangular numbers.
    """
    value = parse(path)
    if isinstance(value, list):
        return RawLoad(to_array(value, "load", str(path)))
    if isinstance(value, dict):
        for key in _KEYS:
            if key in value:
                return RawLoad(to_array(value[key], key, str(path)))
        found = ", ".join(value) or "none"
        raise FileFormatError(f"{path}: no key 'load' or 'logical_count'; keys found: {found}")
    raise FileFormatError(f"{path}: the file holds {value!r}; use nested lists or an object")


FORMAT = Format(
    name="json",
    suffixes=(".json",),
    summary="nested lists [layers][experts] or [windows][layers][experts], alone or under `load` "
    "or `logical_count`",
    read_load=read_load,
)
