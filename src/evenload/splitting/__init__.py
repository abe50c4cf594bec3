"""Divide each batch's tokens among the replicas of their experts, at serving speed.

`Placement.split` finds the best split exactly, for a load that is known beforehand. `WaterFilling`
comes close to it in some microseconds, for the counts of one batch. On an H200, the Triton kernel
and the torch operations gave the same whole numbers as on a CPU, from a CUDA graph too. No engine
ran them there yet. The torch operations take many times as long as the kernel: the benchmarks'
page has the times of both.

Both divide tokens. For batches so small that GPUs wait for weights, not for tokens, `OneReplica`
chooses one replica of each active expert instead, so that the fullest GPU reads fewest.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from evenload.arrays import Float, Int
from evenload.placement import Placement
from evenload.splitting.one import OneReplica
from evenload.splitting.splits import BACKENDS, MOST_TOKENS, Splits
from evenload.threads import spread

__all__ = ["BACKENDS", "MOST_TOKENS", "OneReplica", "Splits", "WaterFilling"]

ROUNDS = 8


class WaterFilling(Splits):
    """Splits of one placement, for batch after batch.

    Each replicated expert in turn takes its tokens off its GPUs, and fills them anew to one level,
    the least loaded first. That begins with the even split, and is done `rounds` times. No linear
    program, and whole numbers only: every backend gives the same ones, on every machine.

    The slowest GPU is never slower than when each expert's tokens are divided evenly among the
    GPUs that hold it, in whole tokens: where it would be, the result is that. The speeds of GPUs
    are rounded to 1/1024 of the fastest. A GPU that is gone holds nothing, and gets nothing. Of
    replicas on one GPU the first gets all.

    Parameters
    ----------
    placement : Placement
    rounds : int
        On recorded loads 8 came within 0.8 points of balancedness of the best split.

    Notes
    -----
    The order in which experts fill is a table of the placement, see `splitting.schedule`: filling
    the one with most tokens first was no better where it was measured, and would need a sort for
    every batch.

    Examples
    --------
    >>> from evenload import Cluster
    >>> place = Placement([[0, 1, 0, 2]], Cluster(2, slots_per_gpu=2), 3)
    >>> WaterFilling(place).quotas([[4, 2, 6]]).tolist()
    [[[4, 0], [2, 0], [6, 0]]]
    """

    def __init__(self, placement: Placement, *, rounds: int = ROUNDS) -> None:
        super().__init__(placement, rounds)

    @cached_property
    def _idle(self) -> Float:
        return np.asarray((self._slots >= 0) / self.placement.counts[:, :, None])

    def _compiled(self, counts: Int) -> Int:
        from evenload.core.waterfill import water_fill

        (L, E, X), t = self._slots.shape, self.schedule
        out = np.zeros((L, E * X), np.int64)

        def run(first: int, end: int) -> None:
            layers = slice(first, end)
            some = t.resident[layers], t.owner[layers], t.place[layers], t.speed
            water_fill(counts[layers], *some, self.rounds, out[layers])

        spread(L, self.placement.rows.size * self.rounds, run)
        return out.reshape(L, E, X)

    def _filler(self, backend: str | None, device: Any) -> Any:
        from evenload.splitting.tensors import find

        return find(backend, device, self.placement.cluster.num_gpus)
