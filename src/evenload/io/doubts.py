"""Arrays whose numbers are hardly tokens, told by how they look: refused, with the way out.

Asked are those that nothing names: an array alone in a file, rows without a header. What lies under
a key as ``load`` was called so by whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import FileFormatError

_AS_LOADS = "if they are tokens, --as loads (layout='loads')"


class UncertainError(FileFormatError):
    """A file that may be one thing or another, which its reader has to be told."""


class PlacementFoundError(FileFormatError):
    """A file that is a placement for sure, where loads were looked for."""


def refuse_rows(array: NDArray[Any], where: str) -> None:
    """Raise `UncertainError` if an array that nothing names looks like anything but loads."""
    if array.ndim == 2 and array.size and array.dtype.kind in "iuf":
        refuse_long(np.asarray(array, np.float64), where)
    refuse_placement(array, where)


def refuse_placement(array: NDArray[Any], where: str) -> None:
    """Raise `UncertainError` if numbers [..., layers, experts] look like a placement or a mask.

    That is, if all are 0 or 1 and both are there, as in omni-infer's ``[ranks, layers, experts]``;
    or if each row has every number from 0 to its largest, as the experts of slots have.
    """
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or array.shape[-1] < 2:
        return
    parts = array if array.ndim == 3 else array[None]
    refuse_mask(parts, where, array.ndim)
    if array.ndim == 2 and array.size and _are_experts(array):
        raise UncertainError(
            f"{where}: each row has every number from 0 to {int(array.max())}: a placement (the "
            f"expert in each slot), not loads; --as placement reads it as one; {_AS_LOADS}"
        )


def refuse_mask(parts: Iterable[NDArray[Any]], where: str, axes: int = 3) -> None:
    """Raise `UncertainError` if all numbers of arrays are 0 or 1, and both are there."""
    zero = one = False
    for part in parts:
        zeros, ones = part == 0, part == 1
        if not (zeros | ones).all():
            return
        zero, one = zero or bool(zeros.any()), one or bool(ones.any())
    if zero and one:
        cure = "a placement is read by --as placement; " if axes == 3 else ""
        raise UncertainError(
            f"{where}: all numbers are 0 or 1: a placement or a mask, not loads; {cure}{_AS_LOADS}"
        )


def _are_experts(array: NDArray[Any]) -> bool:
    most = array.max()
    if most < 3 or most >= array.shape[1] or array.min() < 0:
        return False
    every = np.arange(int(most) + 1)
    return all(np.array_equal(np.unique(row), every) for row in array)


def refuse_long(table: NDArray[np.float64], where: str) -> None:
    """Raise `UncertainError` if rows without names count layers and experts, or just themselves."""
    rows, width = table.shape
    if width in (3, 4) and rows > 1:
        first = width - 3
        layer, expert = table[:, first], table[:, first + 1]
        if first and not _counts(table[:, 0]):
            return
        if (_counts(layer) and _counts(expert)) and (
            _steps(layer, expert, table[:, :first]) or _steps(expert, layer, table[:, :first])
        ):
            start = ", ".join(f"{n:.0f}" for n in layer[:6])
            raise UncertainError(
                f"{where}: the column{' behind the first' if first else ''} counts {start} and the "
                "next one numbers within it: rows of layer, expert and count, not a column an "
                f"expert; --as long reads it; {_AS_LOADS}"
            )
    first = table[:, 0]
    counting = rows > 1 and bool((np.diff(first) == 1).all()) and (rows > 2 or first[0] == 0)
    if width > 1 and counting:
        raise UncertainError(
            f"{where}: the first column counts {first[0]:g}, {first[1]:g}, ... as numbers of rows "
            "do, not tokens of an expert; leave it out, or in text head it layer and the others 0, "
            f"1, ...; {_AS_LOADS}"
        )


def _counts(column: NDArray[np.float64]) -> bool:
    return bool((column >= 0).all() and (column == np.floor(column)).all() and column.max() < 2**16)


def _steps(outer: NDArray[Any], inner: NDArray[Any], window: NDArray[Any]) -> bool:
    """Whether rows are sorted by (window, outer, inner), none twice, and some `outer` has more."""
    keys = np.column_stack([window, outer, inner])
    order = np.lexsort(keys.T[::-1])
    rising = np.array_equal(order, np.arange(len(keys)))
    distinct = bool((np.diff(keys, axis=0) != 0).any(axis=1).all())
    return rising and distinct and bool((np.diff(outer) == 0).any())
