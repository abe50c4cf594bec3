"""From counts in slots to counts of experts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.engines.archives.mapped_file import MappedFile
from evenload.engines.archives.tensors import stored
from evenload.formats.base import FileFormatError

MAP = "last_physical_to_logical_map"


class Slots:
    """Which expert each slot holds, so that its tokens can be summed.

    Parameters
    ----------
    value : torch.Tensor, [L, S]
        Every expert of 0 to E - 1 in each row.
    file : MappedFile
        The file that it is in.

    Raises
    ------
    FileFormatError
        If it is no such map.
    """

    def __init__(self, value: Any, file: MappedFile) -> None:
        experts = stored(value, MAP, file, "layers", "slots").read()
        L, S = experts.shape
        E = _num_experts(experts, str(file.path))
        self.shape = L, S
        self.num_experts = E
        self.content = np.array(experts, "<i8").tobytes()
        self.trivial = bool((experts == np.arange(S) % E).all())
        by_expert = np.argsort(experts, axis=1, kind="stable")
        rows = np.arange(L)[:, None]
        first = np.stack([np.searchsorted(np.sort(row), np.arange(E)) for row in experts])
        self._order = (by_expert + rows * S).ravel()
        self._first = (first + rows * S).ravel()

    def sum(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Return the tokens of each expert, [L, E], from those in each slot, [L, S]."""
        sorted_counts = counts.reshape(-1)[self._order].astype(np.float64)
        return np.add.reduceat(sorted_counts, self._first).reshape(-1, self.num_experts)


def _num_experts(experts: NDArray[Any], where: str) -> int:
    L, S = experts.shape
    least, most = int(experts.min()), int(experts.max())
    if least < 0 or most >= S:
        bad = least if least < 0 else most
        raise FileFormatError(
            f"{where}: {MAP} has expert {bad} among {S} slots; use 0 to {S - 1} at most"
        )
    for layer in range(L):
        there = np.bincount(experts[layer].astype(np.int64), minlength=most + 1)
        if not there.all():
            raise FileFormatError(
                f"{where}: {MAP} has no slot of expert {int(there.argmin())} in layer {layer}; "
                f"every expert from 0 to {most} needs one"
            )
    return most + 1
