"""JSON text, and the nested lists in it, with messages that name the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.formats.base import FileFormatError

_DEEPEST = 3


def parse(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises
    ------
    FileFormatError
        If the text is no JSON; the message names line and column.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise FileFormatError(
            f"{path}, line {error.lineno}, column {error.colno}: this is no JSON, or it is cut off "
            f"({error.msg})"
        ) from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FileFormatError(f"{path}: this is no JSON ({error})") from None


def _check_lists(value: Any, name: str, where: str) -> tuple[int, ...]:
    """Return the shape of nested lists of numbers; raise at the first place that does not fit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return ()
    if name.count("[") > _DEEPEST:
        raise FileFormatError(f"{where}: {name} is nested deeper than [windows][layers][experts]")
    if not isinstance(value, list):
        raise FileFormatError(f"{where}: {name} is {json.dumps(value)[:40]}; use a number")
    shapes = [_check_lists(item, f"{name}[{i}]", where) for i, item in enumerate(value)]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise FileFormatError(
                f"{where}: {name}[{index}] has shape {list(shape)}, and {name}[0] has "
                f"{list(shapes[0])}; make all of one shape"
            )
    return (len(value), *shapes[0]) if value else (0,)


def to_array(value: Any, name: str, where: str) -> NDArray[Any]:
    """Turn nested lists of numbers into one array.

    Parameters
    ----------
    value : nested list of int or float
    name, where : str
        What it is called, and the file's name, for messages.

    Raises
    ------
    FileFormatError
        If anything but a number is in it, or lists of one level differ in length.
    """
    _check_lists(value, name, where)
    return np.asarray(value)


def lines_of(array: NDArray[Any], indent: str = "") -> str:
    """Return the rows of a table of whole numbers as JSON, one on a line, with commas between."""
    rows = (json.dumps(row, separators=(",", ":")) for row in array.tolist())
    return ",\n".join(indent + row for row in rows)
