"""JSON read piece by piece: lists of numbers become arrays at once, so that memory stays small.

`json.load` makes an object of each number, which takes five times the memory of the array, and
holds the text beside them. Here it parses rows of numbers a megabyte at a time, which are kept as
arrays; the rest is walked through in Python.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 2**20  # characters read at once
_PACK = 1024  # arrays of one shape that become one
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBERS = re.compile(r"[-+.eE\d\s,]*", re.ASCII)
_ROWS = re.compile(r"(?:\[[-+.eE\d\s,]*\]\s*,\s*)+", re.ASCII)  # whole ones, not the last
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_WORD = re.compile(r"[-+.\w]+", re.ASCII)


class UnclearError(ValueError):
    """Text that is not JSON, or lists of numbers and more, which are left to `json.loads`."""


def read_json(path: Path) -> Any:
    """Return the value in a JSON file, with an array in place of lists of numbers of one shape.

    Raises
    ------
    UnclearError
        If `json.loads` has to read it, or to say what is wrong.
    ValueError
        If a key is there twice.
    UnicodeDecodeError
        If it is no UTF-8.
    """
    with path.open(encoding="utf-8-sig") as stream:
        reader = _Reader(stream)
        value = reader.value()
        if reader.peek():
            raise UnclearError
        return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise UnclearError from None


def _array(numbers: list[Any]) -> NDArray[Any]:
    array = np.array(numbers)
    # Past int64 NumPy has unsigned integers, and makes floats of both together.
    return array.astype(object) if array.dtype.kind == "u" else array


class _Reader:
    """Takes values off the front of a text, of which a piece is held."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._text, self._at = stream, "", 0

    def _more(self) -> bool:
        """Let go what was taken, and hold as much again; tell whether there was any."""
        rest = self._text[self._at :]
        piece = self._stream.read(max(_PIECE, len(rest)))
        self._text, self._at = rest + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """Return the next character that is no space; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _take(self, wanted: str) -> str:
        found = self.peek()
        if not found or found not in wanted:
            raise UnclearError
        self._at += 1
        return found

    def _token(self, pattern: re.Pattern[str]) -> Any:
        """Take a string, or a number or word, more of which may be in the next piece."""
        match = pattern.match(self._text, self._at)
        while (match is None and pattern is _STRING) or (match and match.end() == len(self._text)):
            if not self._more():
                break
            match = pattern.match(self._text, self._at)
        match = pattern.match(self._text, self._at)
        if match is None:
            raise UnclearError
        self._at = match.end()
        return _parsed(match[0])

    def value(self) -> Any:
        """Take one value."""
        start = self.peek()
        if start == "[":
            return self._list()
        if start == "{":
            return self._object()
        return self._token(_STRING if start == '"' else _WORD)

    def _object(self) -> dict[str, Any]:
        self._at += 1
        found = dict[str, Any]()
        if self.peek() == "}":
            self._at += 1
            return found
        while True:
            if self.peek() != '"':
                raise UnclearError
            key = self._token(_STRING)
            if key in found:
                raise ValueError(f"the key {key[:60]!r} is there twice; leave one out")
            self._take(":")
            found[key] = self.value()
            if self._take(",}") == "}":
                return found

    def _list(self) -> Any:
        self._at += 1
        start = self.peek()
        if start == "]":
            self._at += 1
            return []
        if start in "-0123456789":
            return self._numbers()
        items = _Items()
        while True:
            if self.peek() == "[" and (rows := _ROWS.match(self._text, self._at)):
                self._at = rows.end()
                items.add_rows(_parsed(f"[{rows[0].rstrip()[:-1]}]"))
            items.add(self.value())
            if self._take(",]") == "]":
                return items.joined()

    def _numbers(self) -> NDArray[Any]:
        """Take what is left of a list of numbers."""
        parts, bracket = list[NDArray[Any]](), ""
        while bracket != "]":
            match = _NUMBERS.match(self._text, self._at)
            end = self._at if match is None else match.end()
            if end < len(self._text):
                text, bracket = self._text[self._at : end], self._text[end]
                if bracket != "]" or not text.strip():
                    raise UnclearError
                self._at = end + 1
            else:  # the last number may go on in the next piece
                end = max(self._text.rfind(",", self._at), self._at)
                text, cut = self._text[self._at : end], end > self._at
                self._at = end + cut
                if not self._more() or (cut and not text.strip()):
                    raise UnclearError
            if text:
                parts.append(_array(_parsed(f"[{text}]")))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


class _Items:
    """Items of a list: arrays of one shape are put together as they come."""

    def __init__(self) -> None:
        self._blocks = list[NDArray[Any]]()  # of items that come before the others
        self._items = list[Any]()
        self._alike = True

    def add(self, item: Any) -> None:
        """Add one item."""
        self._items.append(item)
        if len(self._items) == _PACK and self._alike:
            self._pack()

    def add_rows(self, rows: list[list[Any]]) -> None:
        """Add lists of numbers, an item each."""
        self._pack()
        try:
            block = _array(rows)
        except ValueError:  # lists of different length
            block = np.zeros(0)
        if self._fits(block.shape[1:]) and block.ndim == 2:
            self._blocks.append(block)
        else:
            self._alike = False
            self._items += map(_array, rows)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return self._alike and (not self._blocks or shape == self._blocks[0].shape[1:])

    def _pack(self) -> None:
        if not self._items or not self._alike:
            return
        shape = getattr(self._items[0], "shape", None)
        self._alike = shape is not None and self._fits(shape)
        self._alike &= all(getattr(item, "shape", None) == shape for item in self._items)
        if self._alike:
            self._blocks.append(np.stack(self._items))
            self._items = []

    def joined(self) -> Any:
        """Return all items: one array, or a list where they differ."""
        self._pack()
        if self._alike:
            return np.concatenate(self._blocks) if len(self._blocks) > 1 else self._blocks[0]
        return [item for block in self._blocks for item in block] + self._items
