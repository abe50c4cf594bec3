"""A sweep's rows in one file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evenload.extras import needed
from evenload.io import replace_file

ENDINGS = (".parquet", ".csv", ".json")


def check_results_path(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless a sweep's rows can be written to a file of that name.

    That is .parquet, where pyarrow is installed, .csv or .json.
    """
    place = Path(path)
    if place.suffix.lower() not in ENDINGS:
        raise ValueError(
            f"{place}: a sweep is not written to files with the ending {place.suffix!r}; "
            f"use one of {', '.join(ENDINGS)}"
        )
    if place.suffix.lower() == ".parquet":
        needed(
            "pyarrow.parquet", "pyarrow", "parquet", f"{place}: Parquet",
            instead="a file ending in .csv or .json",
        )  # fmt: skip


def write_results(path: str | os.PathLike[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a sweep's rows, one a cell; the file appears whole or not at all.

    Parameters
    ----------
    path : path-like
        Ending in .parquet (needs pyarrow), .csv or .json.
    rows : sequence of dict
        As `evenload.replay.sweep` returns them.

    Raises
    ------
    ValueError
        For another ending, or .parquet without pyarrow.
    OSError
        If the file cannot be written.
    """
    check_results_path(path)
    make = {".parquet": _parquet, ".csv": _csv, ".json": _json}[Path(path).suffix.lower()]
    content = make(rows)
    with replace_file(path) as stream:
        stream.write(content)


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), target)
    return target.getvalue()


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    target = io.StringIO(newline="")
    writer = csv.DictWriter(target, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue().encode()


def _json(rows: Sequence[dict[str, Any]]) -> bytes:
    return (json.dumps(list(rows), indent=1) + "\n").encode()
