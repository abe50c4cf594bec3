"""Comma-separated text: one row a layer, one column an expert."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evenload.formats.base import FileFormatError, Format, RawLoad, RawTrace
from evenload.formats.write_arrays import checked_windows, layers_left_out

_INDEX_HEADS = {"", "layer", "layers", "layer_id", "index", "unnamed: 0"}


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of every line; empty lines at the end are no rows."""
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front.
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{path}: this is no comma-separated text ({error})") from None
    while rows and not any(cell.strip() for cell in rows[-1][1]):
        rows.pop()
    return rows


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _drop_header(rows: list[tuple[int, list[str]]], path: Path) -> list[tuple[int, list[str]]]:
    """Drop the first row where any of its cells is no number."""
    cells = rows[0][1]
    if all(_is_number(cell) for cell in cells):
        return rows
    if len(cells) > 1 and cells[0].strip().lower() in _INDEX_HEADS:
        raise FileFormatError(
            f"{path}, line 1: the first column is headed {cells[0]!r} and would be read as an "
            "expert; leave row numbers out, every column is an expert"
        )
    return rows[1:]


def _numbers(cells: list[str], line: int, path: Path) -> list[float]:
    for column, cell in enumerate(cells, start=1):
        if not _is_number(cell):
            raise FileFormatError(f"{path}, line {line}, column {column}: {cell!r} is no number")
    return [float(cell) for cell in cells]


def _note(first: list[float], path: Path) -> tuple[str, ...]:
    if len(first) > 1 and first == list(range(len(first))):
        return (
            f"{path}: the first row reads 0, 1, 2, ... and was taken as the load of a layer; "
            "if it is a header, give it names that are no numbers",
        )
    return ()


def read_load(path: Path, num_experts: int | None) -> RawLoad:
    """Read a load ``[L, E]``; a first row in which any cell is no number is a header.

    Raises
    ------
    FileFormatError
        If the file is no such text, has no row of numbers, or a row of another length; the message
        names the line.
    """
    rows = _rows(path)
    rows = _drop_header(rows, path) if rows else rows
    if not rows:
        raise FileFormatError(f"{path}: no row of numbers; write one row a layer")
    width = len(rows[0][1])
    for line, cells in rows:
        if len(cells) != width:
            raise FileFormatError(
                f"{path}, line {line}: {len(cells)} columns, and line {rows[0][0]} has {width}; "
                "every row needs one column an expert"
            )
    table = [_numbers(cells, line, path) for line, cells in rows]
    return RawLoad(np.array(table), _note(table[0], path))


def write_load(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write the one window of a trace; floats keep all their digits.

    Raises
    ------
    ValueError
        If there are several windows, or a number is not finite and >= 0.
    """
    windows = trace.windows.shape[0]
    if windows > 1:
        raise ValueError(
            f"a .csv file has one window, and the trace has {windows}; take one with --window, or "
            "use a .npz, .npy or .parquet file"
        )
    text = io.StringIO()
    for window in checked_windows(trace):
        csv.writer(text, lineterminator="\n").writerows(window.tolist())
    stream.write(text.getvalue().encode())
    return layers_left_out(trace, ".csv")


FORMAT = Format(
    name="csv",
    suffixes=(".csv",),
    summary="one row a layer, one column an expert; a first row with any non-number is a header",
    read_load=read_load,
    write_load=write_load,
    written_to=(".csv",),
)
