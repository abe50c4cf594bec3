"""From what engines record to loads: routed experts counted, layers without experts left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import first_bad
from evenload.io.base import MOST_EXPERTS, FileFormatError, RawTrace
from evenload.layers import ModelLayers
from evenload.trace import Windows


def check_routed(topk: NDArray[Any], where: str, name: str = "topk") -> None:
    """Raise `FileFormatError` unless `topk` has the shape and dtype of routed experts."""
    if topk.ndim != 3 or topk.size == 0:
        raise FileFormatError(
            f"{where}: {name} has shape {topk.shape}; use [tokens, layers, k], at least 1 of each"
        )
    if topk.dtype.kind not in "iu":
        raise FileFormatError(f"{where}: {name} has dtype {topk.dtype}; use an integer dtype")


def taken_experts(where: str, found: int) -> str:
    """Return the note that the number of experts was taken from the numbers that are there."""
    return (
        f"{where}: the number of experts is not in the file; taken as the largest expert number + "
        f"1 = {found}"
    )


def experts_note(where: str, found: int) -> str:
    """Return `taken_experts`, with what to say where the model has experts that nobody used."""
    more = "(say --experts, or num_experts=, where the model has more)"
    return f"{taken_experts(where, found)} {more}"


def count_topk(
    topk: NDArray[Any], num_experts: int | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Count the tokens of each expert, int64 [L, E], from the experts of each [tokens, L, k].

    Without `num_experts` the largest number + 1 is taken, which is said in a note. An expert
    outside 0 to E - 1 is a `FileFormatError`.
    """
    check_routed(topk, where)
    found = int(topk.max()) + 1
    notes = () if num_experts is not None else (experts_note(where, found),)
    experts = found if num_experts is None else num_experts
    if num_experts is None and found > MOST_EXPERTS:
        raise FileFormatError(
            f"{where}: topk has expert {found - 1}, and no model has more than {MOST_EXPERTS}"
        )
    outside = (topk < 0) | (topk >= experts)
    if outside.any():
        raise FileFormatError(
            f"{where}: topk{first_bad(topk, outside)} is no expert; use 0 to {experts - 1}"
        )
    layers = range(topk.shape[1])
    counts = [np.bincount(topk[:, i].ravel().astype(np.int64), minlength=experts) for i in layers]
    return np.stack(counts).astype(np.int64), notes


class KeptWindows:
    """Some windows and some layers of others, by their numbers, in the order in which they are."""

    def __init__(
        self, recorded: Windows, windows: NDArray[np.int64], layers: NDArray[np.int64]
    ) -> None:
        self._recorded, self._windows, self._layers = recorded, windows, layers
        self.shape = windows.size, layers.size, recorded.shape[2]

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        return self._recorded.read(int(self._windows[number]))[self._layers]


def used_cells(recorded: Windows) -> NDArray[np.bool_]:
    """Return which layers have tokens in which windows, [T, L]; every window is read once."""
    return np.stack([recorded.read(t).any(axis=1) for t in range(recorded.shape[0])])


def without_dense(
    recorded: Windows,
    windows: NDArray[np.int64],
    used: NDArray[np.bool_],
    where: str,
    why: str = "never have a token",
    notes: Sequence[str] = (),
) -> RawTrace:
    """Keep these windows, in this order, and of their layers those that ever have tokens.

    `used` [all windows, L] says which layers have tokens; `why` is how dense ones show, and `notes`
    what was assumed before.
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
