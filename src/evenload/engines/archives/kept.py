"""Windows of a recording without its empty windows, and without layers that have no experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.formats.base import FileFormatError, RawTrace
from evenload.layers import ModelLayers
from evenload.trace import Windows


@dataclass(frozen=True, eq=False)
class KeptWindows:
    """Some windows and some layers of others.

    Parameters
    ----------
    recorded : Windows
    windows, layers : integer ndarray, [T] and [L]
        Numbers of those that are kept, in the order in which they are.
    """

    recorded: Windows
    windows: NDArray[np.int64]
    layers: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts."""
        return self.windows.size, self.layers.size, self.recorded.shape[2]

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        return self.recorded.read(int(self.windows[number]))[self.layers]


def used_cells(recorded: Windows) -> NDArray[np.bool_]:
    """Return which layers have tokens in which windows, [T, L]; every window is read once."""
    T, L, _ = recorded.shape
    used = np.empty((T, L), np.bool_)
    for t in range(T):
        used[t] = recorded.read(t).any(axis=1)
    return used


def without_dense(
    recorded: Windows,
    windows: NDArray[np.int64],
    used: NDArray[np.bool_],
    where: str,
    why: str = "never have a token",
    notes: Sequence[str] = (),
) -> RawTrace:
    """Leave out windows that are not wanted, and layers that never have a token.

    Parameters
    ----------
    recorded : Windows
        With a row for each layer of the model, dense ones too.
    windows : integer ndarray, [T]
        Windows to keep, in this order.
    used : bool ndarray, [all windows, L]
        Which layers have tokens in which windows.
    where : str
        The file's name, for messages.
    why : str
        How dense layers show, for the note.
    notes : sequence of str
        What was assumed before; comes before what is said here.

    Raises
    ------
    FileFormatError
        If nothing is left.
    """
    L = used.shape[1]
    layers = np.flatnonzero(used.any(axis=0))
    if windows.size == 0 or layers.size == 0:
        raise FileFormatError(
            f"{where}: no token was counted in {used.shape[0]} windows; record while the engine "
            "serves"
        )
    notes = tuple(notes)
    if layers.size < L:
        dense = np.flatnonzero(~used.any(axis=0)).tolist()
        named = ", ".join(map(str, dense[:5])) + (", ..." if len(dense) > 5 else "")
        notes += (
            f"{where}: {len(dense)} of the model's {L} layers {why} and are left out as dense "
            f"ones: {named}",
        )
    model = ModelLayers(layers.tolist(), L)
    return RawTrace(KeptWindows(recorded, windows, layers), notes, model)
