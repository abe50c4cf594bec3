"""Windows of a Parquet table of loads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.formats.base import MAX_ELEMENTS, FileFormatError
from evenload.formats.parquet_table import Rows, Table

MOST_CELLS = 2**26  # layers times experts of one window


class TableWindows:
    """Windows of a table, which are read as they are asked for where row groups rise by window.

    Parameters
    ----------
    table : Table
    num_experts : int or None
        Experts E, for the long form; None takes the largest number + 1.

    Raises
    ------
    FileFormatError
        If the table is damaged, a layer is missing in a window, or a row is there twice.
    """

    def __init__(self, table: Table, num_experts: int | None) -> None:
        self._table, self._given = table, num_experts
        self.notes = table.notes
        scan = _Scan(table)
        self.layers = scan.layers.tolist()
        self._numbers, self._ranges = scan.windows, scan.ranges
        self._layers = scan.layers
        self._experts = self._count_experts(scan)
        self._group: tuple[int, Rows] | None = None
        if len(self._layers) * self._experts > MOST_CELLS:
            raise FileFormatError(
                f"{table.path}: {len(self._layers)} layers of {self._experts} experts are more "
                f"than the {MOST_CELLS} numbers of a window that are read"
            )
        self._whole = None if scan.rises else self._read_whole()

    def _count_experts(self, scan: _Scan) -> int:
        if not self._table.long:
            return len(self._table.experts)
        found = scan.most_expert + 1
        if self._given is None:
            self.notes += (
                f"{self._table.path}: taken to have as many experts as the largest expert number + "
                f"1 = {found} (say --experts, or num_experts=, where the model has more)",
            )
            return found
        if found > self._given:
            raise FileFormatError(
                f"{self._table.path}: column 'expert' has {found - 1}, and num_experts="
                f"{self._given} was given; use {found} or more"
            )
        return self._given

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts."""
        return len(self._numbers), len(self._layers), self._experts

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        if self._whole is not None:
            return np.array(self._whole[number])
        window = int(self._numbers[number])
        load = np.zeros(self.shape[1:])
        seen = np.zeros(self.shape[1:], np.bool_)
        for group, (first, last) in enumerate(self._ranges):
            if first <= window <= last:
                rows = self._rows(group)
                self._put(load, seen, rows.of(window), window)
        self._check_layers(seen, window)
        return load

    def _rows(self, group: int) -> Rows:
        if self._group is None or self._group[0] != group:
            self._group = group, self._table.read(group)
        return self._group[1]

    def _put(
        self, load: NDArray[np.float64], seen: NDArray[np.bool_], rows: Rows, window: int
    ) -> None:
        """Put rows of one window where they belong; each cell once."""
        layer = np.searchsorted(self._layers, rows.layer)
        at = (layer,) if rows.expert is None else (layer, rows.expert)
        counts = np.zeros(load.shape[: len(at)], np.int64)
        np.add.at(counts, at, 1)
        twice = (counts + seen[..., 0] if rows.expert is None else counts + seen) > 1
        if twice.any():
            place = [int(i) for i in np.argwhere(twice)[0]]
            expert = f", expert {place[1]}" if len(place) > 1 else ""
            raise FileFormatError(
                f"{self._table.path}: window {window}, layer {self.layers[place[0]]}{expert} is "
                "there twice; write one row each"
            )
        load[at] = rows.tokens
        seen[at] = True

    def _check_layers(self, seen: NDArray[np.bool_], window: int) -> None:
        missing = np.flatnonzero(~seen.any(axis=1))
        if missing.size:
            raise FileFormatError(
                f"{self._table.path}: window {window} has no row of layer "
                f"{self.layers[missing[0]]}, and others have; write every layer of every window"
            )

    def _read_whole(self) -> NDArray[np.float64]:
        T, L, E = self.shape
        if T * L * E > MAX_ELEMENTS // 8:
            raise FileFormatError(
                f"{self._table.path}: the rows are not sorted by window, and {T} windows of {L} x "
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
        return _reopen, (self._table.path, self._given)


def _reopen(path: Path, num_experts: int | None) -> TableWindows:
    return TableWindows(Table(path), num_experts)


class _Scan:
    """One look through a table: its windows, layers and experts, and whether row groups rise."""

    def __init__(self, table: Table) -> None:
        windows, layers = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.most_expert = -1
        self.ranges: list[tuple[int, int]] = []
        for group in range(table.num_groups):
            rows = table.read(group)
            if rows.window.size == 0:
                self.ranges.append((0, -1))
                continue
            windows = np.union1d(windows, rows.window)
            layers = np.union1d(layers, rows.layer)
            self.ranges.append((int(rows.window.min()), int(rows.window.max())))
            if rows.expert is not None:
                self.most_expert = max(self.most_expert, int(rows.expert.max()))
        self.windows, self.layers = windows, layers
        filled = [r for r in self.ranges if r[0] <= r[1]]
        self.rises = all(a[1] <= b[0] for a, b in pairwise(filled))
