"""Finished cells of a sweep on disk, one small file each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import evenload
from evenload.io import replace_file
from evenload.replay.cell import Cell
from evenload.trace import Trace


def trace_digest(trace: Trace) -> str:
    """Return the SHA-256 of a trace's shape and windows, as 64 hex digits; reads all of it."""
    digest = hashlib.sha256("x".join(map(str, trace.shape)).encode())
    for window in trace:
        digest.update(np.ascontiguousarray(window, "<f8").tobytes())
    return digest.hexdigest()


class Store:
    """Cells that are done. A file's name says what it is the result of, and with which version.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    settings : dict
        What all cells share, in plain numbers and strings; other settings are other cells.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = {"evenload": evenload.__version__, **settings}

    def path(self, cell: Cell) -> Path:
        """Return where a cell is, or will be."""
        text = json.dumps({**self._settings, **asdict(cell)}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def has(self, cell: Cell) -> bool:
        """Whether a cell is done."""
        return self.path(cell).is_file()

    def put(self, cell: Cell, figures: dict[str, Any]) -> None:
        """Keep a cell; its file appears whole or not at all."""
        with replace_file(self.path(cell)) as stream:
            stream.write(json.dumps({**asdict(cell), **figures}, indent=1).encode())

    def get(self, cell: Cell) -> dict[str, Any]:
        """Return a cell with its figures.

        Raises
        ------
        ValueError
            If the file is no such cell.
        """
        path = self.path(cell)
        try:
            row = json.loads(path.read_text())
            same = {name: row[name] for name in asdict(cell)} == asdict(cell)
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise ValueError(f"{path}: this is no finished cell of a sweep; delete it")
        result: dict[str, Any] = row
        return result
