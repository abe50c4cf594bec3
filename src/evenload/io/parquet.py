"""Parquet tables of loads, in long or in wide form.

**Long**: a row for each (window, layer, expert), in the columns ``window`` (may be left out),
``layer``, ``expert`` and ``tokens``. An expert without a row had no tokens; a layer without any row
in a window is a gap, and an error, since nobody can tell it from a layer whose rows were lost.

**Wide**: a row for each (window, layer): columns ``window`` (may be left out), ``layer``, and one
for each expert, ``0``, ``1``, ... or ``expert_0``, ``expert_1``, ...

Windows are those that there are, in rising order of their numbers. Layers are the model's own
numbers. A file whose row groups rise by window is read group by group; another is read at once.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io.base import MAX_ELEMENTS, MOST_EXPERTS, FileFormatError, RawTrace, refusing
from evenload.io.npy import checked_windows
from evenload.layers import ModelLayers

MOST_NUMBERS = 2**26  # of one row group: it is read at once, and may be packed far smaller
MOST_CELLS = 2**26  # layers times experts of one window
_EXPERT = re.compile(r"(?:expert_)?(0|[1-9]\d{0,5})", re.ASCII)
_LONG = ("layer", "expert", "tokens")


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load or a trace; the file is looked through once, windows are read as asked for."""
    windows = TableWindows(path, num_experts)
    return RawTrace(windows, windows.notes, ModelLayers(windows.layers.tolist()))


class Rows(NamedTuple):
    """Rows of a table; `expert` in long form alone, `tokens` [rows] there, [rows, E] in wide."""

    window: NDArray[np.int64]
    layer: NDArray[np.int64]
    expert: NDArray[np.int64] | None
    tokens: NDArray[Any]


class TableWindows:
    """Windows of a table, which are read as they are asked for where row groups rise by window."""

    def __init__(self, path: Path, num_experts: int | None) -> None:
        self._path, self._given = path, num_experts
        self._open()
        self._experts = self._count_experts(self._scan() + 1)
        self._group: tuple[int, Rows] | None = None
        self._whole: NDArray[np.float64] | None = None
        T, L, E = self.shape = self._numbers.size, self.layers.size, self._experts
        if L * E > MOST_CELLS:
            raise FileFormatError(
                f"{path}: {L} layers of {E} experts are more than the {MOST_CELLS} numbers of a "
                "window that are read"
            )
        filled = [(first, last) for first, last in self._ranges if first <= last]
        if all(a[1] <= b[0] for a, b in pairwise(filled)):
            return
        if T * L * E > MAX_ELEMENTS // 8:
            raise FileFormatError(
                f"{path}: the rows are not sorted by window, and {T} windows of {L} x {E} are too "
                "many to be read at once; sort the rows by window"
            )
        self._whole = self._fill(self._numbers)

    def _open(self) -> None:
        """Open the file and see which columns it has, not yet what is in them."""
        path = self._path
        what = f"{path}: a .parquet file"
        needed("pyarrow.parquet", "pyarrow", "parquet", what, error=FileFormatError)
        import pyarrow

        with path.open("rb"):
            pass  # what the system has against it is told as it is
        damaged = f"{path}: this is no Parquet file, or it is cut off"
        with refusing(damaged, pyarrow.ArrowException, OSError, ValueError):
            self._file = pyarrow.parquet.ParquetFile(path)
        self._damaged = pyarrow.ArrowException, OSError, OverflowError
        schema, kinds = self._file.schema_arrow, pyarrow.types
        names = list(schema.names)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise FileFormatError(f"{path}: two columns are named {twice!r}")
        self._long = set(_LONG) <= set(names)
        values = list(_LONG) if self._long else ["layer", *_expert_columns(names, path)]
        self._columns = ["window", *values] if "window" in names else values
        left = (name for name in names if name not in self._columns)
        self.notes = tuple(f"{path}: the column {name!r} is not read" for name in left)
        for name in self._columns:
            kind = schema.field(name).type
            if not (kinds.is_integer(kind) or kinds.is_floating(kind)):
                raise FileFormatError(f"{path}: column {name!r} is of type {kind}; use numbers")
        if self._file.metadata.num_rows == 0:
            raise FileFormatError(f"{path}: the table has no rows")

    def _read(self, group: int) -> Rows:
        """Return the rows of one row group, which may be too large to be read at once."""
        size = self._file.metadata.row_group(group).num_rows * len(self._columns)
        if size > MOST_NUMBERS:
            raise FileFormatError(
                f"{self._path}: row group {group} has {size} numbers, more than the {MOST_NUMBERS} "
                "that are read at once; write smaller row groups"
            )
        columns = {}
        with refusing(f"{self._path}: row group {group} is damaged", *self._damaged):
            table = self._file.read_row_group(group, columns=self._columns, use_threads=False)
            for name in self._columns:
                column = table.column(name)
                if column.null_count:
                    raise FileFormatError(
                        f"{self._path}: column {name!r} has {column.null_count} empty cells in row "
                        f"group {group}; write 0 where there are no tokens"
                    )
                columns[name] = column.to_numpy()
        layer = self._key("layer", columns.pop("layer"))
        window = columns.pop("window", np.zeros(len(layer), np.int64))
        window = self._key("window", window)
        if self._long:
            return Rows(window, layer, self._key("expert", columns["expert"]), columns["tokens"])
        return Rows(window, layer, None, np.stack(list(columns.values()), axis=1))

    def _key(self, name: str, numbers: NDArray[Any]) -> NDArray[np.int64]:
        most = MOST_EXPERTS - 1 if name != "window" else 2**63 - 1
        if numbers.dtype.kind not in "iu":
            raise FileFormatError(f"{self._path}: column {name!r} has no integers; use them")
        if numbers.size and (numbers.min() < 0 or numbers.max() > most):
            bad = numbers.min() if numbers.min() < 0 else numbers.max()
            raise FileFormatError(f"{self._path}: column {name!r} has {bad}; use 0 to {most}")
        return numbers.astype(np.int64)

    def _scan(self) -> int:
        """Look through the table for its windows and layers; return the largest expert number."""
        self._numbers, self.layers = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._ranges: list[tuple[int, int]] = []
        most = -1
        for group in range(self._file.num_row_groups):
            rows = self._read(group)
            if rows.window.size == 0:
                self._ranges.append((0, -1))
                continue
            self._numbers = np.union1d(self._numbers, rows.window)
            self.layers = np.union1d(self.layers, rows.layer)
            self._ranges.append((int(rows.window.min()), int(rows.window.max())))
            last = rows.tokens.shape[1] - 1 if rows.expert is None else rows.expert.max()
            most = max(most, int(last))
        return most

    def _count_experts(self, found: int) -> int:
        if not self._long:
            return found
        if self._given is None:
            self.notes += (
                f"{self._path}: taken to have as many experts as the largest expert number + "
                f"1 = {found} (say --experts, or num_experts=, where the model has more)",
            )
        elif found > self._given:
            raise FileFormatError(
                f"{self._path}: column 'expert' has {found - 1}, and num_experts="
                f"{self._given} was given; use {found} or more"
            )
        return self._given or found

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        if self._whole is not None:
            return np.array(self._whole[number])
        window: NDArray[Any] = self._fill(self._numbers[number : number + 1])[0]
        return window

    def _fill(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return windows that follow each other, by their numbers in the file: [windows, L, E]."""
        load = np.zeros((numbers.size, *self.shape[1:]))
        seen = np.zeros(load.shape if self._long else load.shape[:2], np.int32)
        for group, (first, last) in enumerate(self._ranges):
            if last < numbers[0] or first > numbers[-1]:
                continue
            if self._group is None or self._group[0] != group:
                self._group = group, self._read(group)
            rows = self._group[1]
            inside = (rows.window >= numbers[0]) & (rows.window <= numbers[-1])
            at = [np.searchsorted(numbers, rows.window[inside])]
            at.append(np.searchsorted(self.layers, rows.layer[inside]))
            if rows.expert is not None:
                at.append(rows.expert[inside])
            np.add.at(seen, tuple(at), 1)
            load[tuple(at)] = rows.tokens[inside]
        if (seen > 1).any():
            t, layer, *expert = (int(i) for i in np.argwhere(seen > 1)[0])
            place = f"window {numbers[t]}, layer {self.layers[layer]}"
            place += f", expert {expert[0]}" if expert else ""
            raise FileFormatError(f"{self._path}: {place} is there twice; write one row each")
        missing = np.argwhere(~seen.any(axis=tuple(range(2, seen.ndim))))
        if missing.size:
            t, layer = missing[0]
            raise FileFormatError(
                f"{self._path}: window {numbers[t]} has no row of layer {self.layers[layer]}, and "
                "others have; write every layer of every window"
            )
        return load

    def __reduce__(self) -> tuple[Any, ...]:
        return TableWindows, (self._path, self._given)


def _expert_columns(names: list[str], path: Path) -> list[str]:
    """Return the columns of a wide table's experts, in the order of their numbers."""
    others = [name for name in names if name not in ("window", "layer")]
    numbers = {}
    for name in others:
        match = _EXPERT.fullmatch(name)
        if match is None or "layer" not in names:
            raise FileFormatError(
                f"{path}: the columns are {', '.join(names)[:120]}; use layer, expert and tokens, "
                "or layer and one column an expert (0, 1, ... or expert_0, expert_1, ...), and "
                "window in front where there are several"
            )
        numbers[int(match[1])] = name
    if len(numbers) < len(others) or sorted(numbers) != list(range(len(numbers))) or not numbers:
        missing = next((e for e in range(len(numbers)) if e not in numbers), 0)
        raise FileFormatError(
            f"{path}: of the columns of experts {missing} is missing or one is there twice; use "
            "one an expert, from 0 without gaps"
        )
    return [numbers[e] for e in range(len(numbers))]


def write_load(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace in long form, a row group for each window; zeros are written too.

    ``layer`` is the model's number where it is known, else from 0.
    """
    needed("pyarrow.parquet", "pyarrow", "parquet", "a .parquet file", instead="a .npz file")
    import pyarrow

    _, L, E = trace.windows.shape
    ids = range(L) if trace.layers is None else trace.layers.ids
    layers, experts = np.repeat(np.array(ids, np.int64), E), np.tile(np.arange(E), L)
    writer = None
    try:
        for number, window in enumerate(checked_windows(trace)):
            columns = {
                "window": np.full(L * E, number, np.int64),
                "layer": layers,
                "expert": experts,
                "tokens": window.ravel(),
            }
            table = pyarrow.table(columns)
            writer = writer or pyarrow.parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    known = trace.layers is not None and trace.layers.num_model_layers is not None
    lost = "left out, since a .parquet file has no place for it: the model's number of layers"
    return (lost,) if known else ()
