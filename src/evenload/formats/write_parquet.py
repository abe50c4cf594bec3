"""Loads written as Parquet in long form: a row for each window, layer and expert.

Columns ``window``, ``layer`` (the model's number where it is known, else from 0), ``expert`` and
``tokens``. Zeros are written too, so that nothing has to be guessed when it is read.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.formats.base import RawTrace
from evenload.formats.write_arrays import checked_windows


def _table(pyarrow: Any, window: NDArray[Any], number: int, layers: NDArray[np.int64]) -> Any:
    L, E = window.shape
    columns = {
        "window": np.full(L * E, number, np.int64),
        "layer": np.repeat(layers, E),
        "expert": np.tile(np.arange(E, dtype=np.int64), L),
        "tokens": window.ravel(),
    }
    return pyarrow.table(columns)


def write_load(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace, a row group for each window.

    Raises
    ------
    ValueError
        If pyarrow is not installed, or a number is not finite and >= 0.
    """
    needed("pyarrow.parquet", "pyarrow", "parquet", "a .parquet file", instead="a .npz file")
    import pyarrow

    ids = range(trace.windows.shape[1]) if trace.layers is None else trace.layers.ids
    layers, writer = np.array(ids, np.int64), None
    try:
        for number, window in enumerate(checked_windows(trace)):
            table = _table(pyarrow, window, number, layers)
            writer = writer or pyarrow.parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    known = trace.layers is not None and trace.layers.num_model_layers is not None
    lost = "left out, since a .parquet file has no place for it: the model's number of layers"
    return (lost,) if known else ()
