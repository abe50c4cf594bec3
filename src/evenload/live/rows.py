"""The weights of experts as rows of tensors, and the table that says which row a slot reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evenload.arrays import Int
from evenload.maps import EMPTY


class Rows:
    """The experts that one rank holds.

    Parameters
    ----------
    tensors : sequence of sequences of torch.Tensor
        For each layer the tensors [slots + spare, ...] that an expert has a row in: weights,
        scales, biases. Row k holds the expert of the rank's slot k at the start. Contiguous.
    slots : int64 [L, K]
        Expert in each slot of this rank at the start, -1 for nothing.

    Notes
    -----
    An expert takes one row, however many slots of the rank it has. A row is written only while no
    slot reads it. `tables` are changed in place, on the stream that is current: a graph that was
    captured reads the new ones when it is replayed.
    """

    def __init__(self, tensors: Sequence[Sequence[Any]], slots: Int) -> None:
        import torch

        if len(tensors) != len(slots):
            raise ValueError(
                f"tensors are of {len(tensors)} layers, and the placement has {len(slots)}; use "
                "one list of tensors for each layer"
            )
        self.tensors = [list(layer) for layer in tensors]
        self.num_rows = min(len(tensor) for layer in self.tensors for tensor in layer)
        num_slots = slots.shape[1]
        for layer in self.tensors:
            for tensor in layer:
                if len(tensor) != self.num_rows or not tensor.is_contiguous():
                    raise ValueError(
                        f"tensors have {self.num_rows} to {len(tensor)} rows, or are not "
                        "contiguous; use contiguous ones with as many rows each"
                    )
        if self.num_rows <= num_slots:
            raise ValueError(
                f"tensors have {self.num_rows} rows for {num_slots} slots, and moves need a spare "
                f"one; use {num_slots + 1} or more"
            )
        #: Row of each expert that this rank holds, by layer.
        self.row_of: list[dict[int, int]] = [{} for _ in slots]
        device = self.tensors[0][0].device
        #: Row that each slot reads, by layer: int64 [K], 0 where the slot holds nothing.
        self.tables = [torch.zeros(num_slots, dtype=torch.int64, device=device) for _ in slots]
        self.expert_bytes = [
            sum(tensor[0].numel() * tensor.element_size() for tensor in layer)
            for layer in self.tensors
        ]
        for number, experts in enumerate(slots.tolist()):
            for slot, expert in enumerate(experts):
                if expert != EMPTY:
                    self.row_of[number].setdefault(expert, slot)
            self._write_table(number, experts)
        self.freed: Any = None  # the event after which rows that were given up may be written

    def free(self, layer: int) -> list[int]:
        """Return the rows of a layer that no slot reads."""
        return sorted({*range(self.num_rows)}.difference(self.row_of[layer].values()))

    def wait_until_free(self) -> None:
        """Let the current stream wait for forwards that may still read rows that were given up."""
        if self.freed is not None:
            self.freed.wait()

    def views(self, layer: int, row: int) -> list[Any]:
        """Return one row of all tensors of a layer, as bytes in place."""
        import torch

        return [tensor[row].reshape(-1).view(torch.uint8) for tensor in self.tensors[layer]]

    def flip(self, layer: int, slots: Int, staged: dict[int, int]) -> None:
        """Let the slots read what they hold from now on.

        Parameters
        ----------
        layer : int
        slots : int64 [K]
            Expert in each slot of this rank.
        staged : dict of int to int
            Rows of the experts that arrived.
        """
        wanted, known = slots.tolist(), self.row_of[layer] | staged
        self.row_of[layer] = {e: known[e] for e in dict.fromkeys(wanted) if e != EMPTY}
        self._write_table(layer, wanted)
        if self.tables[layer].is_cuda:
            import torch

            self.freed = torch.cuda.Event()
            self.freed.record()

    def _write_table(self, layer: int, experts: Sequence[int]) -> None:
        import torch

        rows = np.array([self.row_of[layer].get(expert, 0) for expert in experts], np.int64)
        self.tables[layer].copy_(torch.from_numpy(rows))

    def renew(self, layer: int) -> None:
        """Move a layer to new memory: what an operation that failed still writes harms nothing.

        A receive over gloo that was given up may write when its message comes after all. On a GPU
        rows stay where they are: NCCL ends its kernels when it is aborted.
        """
        if not self.tables[layer].is_cuda:
            self.tensors[layer] = [tensor.clone() for tensor in self.tensors[layer]]
