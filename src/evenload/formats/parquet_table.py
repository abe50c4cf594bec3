"""The columns of a Parquet file of loads, read a row group at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.formats.base import FileFormatError
from evenload.formats.damage import briefly
from evenload.formats.topk import MOST_EXPERTS

MOST_NUMBERS = 2**26  # of one row group: it is read at once, and may be packed far smaller
_EXPERT = re.compile(r"(?:expert_)?(0|[1-9]\d{0,5})", re.ASCII)
_LONG = ("layer", "expert", "tokens")


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

    def of(self, window: int) -> Rows:
        """Return those of one window."""
        return self._take(self.window == window)

    def by_window(self) -> list[Rows]:
        """Return those of each window, in rising order of the windows."""
        order = np.argsort(self.window, kind="stable")
        cuts = np.flatnonzero(np.diff(self.window[order])) + 1
        return [self._take(part) for part in np.split(order, cuts)]

    def _take(self, rows: NDArray[Any]) -> Rows:
        expert = None if self.expert is None else self.expert[rows]
        return Rows(self.window[rows], self.layer[rows], expert, self.tokens[rows])


class Table:
    """A Parquet file whose columns are those of a long or wide table.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileFormatError
        If pyarrow is not installed, or the file is damaged or has other columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        schema = self._file.schema_arrow
        self._check_names(list(schema.names))
        for name in self._columns:
            _check_type(schema.field(name).type, name, path)
        self.num_groups: int = self._file.num_row_groups
        if sum(self._rows_of(g) for g in range(self.num_groups)) == 0:
            raise FileFormatError(f"{path}: the table has no rows")

    def _check_names(self, names: list[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise FileFormatError(f"{self.path}: two columns are named {name!r}")
        self._window = ["window"] if "window" in names else []
        others = [n for n in names if n not in ("window", "layer")]
        self.long = set(_LONG) <= set(names)
        if self.long:
            self._columns = [*self._window, *_LONG]
            left = [n for n in names if n not in self._columns]
        else:
            self.experts = _expert_columns(names, others, self.path)
            self._columns = [*self._window, "layer", *self.experts]
            left = []
        self.notes = tuple(f"{self.path}: the column {n!r} is not read" for n in left)

    def _rows_of(self, group: int) -> int:
        return int(self._file.metadata.row_group(group).num_rows)

    def read(self, group: int) -> Rows:
        """Return the rows of one row group.

        Raises
        ------
        FileFormatError
            If it is too large to be read at once, damaged, or lacks a value somewhere.
        """
        size = self._rows_of(group) * len(self._columns)
        if size > MOST_NUMBERS:
            raise FileFormatError(
                f"{self.path}: row group {group} has {size} numbers, more than the {MOST_NUMBERS} "
                "that are read at once; write smaller row groups"
            )
        arrow = _arrow(self.path)
        try:
            table = self._file.read_row_group(group, columns=self._columns, use_threads=False)
            columns = [self._numbers(table.column(name), name, group) for name in self._columns]
        except (arrow.ArrowException, OSError, OverflowError) as error:
            raise FileFormatError(
                f"{self.path}: row group {group} is damaged ({briefly(error)})"
            ) from None
        return self._split(columns)

    def _numbers(self, column: Any, name: str, group: int) -> NDArray[Any]:
        if column.null_count:
            raise FileFormatError(
                f"{self.path}: column {name!r} has {column.null_count} empty cells in row group "
                f"{group}; write 0 where there are no tokens"
            )
        numbers: NDArray[Any] = column.to_numpy()
        return numbers

    def _split(self, columns: list[NDArray[Any]]) -> Rows:
        rows = len(columns[0])
        window = columns.pop(0) if self._window else np.zeros(rows, np.int64)
        window, layer = self._key(window, "window"), self._key(columns.pop(0), "layer")
        if self.long:
            return Rows(window, layer, self._key(columns[0], "expert"), columns[1])
        return Rows(window, layer, None, np.stack(columns, axis=1))

    def _key(self, numbers: NDArray[Any], name: str) -> NDArray[np.int64]:
        most = MOST_EXPERTS - 1 if name != "window" else 2**63 - 1
        if numbers.dtype.kind not in "iu":
            raise FileFormatError(f"{self.path}: column {name!r} has no integers; use them")
        if numbers.size and (numbers.min() < 0 or numbers.max() > most):
            bad = numbers.min() if numbers.min() < 0 else numbers.max()
            raise FileFormatError(f"{self.path}: column {name!r} has {bad}; use 0 to {most}")
        return numbers.astype(np.int64)


def _arrow(path: Path) -> Any:
    what = f"{path}: a .parquet file"
    needed("pyarrow.parquet", "pyarrow", "parquet", what, error=FileFormatError)
    import pyarrow

    return pyarrow


def _open(path: Path) -> Any:
    arrow = _arrow(path)
    try:
        return arrow.parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FileFormatError(
            f"{path}: this is no Parquet file, or it is cut off ({briefly(error)})"
        ) from None


def _check_type(kind: Any, name: str, path: Path) -> None:
    from pyarrow import types

    if not (types.is_integer(kind) or types.is_floating(kind)):
        raise FileFormatError(f"{path}: column {name!r} is of type {kind}; use numbers")


def _expert_columns(names: list[str], others: list[str], path: Path) -> list[str]:
    """Return the columns of a wide table's experts, in the order of their numbers."""
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
