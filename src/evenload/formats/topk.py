"""From routed experts, token by token, to a load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import first_bad
from evenload.formats.base import FileFormatError, RawLoad
from evenload.formats.sizes import taken_experts

MOST_EXPERTS = 2**16  # of a layer, in a file: what a model has, with much to spare


def check_routed(topk: NDArray[Any], where: str, name: str = "topk") -> None:
    """Raise `FileFormatError` unless `topk` has the shape and dtype of routed experts."""
    if topk.ndim != 3 or topk.size == 0:
        raise FileFormatError(
            f"{where}: {name} has shape {topk.shape}; use [tokens, layers, k], at least 1 of each"
        )
    if topk.dtype.kind not in "iu":
        raise FileFormatError(f"{where}: {name} has dtype {topk.dtype}; use an integer dtype")


def experts_note(where: str, found: int) -> str:
    """Return `taken_experts`, with what to say where the model has experts that nobody used."""
    more = "(say --experts, or num_experts=, where the model has more)"
    return f"{taken_experts(where, found)} {more}"


def count_topk(topk: NDArray[Any], num_experts: int | None, where: str) -> RawLoad:
    """Count how many tokens each expert got.

    Parameters
    ----------
    topk : integer ndarray, [tokens, L, k]
        Experts that each token was routed to.
    num_experts : int or None
        Experts E of the model; None takes the largest number in `topk` + 1 and says so in a note.
    where : str
        The file's name, for messages.

    Returns
    -------
    RawLoad
        With an int64 array [L, E].

    Raises
    ------
    FileFormatError
        For another shape or dtype, or a number outside 0 to E - 1.
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
    return RawLoad(np.stack(counts).astype(np.int64), notes)
