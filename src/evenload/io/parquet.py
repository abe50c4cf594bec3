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
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io.arrays import checked_windows
from evenload.io.base import MAX_ELEMENTS, MOST_EXPERTS, FileFormatError, RawTrace
from evenload.io.files import briefly
from evenload.layers import ModelLayers

MOST_NUMBERS = 2**26  # of one row group: it is read at once, and may be packed far smaller
MOST_CELLS = 2**26  # layers times experts of one window
_EXPERT = re.compile(r"(?:expert_)?(0|[1-9]\d{0,5})", re.ASCII)
_LONG = ("layer", "expert", "tokens")


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load or a trace; the file is looked through once, windows are read as asked for.

    Parameters
    ----------
    path : Path
    num_experts : int or None
        Experts E of the model, for the long form, whose last experts may have no rows. None takes
        the largest number + 1.

    Raises
    ------
    FileFormatError
        If pyarrow is not installed, the file is damaged, its columns are not these, or a row is
        missing or there twice.
    """
    windows = TableWindows(path, num_experts)
    return RawTrace(windows, windows.notes, ModelLayers(windows.layers.tolist()))


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table.

    Parameters
    ----------
    window, layer : int64 ndarray, [rows]
    expert : int64 ndarray, [rows], or None
        In long form.
    tokens : ndarray, [rows] or, in wide form, [rows, E]
    """

    window: NDArray[np.int64]
    layer: NDArray[np.int64]
    expert: NDArray[np.int64] | None
    tokens: NDArray[Any]

    def take(self, rows: NDArray[Any]) -> Rows:
        """Return some of them."""
        expert = None if self.expert is None else self.expert[rows]
        return Rows(self.window[rows], self.layer[rows], expert, self.tokens[rows])

    def by_window(self) -> list[Rows]:
        """Return those of each window, in rising order of the windows."""
        order = np.argsort(self.window, kind="stable")
        cuts = np.flatnonzero(np.diff(self.window[order])) + 1
        return [self.take(part) for part in np.split(order, cuts) if part.size]


class Table:
    """A Parquet file whose columns are those of a long or wide table, read by row group."""

    def __init__(self, path: Path) -> None:
        what = f"{path}: a .parquet file"
        needed("pyarrow.parquet", "pyarrow", "parquet", what, error=FileFormatError)
        import pyarrow

        self.path, self._arrow = path, pyarrow
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise FileFormatError(
                f"{path}: this is no Parquet file, or it is cut off ({briefly(error)})"
            ) from None
        self._check_columns(list(self._file.schema_arrow.names))
        self.num_groups: int = self._file.num_row_groups
        if self._file.metadata.num_rows == 0:
            raise FileFormatError(f"{path}: the table has no rows")

    def _check_columns(self, names: list[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise FileFormatError(f"{self.path}: two columns are named {name!r}")
        self._window = ["window"] if "window" in names else []
        self.long = set(_LONG) <= set(names)
        experts = [] if self.long else _expert_columns(names, self.path)
        self.num_experts = len(experts)
        self._columns = [*self._window, *(_LONG if self.long else ["layer", *experts])]
        left = [name for name in names if name not in self._columns]
        self.notes = tuple(f"{self.path}: the column {name!r} is not read" for name in left)
        kinds = self._arrow.types
        for name in self._columns:
            kind = self._file.schema_arrow.field(name).type
            if not (kinds.is_integer(kind) or kinds.is_floating(kind)):
                raise FileFormatError(
                    f"{self.path}: column {name!r} is of type {kind}; use numbers"
                )

    def read(self, group: int) -> Rows:
        """Return the rows of one row group.

        Raises
        ------
        FileFormatError
            If it is too large to be read at once, damaged, or lacks a value somewhere.
        """
        size = self._file.metadata.row_group(group).num_rows * len(self._columns)
        if size > MOST_NUMBERS:
            raise FileFormatError(
                f"{self.path}: row group {group} has {size} numbers, more than the {MOST_NUMBERS} "
                "that are read at once; write smaller row groups"
            )
        try:
            table = self._file.read_row_group(group, columns=self._columns, use_threads=False)
            columns = [self._numbers(table.column(name), name, group) for name in self._columns]
        except (self._arrow.ArrowException, OSError, OverflowError) as error:
            raise FileFormatError(
                f"{self.path}: row group {group} is damaged ({briefly(error)})"
            ) from None
        window = columns.pop(0) if self._window else np.zeros(len(columns[0]), np.int64)
        window, layer = self._key(window, "window"), self._key(columns.pop(0), "layer")
        if self.long:
            return Rows(window, layer, self._key(columns[0], "expert"), columns[1])
        return Rows(window, layer, None, np.stack(columns, axis=1))

    def _numbers(self, column: Any, name: str, group: int) -> NDArray[Any]:
        if column.null_count:
            raise FileFormatError(
                f"{self.path}: column {name!r} has {column.null_count} empty cells in row group "
                f"{group}; write 0 where there are no tokens"
            )
        numbers: NDArray[Any] = column.to_numpy()
        return numbers

    def _key(self, numbers: NDArray[Any], name: str) -> NDArray[np.int64]:
        most = MOST_EXPERTS - 1 if name != "window" else 2**63 - 1
        if numbers.dtype.kind not in "iu":
            raise FileFormatError(f"{self.path}: column {name!r} has no integers; use them")
        if numbers.size and (numbers.min() < 0 or numbers.max() > most):
            bad = numbers.min() if numbers.min() < 0 else numbers.max()
            raise FileFormatError(f"{self.path}: column {name!r} has {bad}; use 0 to {most}")
        return numbers.astype(np.int64)


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


class TableWindows:
    """Windows of a table, which are read as they are asked for where row groups rise by window.

    Parameters
    ----------
    path : Path
    num_experts : int or None
        Experts E, for the long form; None takes the largest number + 1.

    Raises
    ------
    FileFormatError
        If the table is damaged, a layer is missing in a window, or a row is there twice.
    """

    def __init__(self, path: Path, num_experts: int | None) -> None:
        self._table, self._given = Table(path), num_experts
        self._path, self.notes = path, self._table.notes
        most_expert = self._scan()
        self._experts = self._count_experts(most_expert + 1)
        self._group: tuple[int, Rows] | None = None
        if self.layers.size * self._experts > MOST_CELLS:
            raise FileFormatError(
                f"{path}: {self.layers.size} layers of {self._experts} experts are more than the "
                f"{MOST_CELLS} numbers of a window that are read"
            )
        filled = [(first, last) for first, last in self._ranges if first <= last]
        rises = all(a[1] <= b[0] for a, b in pairwise(filled))
        self._whole = None if rises else self._read_whole()

    def _scan(self) -> int:
        """Look through the table for its windows and layers; return the largest expert number."""
        self._numbers, self.layers = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._ranges: list[tuple[int, int]] = []
        most = -1
        for group in range(self._table.num_groups):
            rows = self._table.read(group)
            if rows.window.size == 0:
                self._ranges.append((0, -1))
                continue
            self._numbers = np.union1d(self._numbers, rows.window)
            self.layers = np.union1d(self.layers, rows.layer)
            self._ranges.append((int(rows.window.min()), int(rows.window.max())))
            if rows.expert is not None:
                most = max(most, int(rows.expert.max()))
        return most

    def _count_experts(self, found: int) -> int:
        if not self._table.long:
            return self._table.num_experts
        if self._given is None:
            self.notes += (
                f"{self._path}: taken to have as many experts as the largest expert number + "
                f"1 = {found} (say --experts, or num_experts=, where the model has more)",
            )
            return found
        if found > self._given:
            raise FileFormatError(
                f"{self._path}: column 'expert' has {found - 1}, and num_experts="
                f"{self._given} was given; use {found} or more"
            )
        return self._given

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts."""
        return self._numbers.size, self.layers.size, self._experts

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        if self._whole is not None:
            return np.array(self._whole[number])
        window = int(self._numbers[number])
        load, seen = np.zeros(self.shape[1:]), np.zeros(self.shape[1:], np.bool_)
        for group, (first, last) in enumerate(self._ranges):
            if first <= window <= last:
                if self._group is None or self._group[0] != group:
                    self._group = group, self._table.read(group)
                rows = self._group[1]
                self._put(load, seen, rows.take(rows.window == window), window)
        self._check_layers(seen, window)
        return load

    def _put(
        self, load: NDArray[np.float64], seen: NDArray[np.bool_], rows: Rows, window: int
    ) -> None:
        """Put rows of one window where they belong; each cell once."""
        layer = np.searchsorted(self.layers, rows.layer)
        at = (layer,) if rows.expert is None else (layer, rows.expert)
        counts = np.zeros(load.shape[: len(at)], np.int64)
        np.add.at(counts, at, 1)
        twice = (counts + seen[..., 0] if rows.expert is None else counts + seen) > 1
        if twice.any():
            place = [int(i) for i in np.argwhere(twice)[0]]
            expert = f", expert {place[1]}" if len(place) > 1 else ""
            raise FileFormatError(
                f"{self._path}: window {window}, layer {self.layers[place[0]]}{expert} is "
                "there twice; write one row each"
            )
        load[at] = rows.tokens
        seen[at] = True

    def _check_layers(self, seen: NDArray[np.bool_], window: int) -> None:
        missing = np.flatnonzero(~seen.any(axis=1))
        if missing.size:
            raise FileFormatError(
                f"{self._path}: window {window} has no row of layer "
                f"{self.layers[missing[0]]}, and others have; write every layer of every window"
            )

    def _read_whole(self) -> NDArray[np.float64]:
        T, L, E = self.shape
        if T * L * E > MAX_ELEMENTS // 8:
            raise FileFormatError(
                f"{self._path}: the rows are not sorted by window, and {T} windows of {L} x "
                f"{E} are too many to be read at once; sort the rows by window"
            )
        load, seen = np.zeros((T, L, E)), np.zeros((T, L, E), np.bool_)
        for group in range(self._table.num_groups):
            for rows in self._table.read(group).by_window():
                window = int(rows.window[0])
                t = int(np.searchsorted(self._numbers, window))
                self._put(load[t], seen[t], rows, window)
        for t, window in enumerate(self._numbers.tolist()):
            self._check_layers(seen[t], window)
        return load

    def __reduce__(self) -> tuple[Any, ...]:
        return TableWindows, (self._path, self._given)


def write_load(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace in long form, a row group for each window; zeros are written too.

    ``layer`` is the model's number where it is known, else from 0.

    Raises
    ------
    ValueError
        If pyarrow is not installed, or a number is not finite and >= 0.
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
