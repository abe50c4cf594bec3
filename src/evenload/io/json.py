"""JSON text: loads as nested lists, and what other formats in JSON share."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import FileFormatError, refusing, trace_of
from evenload.io.doubts import refuse_rows
from evenload.io.files import MOST_BYTES, check_bytes, first_twice, some
from evenload.io.json_stream import UnclearError, read_json
from evenload.io.keyed import find
from evenload.io.table import trace_of_rows
from evenload.trace import Trace

MOST_TEXT = 2**25  # bytes of a placement: 100 layers of 8192 slots, each on a line of its own
_DEEPEST = 3


def read_load(
    path: Path, num_experts: int | None, *, layout: str | None = None, key: str | None = None
) -> Trace:
    """Read nested lists ``[L][E]`` or ``[T][L][E]``, alone or under a key: see `keyed.find`."""
    tree = parse_json(path)
    if not isinstance(tree, dict | list | np.ndarray):
        raise ValueError(f"the file holds {tree!r}; use nested lists or an object")
    found = find(tree, path, key, num_experts)
    if isinstance(found, Trace):
        return found
    array = to_array(found.value, found.name.rpartition(".")[2])
    if layout == "long":
        return trace_of_rows(array, path, num_experts)
    if layout != "loads" and not isinstance(tree, dict):
        refuse_rows(array, str(path))
    return trace_of(array, str(path), found.notes, found.layers)


def parse_json(path: Path, most: int | None = None) -> Any:
    """Return the value in a JSON file; what is not JSON is refused with its line and column.

    Lists of numbers are arrays, but where `most` says how many bytes a placement usually has.
    """
    check_bytes("the text", path.stat().st_size, most or MOST_BYTES)
    with refusing("this is not JSON", UnicodeDecodeError, RecursionError):
        if most is None:
            with suppress(UnclearError):
                return read_json(path)
    with refusing("this is not JSON", UnicodeDecodeError, RecursionError, ValueError):
        text = path.read_text(encoding="utf-8-sig")
        try:
            return json.loads(text, object_pairs_hook=partial(once, str(path)))
        except json.JSONDecodeError as error:
            raise FileFormatError(
                f"{path}, line {error.lineno}, column {error.colno}: this is not JSON, or it is "
                "cut "
                f"off ({error.msg})"
            ) from None


def once(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's keys and values, or refuse a key that is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = first_twice(key for key, _ in pairs)
        raise FileFormatError(f"{where}: the key {twice[:60]!r} is there twice; leave one out")
    return found


def key_in(value: Any, *keys: str) -> tuple[str, Any]:
    """Return the first of the keys that an object has, with what is under it."""
    for key in keys if isinstance(value, dict) else ():
        if key in value:
            return key, value[key]
    named = " or ".join(map(repr, keys))
    raise ValueError(f"no key {named}; keys found: {keys_found(value)}")


def keys_found(value: Any) -> str:
    """Name the keys of an object, or the kind of anything else, for messages."""
    if not isinstance(value, dict):
        return type(value).__name__
    return some(list(value))


def check_ours(value: Any, name: str, version: int, one: str) -> None:
    """Raise `ValueError` unless a value is an object of our format `name` and of this version.

    `one` says what it is then, with its article.
    """
    if not isinstance(value, dict) or value.get("format") != name:
        found = keys_found(value)
        raise ValueError(f'this is not {one}: no "format": "{name}"; keys found: {found}')
    if value.get("version") != version:
        raise ValueError(
            f"{one} of version {value.get('version')!r}, and this evenload reads version "
            f"{version}; use the evenload that wrote it, or a newer one"
        )


def to_array(value: Any, name: str) -> NDArray[Any]:
    """Turn nested lists or arrays of numbers, three deep at most and of one shape, into one."""
    _check_lists(value, name)
    return np.asarray(value)


def _check_lists(value: Any, name: str) -> tuple[int, ...]:
    """Return the shape of nested lists of numbers; raise at the first place that does not fit."""
    if isinstance(value, np.ndarray):
        name += "[0]" * max(_DEEPEST + 1 - name.count("["), 0) * (value.ndim > _DEEPEST)
        if name.count("[") + value.ndim <= _DEEPEST:
            return tuple(map(int, value.shape))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ()
    if name.count("[") > _DEEPEST or isinstance(value, np.ndarray):
        raise ValueError(f"{name} is nested deeper than [windows][layers][experts]")
    if not isinstance(value, list):
        shown = json.dumps(value, default=np.ndarray.tolist)[:40]
        raise ValueError(f"{name} is {shown}; use a number")
    if set(map(type, value)) <= {int, float}:
        return (len(value),)
    shapes = [_check_lists(item, f"{name}[{i}]") for i, item in enumerate(value)]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"{name}[{index}] has shape {list(shape)}, and {name}[0] has {list(shapes[0])}; "
                "make all of one shape"
            )
    return (len(value), *shapes[0])


def lines_of(array: NDArray[Any], indent: str = "") -> str:
    """Return the rows of a table of whole numbers as JSON, one on a line, with commas between."""
    rows = (json.dumps(row, separators=(",", ":")) for row in array.tolist())
    return ",\n".join(indent + row for row in rows)
