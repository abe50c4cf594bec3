"""SGLang's recorder in mode stat: ``logical_count`` [steps, model layers, experts]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.engines.archives.kept import used_cells, without_dense
from evenload.engines.archives.mapped_file import MappedFile
from evenload.engines.archives.tensors import Stored, stored
from evenload.engines.archives.torch_archive import load_torch
from evenload.formats.base import FileFormatError, RawTrace

COUNTS = "logical_count"
_TIME = re.compile(r"recorder_(\d+(?:\.\d+)?)")


def read_steps(files: list[Path], where: str) -> RawTrace:
    """Read the steps of one or more dumps, without rows that were never written.

    Parameters
    ----------
    files : list of Path
    where : str
        What was asked for, for messages.

    Raises
    ------
    FileFormatError
        If a file has no such counts, or they do not fit each other.
    """
    recorded = StepWindows(sorted(files, key=_time))
    used = used_cells(recorded)
    kept: list[NDArray[np.int64]] = []
    notes: list[str] = []
    start = 0
    for file, rows in zip(recorded.files, recorded.rows, strict=True):
        order, note = written_rows(np.any(used[start : start + rows], axis=1), str(file))
        kept.append(order + start)
        notes += note
        start += rows
    return without_dense(recorded, np.concatenate(kept), used, where, notes=notes)


def _time(file: Path) -> tuple[float, str]:
    found = _TIME.search(file.name)
    return (float(found[1]) if found else 0.0), file.name


def written_rows(used: NDArray[np.bool_], where: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return the rows of a ring that have tokens, oldest first, and what that had to assume.

    Parameters
    ----------
    used : bool ndarray, [steps]
    where : str
        The file's name, for the notes.
    """
    rows = np.flatnonzero(used)
    empty = used.size - rows.size
    if rows.size == 0:
        return rows, []
    if empty == 0:
        if used.size == 1:
            return rows, []
        return rows, [
            f"{where}: every one of its {used.size} rows is used; where the recording was longer, "
            "the oldest step may be in any of them, and the order of windows is the file's"
        ]
    notes = [f"{where}: {empty} of {used.size} rows are all zero and left out, as never written"]
    gaps = np.flatnonzero(np.diff(rows) > 1)
    if gaps.size == 1 and used[0] and used[-1]:
        # The recorder goes on behind its last dump, and round the end of its buffer.
        notes.append(
            f"{where}: the unused rows are in the middle, so that the recording began at row "
            f"{rows[gaps[0] + 1]} and went on at row 0; its windows are put in that order"
        )
        rows = np.roll(rows, -int(gaps[0]) - 1)
    return rows, notes


class StepWindows:
    """Rows of the counts of several dumps, one after the other.

    Parameters
    ----------
    files : list of Path
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._counts = [_counts(file) for file in files]
        for file, counts in zip(files, self._counts, strict=True):
            if counts.shape[1:] != self._counts[0].shape[1:]:
                raise FileFormatError(
                    f"{file}: {COUNTS} has shape {counts.shape}, and that of {files[0].name} "
                    f"{self._counts[0].shape}; give dumps of one model"
                )
        self.rows = [counts.shape[0] for counts in self._counts]
        self._ends = np.cumsum(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts."""
        _, L, E = self._counts[0].shape
        return int(self._ends[-1]), L, E

    def read(self, number: int) -> NDArray[Any]:
        """Return one row, [L, E]."""
        index = int(np.searchsorted(self._ends, number, "right"))
        step = number - int(self._ends[index]) + self.rows[index]
        counts = self._counts[index].row(step)
        if counts.min() < 0:
            raise FileFormatError(
                f"{self.files[index]}: {COUNTS}[{step}] has {counts.min()}; counts are 0 or more"
            )
        return counts


def _counts(path: Path) -> Stored:
    value = load_torch(path)
    file = MappedFile(path)
    counts = value.get(COUNTS) if isinstance(value, dict) else None
    if getattr(counts, "ndim", 3) == 2:
        table = stored(counts, COUNTS, file, "layers", "experts")
        return table.split(1, *table.shape)
    return stored(counts, COUNTS, file, "steps", "layers", "experts")
