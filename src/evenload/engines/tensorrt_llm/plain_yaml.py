"""The little of YAML that a placement needs, read event by event.

A document of a few bytes can name one list a million times over (aliases), nest without end, or
name classes (tags). None of that is followed here: only mappings, lists and plain scalars are
taken, to a fixed depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evenload.extras import needed
from evenload.formats.base import FileFormatError
from evenload.formats.sizes import check_text

MOST_TEXT = 2**24  # bytes; a second or two
_DEEPEST = 3
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z", re.ASCII)


def _scalar(event: Any) -> Any:
    text = event.value
    plain = event.implicit[0] and event.tag is None  # not quoted
    if plain and _WHOLE.match(text):
        return int(text)
    return None if plain and text in ("", "~", "null") else text


class _Builder:
    """Makes values of a stream of events; refuses what is not plain."""

    def __init__(self, events: Iterator[Any], where: str) -> None:
        self._events, self._where = events, where

    def _next(self) -> tuple[str, Any]:
        event = next(self._events)
        return type(event).__name__, event

    def _refuse(self, event: Any, what: str) -> FileFormatError:
        line = event.start_mark.line + 1
        return FileFormatError(f"{self._where}, line {line}: {what}")

    def value(self, kind: str, event: Any, depth: int) -> Any:
        if kind == "AliasEvent":
            raise self._refuse(event, "an alias (*name) is not followed; write the value out")
        if event.anchor is not None or (event.tag is not None and kind != "ScalarEvent"):
            raise self._refuse(event, "anchors (&name) and tags (!name) are not read")
        if kind == "ScalarEvent":
            return _scalar(event)
        if depth == _DEEPEST:
            raise self._refuse(event, f"it is nested deeper than {_DEEPEST}")
        return self._mapping(depth) if kind == "MappingStartEvent" else self._list(depth)

    def _list(self, depth: int) -> list[Any]:
        items: list[Any] = []
        while True:
            kind, event = self._next()
            if kind == "SequenceEndEvent":
                return items
            items.append(self.value(kind, event, depth + 1))

    def _mapping(self, depth: int) -> dict[Any, Any]:
        items: dict[Any, Any] = {}
        while True:
            kind, event = self._next()
            if kind == "MappingEndEvent":
                return items
            if kind != "ScalarEvent":
                raise self._refuse(event, "a key is no plain word or number")
            key = self.value(kind, event, depth + 1)
            if key in items:
                raise self._refuse(event, f"the key {key} is there twice")
            items[key] = self.value(*self._next(), depth + 1)

    def document(self) -> Any:
        self._next()  # the stream's start
        kind, event = self._next()
        if kind != "DocumentStartEvent":
            raise FileFormatError(f"{self._where}: the file holds no value")
        value = self.value(*self._next(), 0)
        self._next()
        kind, event = self._next()
        if kind != "StreamEndEvent":
            raise self._refuse(event, "a second document starts; use one")
        return value


def parse_yaml(path: Path) -> Any:
    """Return the value in a YAML file: dicts, lists, ints, None, and texts for all else.

    Raises
    ------
    FileFormatError
        If PyYAML is not installed, or the text is too large, no YAML, or more than plain mappings
        and lists; the message names the line.
    """
    check_text(path, MOST_TEXT)
    yaml = needed("yaml", "PyYAML", "tensorrt-llm", f"{path}: a YAML file", error=FileFormatError)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _Builder(yaml.parse(text, Loader=loader), str(path)).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise FileFormatError(f"{path}{line}: this is no YAML ({what})") from None
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: this is no YAML ({error})") from None
