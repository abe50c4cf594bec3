"""Comma-separated text: one row a layer, one column an expert."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import BinaryIO

import numpy as np

from evenload.io.base import FileFormatError, refusing, trace_of
from evenload.io.npy import checked_windows, layers_left_out
from evenload.trace import Trace

_INDEX_HEADS = {"", "layer", "layers", "layer_id", "index", "unnamed: 0"}


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read a load ``[L, E]``; a first row in which any cell is no number is a header."""
    rows = _rows(path)
    head = rows[0][1] if rows else []
    if not all(map(_is_number, head)):
        if len(head) > 1 and head[0].strip().lower() in _INDEX_HEADS:
            raise FileFormatError(
                f"{path}, line 1: the first column is headed {head[0]!r} and would be read as an "
                "expert; leave row numbers out, every column is an expert"
            )
        del rows[0]
    if not rows:
        raise ValueError("no row of numbers; write one row a layer")
    width = len(rows[0][1])
    for line, cells in rows:
        if len(cells) != width:
            raise FileFormatError(
                f"{path}, line {line}: {len(cells)} columns, and line {rows[0][0]} has {width}; "
                "every row needs one column an expert"
            )
        for column, cell in enumerate(cells, 1):
            if not _is_number(cell):
                raise FileFormatError(
                    f"{path}, line {line}, column {column}: {cell!r} is no number"
                )
    table = np.array([list(map(float, cells)) for _, cells in rows])
    notes: tuple[str, ...] = ()
    if width > 1 and (table[0] == np.arange(width)).all():
        notes = (
            f"{path}: the first row reads 0, 1, 2, ... and was taken as the load of a layer; "
            "if it is a header, give it names that are no numbers",
        )
    return trace_of(table, str(path), notes)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of every line; empty lines at the end are no rows."""
    what = "this is no comma-separated text"
    # utf-8-sig: spreadsheets put a byte order mark in front.
    with (
        refusing(what, UnicodeDecodeError, csv.Error),
        path.open(newline="", encoding="utf-8-sig") as stream,
    ):
        reader = csv.reader(stream, strict=True)
        rows = [(reader.line_num, row) for row in reader]
    while rows and not any(cell.strip() for cell in rows[-1][1]):
        rows.pop()
    return rows


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
