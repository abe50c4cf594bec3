"""Comma-separated text: one row a layer, one column an expert."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evenload.io.base import FileFormatError, refusing, trace_of
from evenload.io.files import check_bytes
from evenload.io.npy import checked_windows, layers_left_out
from evenload.trace import Trace

_INDEX_HEADS = {"", "layer", "layers", "layer_id", "index", "unnamed: 0"}


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read a load ``[L, E]``; a first row in which any cell is no number is a header."""
    check_bytes("the text", path.stat().st_size)
    numbers, width, first = array("d"), 0, 0  # 8 bytes each, where a list takes 40
    empty: tuple[int, list[str]] | None = None
    for line, cells in _rows(path):
        if line == 1 and not all(map(_is_number, cells)):
            _check_header(path, cells)
            continue
        if not any(cell.strip() for cell in cells):  # no row where it is at the end
            empty = empty or (line, cells)
            continue
        for number, row in ([empty] if empty else []) + [(line, cells)]:
            first, width = first or number, width or len(row)
            if len(row) != width:
                raise FileFormatError(
                    f"{path}, line {number}: {len(row)} columns, and line {first} has {width}; "
                    "every row needs one column an expert"
                )
            try:
                numbers.extend(map(float, row))
            except ValueError:
                column = next(i for i, cell in enumerate(row) if not _is_number(cell))
                raise FileFormatError(
                    f"{path}, line {number}, column {column + 1}: {row[column]!r} is no number"
                ) from None
    if not width:
        raise ValueError("no row of numbers; write one row a layer")
    table = np.frombuffer(numbers).reshape(-1, width)
    notes: tuple[str, ...] = ()
    if width > 1 and (table[0] == np.arange(width)).all():
        notes = (
            f"{path}: the first row reads 0, 1, 2, ... and was taken as the load of a layer; "
            "if it is a header, give it names that are no numbers",
        )
    return trace_of(table, str(path), notes)


def _check_header(path: Path, head: list[str]) -> None:
    if len(head) > 1 and head[0].strip().lower() in _INDEX_HEADS:
        raise FileFormatError(
            f"{path}, line 1: the first column is headed {head[0]!r} and would be read as an "
            "expert; leave row numbers out, every column is an expert"
        )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every line."""
    what = "this is no comma-separated text"
    # utf-8-sig: spreadsheets put a byte order mark in front.
    with (
        refusing(what, UnicodeDecodeError, csv.Error),
        path.open(newline="", encoding="utf-8-sig") as stream,
    ):
        reader = csv.reader(stream, strict=True)
        for row in reader:
            yield reader.line_num, row


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def write_load(stream: BinaryIO, trace: Trace) -> tuple[str, ...]:
    """Write the one window of a trace; floats keep all their digits."""
    if len(trace) > 1:
        raise ValueError(
            f"a .csv file has one window, and the trace has {len(trace)}; take one with --window, "
            "or use a .npz, .npy or .parquet file"
        )
    text = io.StringIO()
    for window in checked_windows(trace):
        csv.writer(text, lineterminator="\n").writerows(window.tolist())
    stream.write(text.getvalue().encode())
    return layers_left_out(trace, ".csv")
