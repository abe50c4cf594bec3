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
from evenload.io.base import MAX_ELEMENTS, MOST_EXPERTS, checking, refusing
from evenload.io.npy import checked_windows
from evenload.layers import ModelLayers
from evenload.trace import Trace

MOST_NUMBERS = 2**26  # of one row group: it is read at once, and may be packed far smaller
MOST_CELLS = 2**26  # layers times experts of one window
_EXPERT = re.compile(r"(?:expert_)?(0|[1-9]\d{0,5})", re.ASCII)
_LONG = ["layer", "expert", "tokens"]


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read a load or a trace; the file is looked through once, windows are read as asked for."""
    windows = TableWindows(path, num_experts)
    layers = ModelLayers(windows.layers.tolist())
    return Trace.of(windows, source=str(path), notes=windows.notes, layers=layers)


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
        self._group: tuple[int, Rows] | None = None  # that was read last
        self._whole: NDArray[np.float64] | None = None
        self._open()
        self._numbers = self.layers = np.zeros(0, np.int64)
        self._ranges: list[tuple[int, int]] = []  # first and last window of each row group
        E = 0
        for group in range(self._file.num_row_groups):
            window, layer, expert, tokens = self._read(group)
            self._ranges.append((window.min(), window.max()) if window.size else (0, -1))
            self._numbers = np.union1d(self._numbers, window)
            self.layers = np.union1d(self.layers, layer)
            here = tokens.shape[1] if expert is None else expert.max(initial=-1) + 1
            E = max(E, int(here))
        if self._long and num_experts is None:
            self.notes += (
                f"{path}: taken to have as many experts as the largest expert number + 1 = {E} "
                "(say --experts, or num_experts=, where the model has more)",
            )
        elif self._long and num_experts is not None:
            if num_experts < E:
                raise ValueError(
                    f"column 'expert' has {E - 1}, and num_experts={num_experts} was given; use "
                    f"{E} or more"
                )
            E = num_experts
        T, L = self._numbers.size, self.layers.size
        self.shape = T, L, E
        if L * E > MOST_CELLS:
            raise ValueError(
                f"{L} layers of {E} experts are more than the {MOST_CELLS} numbers of a window "
                "that are read"
            )
        filled = [(first, last) for first, last in self._ranges if first <= last]
        if any(a[1] > b[0] for a, b in pairwise(filled)):
            if T * L * E > MAX_ELEMENTS // 8:
                raise ValueError(
                    f"the rows are not sorted by window, and {T} windows of {L} x {E} are too many "
                    "to be read at once; sort the rows by window"
                )
            self._whole = self._fill(self._numbers)

    def _open(self) -> None:
        """Open the file and see which columns it has, not yet what is in them."""
        path = self._path
        needed("pyarrow.parquet", "pyarrow", "parquet", "a .parquet file")
        import pyarrow

        with path.open("rb"):
            pass  # what the system has against it is told as it is
        with refusing(
            "this is no Parquet file, or it is cut off", pyarrow.ArrowException, OSError, ValueError
        ):
            self._file = pyarrow.parquet.ParquetFile(path)
        self._damaged = pyarrow.ArrowException, OSError, OverflowError
        schema, kinds = self._file.schema_arrow, pyarrow.types
        names = list(schema.names)
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two columns are named {name!r}")
        self._long = set(_LONG) <= set(names)
        values = _LONG if self._long else ["layer", *_expert_columns(names)]
        self._columns = ["window", *values] if "window" in names else values
        left = (name for name in names if name not in self._columns)
        self.notes = tuple(f"{path}: the column {name!r} is not read" for name in left)
        for name in self._columns:
            kind = schema.field(name).type
            if not (kinds.is_integer(kind) or kinds.is_floating(kind)):
                raise ValueError(f"column {name!r} is of type {kind}; use numbers")
        if self._file.metadata.num_rows == 0:
            raise ValueError("the table has no rows")

    def _read(self, group: int) -> Rows:
        """Return the rows of one row group, which may be too large to be read at once."""
        size = self._file.metadata.row_group(group).num_rows * len(self._columns)
        if size > MOST_NUMBERS:
            raise ValueError(
                f"row group {group} has {size} numbers, more than the {MOST_NUMBERS} that are read "
                "at once; write smaller row groups"
            )
        columns = {}
        with refusing(f"row group {group} is damaged", *self._damaged):
            table = self._file.read_row_group(group, columns=self._columns, use_threads=False)
            for name in self._columns:
                column = table.column(name)
                if column.null_count:
                    raise ValueError(
                        f"column {name!r} has {column.null_count} empty cells in row group {group};"
                        " write 0 where there are no tokens"
                    )
                columns[name] = column.to_numpy()
        columns.setdefault("window", np.zeros(table.num_rows, np.int64))
        for name in ("layer", "window", "expert")[: 3 if self._long else 2]:
            numbers, most = columns[name], 2**63 - 1 if name == "window" else MOST_EXPERTS - 1
            if numbers.dtype.kind not in "iu":
                raise ValueError(f"column {name!r} has no integers; use them")
            bad = numbers[(numbers < 0) | (numbers > most)]
            if bad.size:
                raise ValueError(f"column {name!r} has {bad[0]}; use 0 to {most}")
            columns[name] = numbers.astype(np.int64)
        window, layer = columns.pop("window"), columns.pop("layer")
        if self._long:
            return Rows(window, layer, columns["expert"], columns["tokens"])
        return Rows(window, layer, None, np.stack(list(columns.values()), axis=1))

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        if self._whole is not None:
            return np.array(self._whole[number])
        with checking(str(self._path)):
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
            window, layer, expert, tokens = self._group[1]
            inside = (window >= numbers[0]) & (window <= numbers[-1])
            at = [np.searchsorted(numbers, window[inside])]
            at.append(np.searchsorted(self.layers, layer[inside]))
            if expert is not None:
                at.append(expert[inside])
            np.add.at(seen, tuple(at), 1)
            load[tuple(at)] = tokens[inside]
        for t, row, *expert in np.argwhere(seen > 1)[:1].tolist():
            place = f"window {numbers[t]}, layer {self.layers[row]}"
            place += f", expert {expert[0]}" if expert else ""
            raise ValueError(f"{place} is there twice; write one row each")
        there = seen.any(axis=2) if self._long else seen
        for t, row in np.argwhere(there == 0)[:1]:
            raise ValueError(
                f"window {numbers[t]} has no row of layer {self.layers[row]}, and others have; "
                "write every layer of every window"
            )
        return load

    def __reduce__(self) -> tuple[Any, ...]:
        return TableWindows, (self._path, self._given)


def _expert_columns(names: list[str]) -> list[str]:
    """Return the columns of a wide table's experts, in the order of their numbers."""
    others = [name for name in names if name not in ("window", "layer")]
    matches = [_EXPERT.fullmatch(name) for name in others]
    numbers = {int(match[1]): match[0] for match in matches if match is not None}
    if None in matches or "layer" not in names:
        raise ValueError(
            f"the columns are {', '.join(names)[:120]}; use layer, expert and tokens, or layer and "
            "one column an expert (0, 1, ... or expert_0, expert_1, ...), and window in front "
            "where there are several"
        )
    missing = next((e for e in range(len(others)) if e not in numbers), None)
    if missing is not None or not others:
        raise ValueError(
            f"of the columns of experts {missing or 0} is missing or one is there twice; use one "
            "an expert, from 0 without gaps"
        )
    return [numbers[e] for e in range(len(numbers))]


def write_load(stream: BinaryIO, trace: Trace) -> tuple[str, ...]:
    """Write a trace in long form, a row group for each window; zeros are written too.

    ``layer`` is the model's number where it is known, else from 0.
    """
    needed("pyarrow.parquet", "pyarrow", "parquet", "a .parquet file", instead="a .npz file")
    import pyarrow

    _, L, E = trace.shape
    ids = range(L) if trace.layers is None else trace.layers.ids
    layers, experts = np.repeat(np.array(ids, np.int64), E), np.tile(np.arange(E), L)
    writer = None
    try:
        for number, window in enumerate(checked_windows(trace)):
            rows = np.full(L * E, number, np.int64), layers, experts, window.ravel()
            table = pyarrow.table(dict(zip(("window", *_LONG), rows, strict=True)))
            writer = writer or pyarrow.parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    known = trace.layers is not None and trace.layers.num_model_layers is not None
    lost = "left out, since a .parquet file has no place for it: the model's number of layers"
    return (lost,) if known else ()
