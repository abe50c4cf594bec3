"""Parquet tables of loads, in the forms that `evenload.io.table` knows.

A file whose row groups rise by window is read group by group; another is read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io.base import refusing
from evenload.io.columns import LONG, Columns, by_place, columns_of, phase_code
from evenload.io.files import check_bytes, max_bytes, most_bytes
from evenload.io.npy import checked_windows
from evenload.io.table import trace_of_table
from evenload.trace import Trace


def read_load(path: Path, num_experts: int | None, *, layout: str | None = None) -> Trace:
    """Read a load or a trace; the file is looked through once, windows are read as asked for."""
    return trace_of_table(ParquetTable(path, layout), num_experts)


class ParquetTable:
    """The row groups of a Parquet file."""

    at_once = False

    def __init__(
        self,
        path: Path,
        layout: str | None = None,
        meant: Callable[[Sequence[str]], Columns | None] = columns_of,
    ) -> None:
        self.path, self._how, self._most = path, (path, layout, meant), most_bytes()
        needed("pyarrow.parquet", "pyarrow", "parquet", "a .parquet file")
        import pyarrow

        with path.open("rb"):
            pass  # what the system has against it is told as it is
        with refusing(
            "this is not a Parquet file, or it is cut off",
            pyarrow.ArrowException,
            OSError,
            ValueError,
        ):
            self._file = pyarrow.parquet.ParquetFile(path)
        self._damaged = pyarrow.ArrowException, OSError, OverflowError
        schema, kinds = self._file.schema_arrow, pyarrow.types
        self.names = list(schema.names)
        columns = meant(self.names)
        if columns is None and layout != "long":
            raise ValueError(
                f"the columns are {', '.join(self.names)[:120]}; use layer, expert and tokens, or "
                "layer and one column an expert (0, 1, ... or expert_0, expert_1, ...), and window "
                "in front where there are several"
            )
        if columns is not None and columns.layer < 0 and meant is columns_of:
            raise ValueError("no column is the layer; add one named layer")
        if columns is not None and columns.phase is not None:
            kind = schema.field(columns.phase).type
            if kinds.is_integer(kind) or kinds.is_floating(kind):
                columns = columns.without_phase(self.names)
        self.columns = by_place(len(self.names)) if columns is None else columns
        self._phase = None if self.columns.phase is None else self.names[self.columns.phase]
        for name in (self.names[i] for i in self.columns.used):
            kind = schema.field(name).type
            if name == self._phase:
                kind = kind.value_type if kinds.is_dictionary(kind) else kind
                if not (kinds.is_string(kind) or kinds.is_large_string(kind)):
                    raise ValueError(f"column {name!r} is of type {kind}; use prefill and decode")
            elif not (kinds.is_integer(kind) or kinds.is_floating(kind)):
                raise ValueError(f"column {name!r} is of type {kind}; use numbers")
        if self._file.metadata.num_rows == 0:
            raise ValueError("the table has no rows")

    def groups(self, first: int = 0) -> Iterator[list[NDArray[Any]]]:
        """Yield the columns that are used, of one row group after the other."""
        for group in range(first, self._file.num_row_groups):
            yield self._read(group)

    def _read(self, group: int) -> list[NDArray[Any]]:
        """Return the columns of one row group, which may be too large to be read at once."""
        names = [self.names[i] for i in self.columns.used]
        size = self._file.metadata.row_group(group).num_rows * len(names)
        with max_bytes(self._most):  # may be read later, in another thread or process
            check_bytes(f"row group {group}, which smaller ones would make smaller,", 8 * size)
        values = []
        with refusing(f"row group {group} is damaged", *self._damaged):
            table = self._file.read_row_group(group, columns=names, use_threads=False)
            for name in names:
                column = table.column(name)
                if column.null_count:
                    raise ValueError(
                        f"column {name!r} has {column.null_count} empty cells in row group {group};"
                        " write 0 where there are no tokens"
                    )
                if name == self._phase:
                    kinds = column.combine_chunks().dictionary_encode()
                    names = kinds.dictionary.to_pylist()
                    codes = np.array([phase_code(name, kind) for kind in names], np.int64)
                    values.append(codes[kinds.indices.to_numpy()])
                else:
                    values.append(column.to_numpy())
        return values

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._most, *self._how)


def _reopened(most: int, *how: Any) -> ParquetTable:
    with max_bytes(most):
        return ParquetTable(*how)


def write_load(stream: BinaryIO, trace: Trace) -> tuple[str, ...]:
    """Write a trace in long form, a row group for each window; zeros are written too.

    ``layer`` is the model's number where it is known, else from 0. Where the phases are known, a
    window has rows of each phase that has tokens in it.
    """
    needed("pyarrow.parquet", "pyarrow", "parquet", "a .parquet file", instead="a .npz file")
    import pyarrow

    _, L, E = trace.shape
    ids = range(L) if trace.layers is None else trace.layers.ids
    layers, experts = np.repeat(np.array(ids, np.int64), E), np.tile(np.arange(E), L)
    writer = None
    try:
        parts = trace.phases or {"": trace}
        for number, windows in enumerate(zip(*map(checked_windows, parts.values()), strict=True)):
            by_phase = dict(zip(parts, windows, strict=True))
            there = [name for name, window in by_phase.items() if window.any()] or [*parts][:1]
            P = len(there)
            rows = {"window": np.full(P * L * E, number, np.int64)}
            if trace.phases:
                codes = pyarrow.array(np.repeat(np.arange(P, dtype=np.int32), L * E))
                rows["phase"] = pyarrow.DictionaryArray.from_arrays(codes, there).cast("string")
            tokens = np.concatenate([by_phase[name].ravel() for name in there])
            rows |= zip(LONG, (np.tile(layers, P), np.tile(experts, P), tokens), strict=True)
            table = pyarrow.table(rows)
            writer = writer or pyarrow.parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    known = trace.layers is not None and trace.layers.num_model_layers is not None
    lost = "left out, since a .parquet file has no place for it: the model's number of layers"
    return (lost,) if known else ()
