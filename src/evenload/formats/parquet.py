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

from pathlib import Path

from evenload.formats.base import Format, RawTrace
from evenload.formats.parquet_table import Table
from evenload.formats.parquet_windows import TableWindows
from evenload.formats.write_parquet import write_load
from evenload.layers import ModelLayers


def read_trace(path: Path, num_experts: int | None) -> RawTrace:
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
    windows = TableWindows(Table(path), num_experts)
    return RawTrace(windows, windows.notes, ModelLayers(windows.layers))


FORMAT = Format(
    name="parquet",
    suffixes=(".parquet",),
    summary="a table with the columns window (or not), layer, expert and tokens, or window, layer "
    "and one column an expert",
    read_trace=read_trace,
    write_load=write_load,
    written_to=(".parquet",),
)
