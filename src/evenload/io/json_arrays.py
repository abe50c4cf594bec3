"""JSON read piece by piece: lists of numbers become arrays at once, so that memory stays small.

A number takes 8 bytes in an array, and some 40 as Python has it: what ``json.load`` makes of 200 MB
of loads takes 2 GB. Here no more than one innermost list is held in that form. Objects are dicts; a
key that is there twice is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import FileFormatError, refusing

MOST_VALUE = 2**28  # characters of one innermost list, or of one text
_CHUNK = 2**20
_DEEPEST = 64
_SPACE = re.compile(r"[ \t\r\n]*")
_FLAT = re.compile(r"\[[-+0-9.eE, \t\r\n]*\]")  # an innermost list of plain numbers
_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,\[\]{}":]+', re.DOTALL)


def read_arrays(path: Path) -> Any:
    """Return the value in a JSON file, with arrays for lists of numbers of one shape.

    Lists of anything else are lists. Raised is a `FileFormatError` for what is no JSON, with line
    and column, and for a key that is there twice.
    """
    with (
        refusing("this is no JSON", UnicodeDecodeError, ValueError),
        path.open(encoding="utf-8-sig", newline="") as stream,
    ):
        return _Reader(stream, path).document()


class _Reader:
    """Reads one value; `_text` is what is held of the file, `_at` the place in it."""

    def __init__(self, stream: IO[str], path: Path) -> None:
        self._stream, self._path = stream, path
        self._text, self._at, self._ended = "", 0, False
        self._line, self._column = 1, 1  # of the first character held

    def document(self) -> Any:
        """Return the value of the file."""
        value = self._value(0)
        if self._next():
            self._refuse("Extra data")
        return value

    # ---- the text ----

    def _more(self) -> bool:
        """Read on, and let go what is done with."""
        if self._ended:
            return False
        gone = self._text[: self._at]
        lines = gone.count("\n")
        self._line += lines
        self._column = len(gone) - gone.rfind("\n") if lines else self._column + len(gone)
        chunk = self._stream.read(max(_CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + chunk, 0
        self._ended = not chunk
        if len(self._text) > MOST_VALUE:
            self._refuse(f"one list or text has more than {MOST_VALUE} characters")
        return not self._ended

    def _next(self) -> str:
        """Return the next character that is no space, without taking it; "" at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _refuse(self, why: str) -> NoReturn:
        before = self._text[: self._at]
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") if lines else self._column + len(before)
        raise FileFormatError(
            f"{self._path}, line {self._line + lines}, column {column}: this is no JSON, or it is "
            f"cut off ({why})"
        )

    # ---- values ----

    def _value(self, depth: int) -> Any:
        character = self._next()
        if depth > _DEEPEST:
            self._refuse(f"nested deeper than {_DEEPEST}")
        if character == "[":
            flat = self._flat()
            return self._list(depth) if flat is None else flat
        if character == "{":
            return self._object(depth)
        return self._scalar()

    def _flat(self) -> NDArray[Any] | None:
        """Return an innermost list of numbers as an array, or None if the list is none."""
        while True:
            end = self._text.find("]", self._at)
            inner = self._text.find("[", self._at + 1, end if end >= 0 else len(self._text))
            if inner >= 0:
                return None
            if end >= 0:
                break
            if not self._more():
                return None  # cut off: whoever goes through it finds the place
        found = _FLAT.match(self._text, self._at)
        if found is None or found.end() - self._at == 2:
            return None
        try:
            numbers = json.loads(found[0])
        except ValueError:
            return None
        array = np.array(numbers)
        if array.dtype.kind not in "if" or array.size == 0:
            return None
        self._at = found.end()
        return array

    def _scalar(self) -> Any:
        while True:
            found = _SCALAR.match(self._text, self._at)
            if (found is not None and found.end() < len(self._text)) or not self._more():
                break
        found = _SCALAR.match(self._text, self._at)
        if found is None:
            self._refuse("Expecting value")
        try:
            value = json.loads(found[0])
        except ValueError:
            self._refuse("Expecting value")
        self._at = found.end()
        return value

    def _list(self, depth: int) -> Any:
        self._at += 1
        items: list[Any] = []
        if self._next() == "]":
            self._at += 1
            return items
        while True:
            items.append(self._value(depth + 1))
            end = self._next()
            if end not in (",", "]"):
                self._refuse("Expecting ',' delimiter")
            self._at += 1
            if end == "]":
                return _stacked(items)
            _let_go(items)

    def _object(self, depth: int) -> dict[str, Any]:
        self._at += 1
        found = dict[str, Any]()
        if self._next() == "}":
            self._at += 1
            return found
        while True:
            if self._next() != '"':
                self._refuse("Expecting property name enclosed in double quotes")
            key = self._scalar()
            if key in found:
                raise FileFormatError(f"{self._path}: the key {key!r} is there twice; keep one")
            if self._next() != ":":
                self._refuse("Expecting ':' delimiter")
            self._at += 1
            found[key] = self._value(depth + 1)
            end = self._next()
            if end not in (",", "}"):
                self._refuse("Expecting ',' delimiter")
            self._at += 1
            if end == "}":
                return found


def _let_go(items: list[Any]) -> None:
    """Of a record with the load of all experts keep only that, see `evenload.io.keyed`."""
    last = items[-1]
    if isinstance(last, dict) and isinstance(last.get("logical_expert_load"), np.ndarray):
        items[-1] = {"logical_expert_load": last["logical_expert_load"]}


def _stacked(items: list[Any]) -> Any:
    """Return arrays of one shape and kind as one array; anything else as it is."""
    first = items[0]
    if not isinstance(first, np.ndarray):
        return items
    for item in items:
        if not isinstance(item, np.ndarray) or item.shape != first.shape:
            return items
    if len({item.dtype.kind for item in items}) > 1:
        largest = max(int(abs(item).max()) for item in items if item.dtype.kind == "i")
        if largest > 2**53:
            return items
    out = np.empty((len(items), *first.shape), np.result_type(*{item.dtype for item in items}))
    for i in range(len(items)):
        out[i], items[i] = items[i], None
    return out
