"""From what engines record to loads: routed experts counted, layers without experts left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import first_bad
from evenload.io.base import MOST_EXPERTS, FileFormatError, check_array
from evenload.io.files import max_bytes, most_bytes
from evenload.layers import ModelLayers
from evenload.trace import Trace

Read: TypeAlias = Callable[[], NDArray[Any]]  # one window, [all layers, E]; it can be pickled


def check_routed(topk: NDArray[Any], name: str = "topk") -> None:
    """Raise `ValueError` unless `topk` has the shape and dtype of routed experts."""
    if topk.ndim != 3 or topk.size == 0:
        raise ValueError(
            f"{name} has shape {topk.shape}; use [tokens, layers, k], at least 1 of each"
        )
    if topk.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {topk.dtype}; use an integer dtype")


def experts_note(path: Path, found: int, more: bool = True) -> str:
    """Return the note that the number of experts was taken from the numbers that are there."""
    say = " (say --experts, or num_experts=, where the model has more)" if more else ""
    return (
        f"{path}: the number of experts is not in the file; taken as the largest expert number + "
        f"1 = {found}{say}"
    )


def count_topk(topk: NDArray[Any], num_experts: int | None) -> NDArray[np.int64]:
    """Count the tokens of each expert, int64 [L, E], from the experts of each [tokens, L, k].

    Without `num_experts` the largest number + 1 is taken. An expert outside is a `ValueError`, but
    for padding, see `padded_rows`.
    """
    check_routed(topk)
    skipped = padded_rows(topk)
    E = int(topk.max()) + 1 if num_experts is None else num_experts
    if num_experts is None and E > MOST_EXPERTS:
        raise ValueError(f"topk has expert {E - 1}, and no model has more than {MOST_EXPERTS}")
    check_array((topk.shape[1], E))
    outside = (topk < -1) | (topk >= E)
    if outside.any():
        raise ValueError(f"topk{first_bad(topk, outside)} is not an expert; use 0 to {E - 1}")
    layers = (topk[~skipped[:, i], i].ravel().astype(np.int64) for i in range(topk.shape[1]))
    return np.stack([np.bincount(layer, minlength=E) for layer in layers])


def padded_rows(topk: NDArray[Any], name: str = "topk") -> NDArray[np.bool_]:
    """Return which rows [tokens, L] are padding: -1 in place of all k experts, as SGLang masks.

    -1 beside an expert, and nothing but padding, are a `ValueError`.
    """
    missing = topk == -1
    rows: NDArray[np.bool_] = missing.all(axis=2)
    beside = missing & ~rows[:, :, None]
    if beside.any():
        raise ValueError(
            f"{name}{first_bad(topk, beside)} is not an expert, and others of its row are; "
            "padding is "
            "-1 in the whole row"
        )
    if rows.all():
        raise ValueError(f"{name} is -1 throughout, which is padding; no token was routed")
    return rows


def padding_note(where: str, skipped: int, rows: int) -> tuple[str, ...]:
    """Return the note that padding was left out, if there was any."""
    if not skipped:
        return ()
    return (f"{where}: {skipped} of {rows} rows of experts are -1, which is padding, and skipped",)


def without_padding(topk: NDArray[Any]) -> NDArray[Any] | None:
    """Return the tokens that have experts in every layer; None if there is none."""
    kept: NDArray[Any] = topk[(topk >= 0).all(axis=(1, 2))]
    return kept if len(kept) else None


class RecordedWindows:
    """Windows that a function each reads, and of them the layers that are kept.

    They may be read in another thread or process, under the limit that they were found under.
    """

    def __init__(self, reads: Sequence[Read], layers: NDArray[np.int64], num_experts: int) -> None:
        self._reads, self._layers = reads, layers
        self.shape = len(reads), len(layers), num_experts
        self._most = most_bytes()
        check_array(self.shape[1:])

    def read(self, number: int) -> NDArray[Any]:
        """Return one window, [L, E]."""
        with max_bytes(self._most):
            return self._reads[number]()[self._layers]


def used_cells(reads: Sequence[Read]) -> NDArray[np.bool_]:
    """Return which layers have tokens in which windows, [T, L]; every window is read once."""
    return np.stack([read().any(axis=1) for read in reads])


def without_dense(
    reads: Sequence[Read],
    used: NDArray[np.bool_],
    num_experts: int,
    where: str,
    notes: Sequence[str] = (),
    why: str = "never have a token",
    phases: Mapping[str, Sequence[Read]] | None = None,
) -> Trace:
    """Return the trace of these windows, and of their layers those that ever have tokens.

    `used` [all windows, L] says which layers have tokens; `why` is how dense ones show, and `notes`
    what was assumed before. `phases` are the same windows with the tokens of each phase alone.
    """
    T, L = used.shape
    there = used.any(axis=0)
    layers, dense = np.flatnonzero(there), np.flatnonzero(~there).tolist()
    if not reads or layers.size == 0:
        raise FileFormatError(
            f"{where}: no token was counted in {T} windows; record while the engine serves"
        )
    notes = tuple(notes)
    if dense:
        named = ", ".join(map(str, dense[:5])) + (", ..." if len(dense) > 5 else "")
        notes += (
            f"{where}: {len(dense)} of the model's {L} layers {why} and are left out as dense "
            f"ones: {named}",
        )
    about: dict[str, Any] = {"source": where, "layers": ModelLayers(layers.tolist(), L)}
    parts = {
        name: Trace.of(RecordedWindows(part, layers, num_experts), **about)
        for name, part in (phases or {}).items()
    }
    windows = RecordedWindows(reads, layers, num_experts)
    return Trace.of(windows, notes=notes, phases=parts, **about)
