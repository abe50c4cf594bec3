"""Tables of loads, whatever file they lie in: from rows to windows.

`evenload.io.columns` says what names mean. From it follow two forms:

**Long**: a row for each (window, layer, expert). The window may be left out. An expert without a
row had no tokens; a layer without any row in a window is a gap, and an error, since nobody can tell
it from a layer whose rows were lost.

**Wide**: a row for each (window, layer): columns for the window (may be left out) and the layer,
and one for each expert, ``0``, ``1``, ... or ``expert_0``, ``expert_1``, ...

Either may have a column for the phase, prefill or decode. A window need not have all phases, but
every layer of those that it has.

Windows are those that there are, in rising order of their numbers. Layers are the model's own
numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import MOST_EXPERTS, check_array, checking
from evenload.io.columns import LONG, Columns, by_place, meaning_of
from evenload.io.files import check_bytes, most_bytes
from evenload.layers import ModelLayers
from evenload.trace import PHASES, Trace


class Rows(NamedTuple):
    """Rows of a table; `expert` in long form alone, `tokens` [rows] there, [rows, E] in wide.

    `phase` is its number in `PHASES`, 0 in a table without phases.
    """

    window: NDArray[np.int64]
    layer: NDArray[np.int64]
    expert: NDArray[np.int64] | None
    tokens: NDArray[Any]
    phase: NDArray[np.int64]


class Table(Protocol):
    """Rows in a file, a group of them at a time."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def names(self) -> Sequence[str]:
        """Names of all columns."""

    @property
    def columns(self) -> Columns:
        """What they mean."""

    @property
    def at_once(self) -> bool:
        """Whether it is better read in order, once."""

    def groups(self, first: int = 0) -> Iterator[list[NDArray[Any]]]:
        """Yield the columns that are used, of one group after the other."""


def _rows_of(table: Table, values: list[NDArray[Any]]) -> Rows:
    """Check the columns of a group."""
    columns = table.columns
    whole = []
    for place, numbers in zip(columns.indices, values, strict=False):
        name = table.names[place]
        most = 2**63 - 1 if place == columns.window else MOST_EXPERTS - 1
        if numbers.dtype.kind not in "iu":
            with np.errstate(invalid="ignore"):
                bad = numbers[(numbers != np.floor(numbers)) | (np.abs(numbers) > 2**53)]
            if numbers.dtype.kind != "f" or bad.size:
                shown = f"{bad[0]:g}, no whole number" if bad.size else "no whole numbers"
                raise ValueError(f"column {name!r} has {shown}; use 0 to {most}")
        bad = numbers[(numbers < 0) | (numbers > most)]
        if bad.size:
            raise ValueError(f"column {name!r} has {bad[0]:.0f}; use 0 to {most}")
        whole.append(numbers.astype(np.int64))
    if columns.window is None:
        whole.insert(0, np.zeros(whole[0].size, np.int64))
    tokens = values[len(columns.indices) :]
    phase = np.zeros(whole[0].size, np.int64)
    if columns.phase is not None:
        phase = np.asarray(tokens.pop(), np.int64)
    if columns.expert is None:
        return Rows(whole[0], whole[1], None, np.stack(tokens, axis=1), phase)
    return Rows(whole[0], whole[1], whole[2], tokens[0], phase)


def trace_of_table(table: Table, num_experts: int | None, notes: Iterable[str] = ()) -> Trace:
    """Return the trace of a table that is looked through once; windows are read as asked for."""
    with checking(str(table.path)):
        windows = TableWindows(table, num_experts)
    layers = ModelLayers(windows.layers.tolist())
    over_time = table.columns.window is not None
    notes = (*notes, *windows.notes)
    about: dict[str, Any] = {"source": str(table.path), "layers": layers, "over_time": over_time}
    if table.columns.phase is None:
        return Trace.of(windows, notes=notes, **about)
    with checking(str(table.path)):
        parts = {PHASES[p]: Trace.of(windows.of_phase(p), **about) for p in windows.phases}
    return Trace.of_phases(parts, notes=notes, **about)


def trace_of_rows(array: NDArray[Any], path: Path, num_experts: int | None) -> Trace:
    """Return the trace of an array whose rows are layer, expert and tokens, or window in front."""
    if array.ndim != 2:
        raise ValueError(
            f"the array has shape {list(array.shape)}; a long table has rows of layer, expert, "
            "tokens, or window, layer, expert, tokens"
        )
    columns = by_place(array.shape[1])
    names = ["window", *LONG][-array.shape[1] :]
    notes = (f"{path}: its columns are taken as {', '.join(names)}",)
    return trace_of_table(MemoryTable(path, names, columns, array.T), num_experts, notes)


@dataclass(frozen=True)
class _Span:
    """What windows a group of rows has: the first and the last of their numbers."""

    first: int
    last: int


class TableWindows:
    """Windows of a table, which are read as they are asked for where groups rise by window.

    Those of one phase; all of them have the layers of the table, and each window that it has.
    """

    def __init__(self, table: Table, num_experts: int | None) -> None:
        self._table, self._long = table, table.columns.expert is not None
        self._group: tuple[int, Rows] | None = None  # that was read last
        self._whole: NDArray[np.float64] | None = None
        self._phase = 0  # that is read, a number in `PHASES`
        self.phases: list[int] = []  # that there are
        self._numbers = self.layers = np.zeros(0, np.int64)
        self._spans: list[_Span] = []
        path, E = table.path, 0
        self.notes = tuple(f"{path}: the column {n!r} is not read" for n in table.columns.left)
        for values in table.groups():
            window, layer, expert, tokens, phase = _rows_of(table, values)
            self.phases = sorted({*self.phases, *np.unique(phase).tolist()})
            some = window.size > 0
            span = _Span(int(window.min()), int(window.max())) if some else _Span(0, -1)
            self._spans.append(span)
            self._numbers = np.union1d(self._numbers, window)
            self.layers = np.union1d(self.layers, layer)
            here = tokens.shape[1] if expert is None else expert.max(initial=-1) + 1
            E = max(E, int(here))
        if not self.layers.size:
            raise ValueError("the table has no rows")
        self.shape = self._numbers.size, self.layers.size, self._experts(E, num_experts)
        T, L, E = self.shape
        check_array((L, E))
        filled = [span for span in self._spans if span.first <= span.last]
        mixed = any(a.last > b.first for a, b in pairwise(filled))
        size = 8 * T * L * E
        if mixed:
            check_bytes(
                f"an array of shape {self.shape}, to be read at once unless rows are sorted by "
                "window,",
                size,
            )
        self._at_once = mixed or (table.at_once and size <= most_bytes())
        if self._at_once and table.columns.phase is None:
            self._whole = self._fill(self._numbers)

    def of_phase(self, phase: int) -> TableWindows:
        """Return the windows of one phase; empty ones where it has no row."""
        part = copy.copy(self)
        part._phase = phase
        if self._at_once:
            part._whole = part._fill(self._numbers)
        return part

    def _experts(self, found: int, given: int | None) -> int:
        if not self._long:
            return found
        if given is None:
            self.notes += (
                f"{self._table.path}: taken to have as many experts as the largest expert number + "
                f"1 = {found} (say --experts, or num_experts=, where the model has more)",
            )
            return found
        if given < found:
            raise ValueError(
                f"column 'expert' has {found - 1}, and num_experts={given} was given; use {found} "
                "or more"
            )
        return given

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        if self._whole is not None:
            return np.array(self._whole[number])
        with checking(str(self._table.path)):
            window: NDArray[Any] = self._fill(self._numbers[number : number + 1])[0]
        return window

    def _wanted(self, low: int, high: int) -> Iterator[Rows]:
        """Yield the groups that have rows of these windows; the last one read is kept."""
        at = [g for g, s in enumerate(self._spans) if s.first <= high and s.last >= low]
        if at and self._group is not None and self._group[0] == at[0]:
            yield self._group[1]
            at = at[1:]
        if at:
            wanted = set(at)
            for group, values in enumerate(self._table.groups(at[0]), at[0]):
                if group in wanted:
                    self._group = group, _rows_of(self._table, values)
                    yield self._group[1]
                if group >= at[-1]:
                    return

    def _fill(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return windows that follow each other, by their numbers in the file: [windows, L, E]."""
        load = np.zeros((numbers.size, *self.shape[1:]))
        seen = np.zeros(load.shape if self._long else load.shape[:2], np.uint8)
        for window, layer, expert, tokens, phase in self._wanted(int(numbers[0]), int(numbers[-1])):
            inside = (window >= numbers[0]) & (window <= numbers[-1]) & (phase == self._phase)
            at = [np.searchsorted(numbers, window[inside])]
            at.append(np.searchsorted(self.layers, layer[inside]))
            if expert is not None:
                at.append(expert[inside])
            cells = np.ravel_multi_index(tuple(at), seen.shape)
            unique, first = np.unique(cells, return_index=True)
            twice = seen.ravel()[unique] > 0
            if unique.size < cells.size or twice.any():
                again = np.setdiff1d(np.arange(cells.size), first)
                self._refuse_twice(unique[twice][0] if twice.any() else cells[again[0]], numbers)
            seen.reshape(-1)[unique] = 1
            load[tuple(at)] = tokens[inside]
        there = np.asarray(seen.any(axis=2) if self._long else seen > 0)
        if self._table.columns.phase is not None:
            there = there | ~there.any(axis=1, keepdims=True)
        for t, row in np.argwhere(~there)[:1]:
            raise ValueError(
                f"window {numbers[t]} has no row of layer {self.layers[row]}, and others have; "
                "write every layer of every window"
            )
        return load

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": None}

    def _refuse_twice(self, cell: Any, numbers: NDArray[np.int64]) -> None:
        shape = (numbers.size, *self.shape[1 : 3 if self._long else 2])
        t, row, *expert = np.unravel_index(cell, shape)
        columns, use = self._table.columns, "write one row each"
        place = f"window {numbers[t]}, layer {self.layers[row]}"
        place += f", expert {expert[0]}" if expert else ""
        if columns.left and columns.window is None:
            use += (
                f", or rename the column {columns.left[0]!r} to window if it tells them apart: "
                "each of its numbers is then a window"
            )
        if meaning_of(next(iter(columns.left[-1:]), None)) == "phase":
            use = f"write {' and '.join(PHASES)} in the column {columns.left[-1]!r}, not numbers"
        raise ValueError(f"{place} is there twice; {use}")


@dataclass(frozen=True, eq=False)
class MemoryTable:
    """A table that was read at once, one group of its columns, which are used all."""

    path: Path
    names: Sequence[str]
    columns: Columns
    values: Sequence[NDArray[Any]] | NDArray[Any]
    at_once: bool = True

    def groups(self, first: int = 0) -> Iterator[list[NDArray[Any]]]:
        """Yield the columns."""
        yield [self.values[i] for i in self.columns.used]
