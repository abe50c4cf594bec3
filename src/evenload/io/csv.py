"""Tables as text: cells separated by commas, tabs or semicolons, packed by gzip or not.

Read are one row a layer, one column an expert, and what `evenload.io.table` knows by its header: a
row for each (layer, expert), or the layers in a column. Lines that begin with ``#`` are comments; a
header may be the last of them. A first line is a header if no cell of it is a number or its numbers
count 0, 1, 2, ...

A long table is looked through once, and its windows are read from their place in the file where
they come one after the other; packed ones are read at once.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import FileFormatError, checking, refusing, trace_of
from evenload.io.columns import (
    LONG,
    Columns,
    by_place,
    columns_of,
    meaning_of,
    phase_code,
    place_of,
)
from evenload.io.doubts import UncertainError, refuse_rows
from evenload.io.files import check_bytes, most_bytes
from evenload.io.npy import checked_windows, left_out
from evenload.io.table import trace_of_table as _trace_of_table
from evenload.trace import Trace

BLOCK = 2**18  # bytes that are turned into numbers at a time
MOST_LINE = 2**24  # bytes
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_DIGITS = b"0123456789+-.eE\n"
_QUOTED = re.compile(r'"[^"]*"')
_ROW_NUMBERS = {"", "index", "unnamed: 0", "row"}
_WHAT = "this is not comma-separated text"
_DAMAGED = (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error)


def read_load(path: Path, num_experts: int | None, *, layout: str | None = None) -> Trace:
    """Read a load ``[L, E]``, or the loads of a long table, ``[T, L, E]`` if it has windows."""
    table = TextTable(path, layout)
    if table.columns.layer >= 0:
        return _trace_of_table(table, num_experts, table.notes)
    rows = table.whole()
    if layout != "loads" and not table.numbered:
        refuse_rows(rows, str(path))
    return trace_of(rows, str(path), table.notes)


class _Place(NamedTuple):
    """Where a block of rows begins."""

    offset: int  # bytes
    line: int  # lines before it


class TextTable:
    """The rows of a text, a block of them at a time; nothing is kept open."""

    def __init__(self, path: Path, layout: str | None = None) -> None:
        self.path, self.at_once = path, path.suffix.lower() == ".gz"
        self.notes: tuple[str, ...] = ()
        self._delimiter, self._blocks, self._first = ",", list[_Place](), 0
        self.names: list[str] = []
        first, comment = self._head()
        self._width = len(first)
        header = self._header(first, comment, layout)
        self.header = header is not None
        self.numbered = False  # whether its header names experts by number, and so loads
        every = Columns(None, -1, None, tuple(range(self._width)))
        columns = None
        if header is not None:
            self.names = header
            columns = None if layout == "loads" else self._meant(header)
        if columns is None:
            columns = by_place(self._width) if layout == "long" else every
        if header is None:
            self.names = [*LONG] if self._width == 3 else ["window", *LONG]
        self.columns = columns
        if columns.layer >= 0 and header is None:
            self.notes += (f"{path}: its columns are taken as {', '.join(self.names)}",)
        elif columns.layer < 0 and header is not None:
            shown = ", ".join(header)[:60]
            self.notes += (f"{path}: the first line, {shown}, is taken as a header",)

    def _meant(self, names: list[str]) -> Columns | None:
        if len(names) > 1 and names[0].strip().lower() in _ROW_NUMBERS:
            raise FileFormatError(
                f"{self.path}, line {self._first}: the first column is headed {names[0]!r} and "
                "would be read as an expert; leave row numbers out, or head it layer"
            )
        columns = columns_of(names)
        if columns is not None and columns.phase is not None:
            row = self._next_row()
            if columns.phase < len(row) and _is_number(row[columns.phase]):
                columns = columns.without_phase(names)
        if columns is not None and columns.layer < 0:
            self.numbered = not all(map(_is_number, names))
            return None  # experts by their numbers, and rows that are layers
        return columns

    # ---- the first line ----

    def _head(self) -> tuple[list[str], list[str]]:
        """Return the cells of the first row, and those of the comment before it."""
        comment = ""
        with self._opened() as stream:
            place, line = 0, 0
            while raw := _line(stream, self.path, line):
                text = raw.decode("utf-8-sig" if place == 0 else "utf-8").strip("\r\n")
                place, line = place + len(raw), line + 1
                if text.startswith("#"):
                    comment = text.lstrip("# ")
                elif text.strip():
                    break
            else:
                raise ValueError("no row of numbers; write one row a layer")
        bare = _QUOTED.sub("", text)
        if "\r" in bare:
            raise ValueError(
                f"{_WHAT}: its lines end in a carriage return; tr '\\r' '\\n' < IN > OUT"
            )
        self._delimiter = next((d for d in "\t;," if d in bare), ",")
        self._first = line
        self._blocks = [_Place(place - len(raw), line - 1)]
        first = self._cells(text)
        return first, self._cells(comment) if comment else []

    def _cells(self, text: str) -> list[str]:
        with refusing(_WHAT, csv.Error):
            return next(iter(csv.reader([text], delimiter=self._delimiter)), [])

    def _header(self, first: list[str], comment: list[str], layout: str | None) -> list[str] | None:
        """Return the names of the columns, if there are any; the first row stays or goes."""
        numbers = [float(cell) for cell in first if _is_number(cell)]
        if len(numbers) == len(first):
            known = [meaning_of(cell) or place_of(cell) for cell in comment]
            if len(comment) == len(first) and sum(map(bool, known)) > 1:
                return comment
            counting = len(first) > 1 and numbers == list(range(len(first)))
            if not counting or layout is not None:
                return None
            self.notes += (
                f"{self.path}: the first row reads 0, 1, 2, ... and is taken as the numbers of the "
                "experts; if it is the load of a layer, --as loads (layout='loads')",
            )
        odd = [(i, c) for i, c in enumerate(first, 1) if not _is_number(c)]
        if numbers != list(range(len(numbers))):
            self._refuse_cell(self._first, *odd[0], more=", and other cells of the line are; if it "
                              "is a header, none may be")  # fmt: skip
        for column, cell in odd:
            if cell.strip()[:1].isnumeric() or cell.strip()[:1] in ("+", "-", "."):
                self._refuse_cell(self._first, column, cell, more="; write it in digits alone, or "
                                  "give the column a name that is none")  # fmt: skip
        self._skip_first()
        return first

    def _next_row(self) -> list[str]:
        """Return the cells of the first row of numbers, if there is one."""
        offset, line = self._blocks[0]
        with self._opened() as stream:
            stream.seek(offset)
            while raw := _line(stream, self.path, line):
                text = raw.decode("utf-8-sig" if offset == 0 else "utf-8").strip("\r\n")
                if text.strip() and not text.startswith("#"):
                    return self._cells(text)
                line += 1
        return []

    def _skip_first(self) -> None:
        offset, line = self._blocks[0]
        with self._opened() as stream:
            stream.seek(offset)
            self._blocks = [_Place(offset + len(_line(stream, self.path, line)), line + 1)]

    # ---- blocks of rows ----

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        opened = gzip.open if self.at_once else open
        with refusing(_WHAT, *_DAMAGED), cast("IO[bytes]", opened(self.path, "rb")) as stream:
            yield stream

    def groups(self, first: int = 0) -> Iterator[list[NDArray[Any]]]:
        """Yield the columns that are used, of one block of rows after the other."""
        used = self.columns.used
        for block in self._read(first):
            yield [block[:, i] for i in used]

    def whole(self) -> NDArray[np.float64]:
        """Return all rows of a table [L, E]."""
        blocks, rows = [], 0
        for block in self._read(0):
            blocks.append(block)
            rows += len(block)
            if 8 * rows * self._width > most_bytes():
                left = self._size() - self._blocks[-1].offset  # a number has a digit and an end
                check_bytes("the table", 8 * rows * self._width + 4 * (left + 1))
        if not blocks:
            raise ValueError("no row of numbers; write one row a layer")
        return np.concatenate(blocks)

    def _size(self) -> int:
        """Return the bytes of the text."""
        if not self.at_once:
            return self.path.stat().st_size
        with self._opened() as stream:
            return sum(map(len, iter(partial(stream.read, 2**20), b"")))

    def _read(self, first: int) -> Iterator[NDArray[np.float64]]:
        """Yield the rows of one block after the other; none of them holds a blank line inside."""
        blank, place = 0, self._blocks[first]
        with self._opened() as stream:
            stream.seek(place.offset)
            while data := _block(stream, self.path, place.line):
                if place == self._blocks[-1]:
                    after = _Place(place.offset + len(data), place.line + data.count(b"\n"))
                    self._blocks.append(after)
                found = self._plain(data)
                if found is None:
                    found, blank = self._any(data, place, blank)
                elif blank and self.columns.layer < 0:
                    self._refuse_width(blank, 0)
                yield found
                place = _Place(place.offset + len(data), place.line + data.count(b"\n"))

    def _plain(self, data: bytes) -> NDArray[np.float64] | None:
        """Return rows that are nothing but numbers; None for what needs a closer look."""
        if self.columns.phase is not None:
            return None
        separator = self._delimiter.encode()
        data = data.replace(b"\r\n", b"\n")
        if data.translate(None, _DIGITS + separator):
            return None
        text = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(text == ord("\n"))
        if not data.endswith(b"\n"):
            ends = np.append(ends, text.size)
        between = np.searchsorted(np.flatnonzero(text == separator[0]), ends)
        if (np.diff(between, prepend=0) != self._width - 1).any():
            return None
        cells = data.rstrip(b"\n").replace(b"\n", separator).decode("ascii")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)  # for what is not a number
                numbers = np.fromstring(cells, np.float64, sep=self._delimiter)
        except (DeprecationWarning, ValueError):
            return None
        if numbers.size != ends.size * self._width:
            return None
        return numbers.reshape(ends.size, self._width)

    def _any(self, data: bytes, place: _Place, blank: int) -> tuple[NDArray[np.float64], int]:
        """Return the rows of a block, and the line of a blank one that nothing followed yet."""
        at, rows, numbers = place.line, list[list[str]](), list[int]()

        def lines() -> Iterator[str]:
            nonlocal at
            text = data.decode("utf-8-sig" if place.offset == 0 else "utf-8")
            for line in io.StringIO(text, newline=""):
                at += 1
                if not line.startswith("#"):
                    yield line

        for row in csv.reader(lines(), strict=True, delimiter=self._delimiter):
            if not any(map(str.strip, row)):
                blank = blank or at
                continue
            if blank and self.columns.layer < 0:
                self._refuse_width(blank, 0)
            blank = 0
            rows.append(row)
            numbers.append(at)
        return self._numbers(rows, numbers), blank

    def _numbers(self, rows: list[list[str]], lines: list[int]) -> NDArray[np.float64]:
        """Return rows as numbers, 0 in columns that are not read."""
        for line, row in zip(lines, rows, strict=True):
            if len(row) != self._width:
                self._refuse_width(line, len(row))
        used = self.columns.used
        block = np.zeros((len(rows), self._width))
        for i, (line, row) in enumerate(zip(lines, rows, strict=True)):
            for place in used:
                if place == self.columns.phase:
                    with checking(f"{self.path}, line {line}"):
                        block[i, place] = phase_code(self.names[place], row[place])
                    continue
                if not _is_number(row[place]):
                    self._refuse_cell(line, place + 1, row[place])
                block[i, place] = float(row[place])
        return block

    def _refuse_width(self, line: int, width: int) -> None:
        raise FileFormatError(
            f"{self.path}, line {line}: {width} columns, and line {self._blocks[0].line + 1} has "
            f"{self._width}; every row needs one column an expert"
        )

    def _refuse_cell(self, line: int, column: int, cell: str, more: str = "") -> None:
        if self._width == 1 and len(cell.split()) > 1 and all(map(_is_number, cell.split())):
            more = "; separate numbers by commas: tr -s ' ' , < IN > OUT"
        shown = repr(cell[:60])
        raise FileFormatError(
            f"{self.path}, line {line}, column {column}: {shown} is not a number{more}"
        )


def _block(stream: IO[bytes], path: Path, line: int) -> bytes:
    """Return some whole lines, and whole quotes; nothing at the end."""
    data = stream.read(BLOCK)
    if data and not data.endswith(b"\n"):
        data += _line(stream, path, line + data.count(b"\n"))
    parts, size, line = [data], len(data), line + data.count(b"\n")
    inside = data.count(b'"') % 2
    while inside and (more := _line(stream, path, line)):
        parts.append(more)
        inside ^= more.count(b'"') % 2
        size, line = size + len(more), line + 1
        if size > BLOCK + MOST_LINE:
            raise FileFormatError(f"{path}: a quoted cell has more than {MOST_LINE} bytes")
    return b"".join(parts)


def _line(stream: IO[bytes], path: Path, number: int) -> bytes:
    line = stream.readline(MOST_LINE + 1)
    if len(line) > MOST_LINE:
        raise FileFormatError(
            f"{path}, line {number + 1}: the line has more than {MOST_LINE} bytes; is it a table?"
        )
    return line


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None


def write_load(stream: BinaryIO, trace: Trace) -> tuple[str, ...]:
    """Write the one window of a trace; floats keep all their digits.

    Numbers that would be read as something else get a header.
    """
    if len(trace) > 1:
        raise ValueError(
            f"a .csv file has one window, and the trace has {len(trace)}; take one with --window, "
            "or use a .npz, .npy or .parquet file"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for window in checked_windows(trace):
        if _uncertain(window):
            writer.writerow(f"expert_{e}" for e in range(window.shape[1]))
        writer.writerows(window.tolist())
    stream.write(text.getvalue().encode())
    return left_out(trace, ".csv")


def _uncertain(window: NDArray[Any]) -> bool:
    try:
        refuse_rows(window, "")
    except UncertainError:
        return True
    return window.shape[1] > 1 and np.array_equal(window[0], np.arange(window.shape[1]))
