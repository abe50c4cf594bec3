"""One replica of each active expert for a batch, so that the fullest GPU has least to do."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from evenload.arrays import Float, Int, is_tensor
from evenload.batches import choose, tick, ticks_of
from evenload.cost.expert_time import ExpertTime
from evenload.placement import Placement
from evenload.splitting.splits import Splits

ROUNDS = 4


class OneReplica(Splits):
    """Choices of one replica of each active expert, for batch after batch.

    Where a batch is small, a GPU's time is that of reading the weights of its active experts, and
    every further replica that is used reads them once more. So each expert with tokens uses one
    replica, chosen so that the fullest GPU has as few active experts as can be (divided by its
    speed), or with `expert_time` so that the slowest GPU is fast.

    On the CPU, the number of active experts is the least there is. With `expert_time` the problem
    is NP-hard; the result is never worse than the choice by number. On other devices, tensors are
    worked on by torch operations of fixed shapes, which never wait for the device, and fall short
    of the least by what `rounds` leave: see Notes.

    Parameters
    ----------
    placement : Placement
    expert_time : ExpertTime, optional
        Seconds of an expert by its tokens. Default: all active experts are alike. Not for the
        backend ``"torch"``.
    rounds : int
        Of the backend ``"torch"``: experts that each layer passes on at most, after a first choice.

    Notes
    -----
    The aim is METRO's (Yu et al. 2025, arXiv 2512.09277): balance active experts, not tokens. How
    they are chosen here is our own.

    On drawn batches of four shapes (32 experts on 40 slots to 256 on 288, 100 layers each) torch
    was exact from 2 rounds on, and after 1 round the fullest GPU had .00 to .03 experts more than
    need be. With `expert_time` the slowest GPU took 1.5 to 3.3 % more than the bound of a split
    at will, on average. Never run on a GPU.

    Examples
    --------
    >>> from evenload import Cluster
    >>> place = Placement([[0, 1, 2, 0]], Cluster(2, slots_per_gpu=2), 3)
    >>> OneReplica(place).replica([[4, 2, 0]]).tolist()
    [[1, 0, 0]]
    """

    expert_time: ExpertTime | None

    def __init__(
        self,
        placement: Placement,
        *,
        expert_time: ExpertTime | None = None,
        rounds: int = ROUNDS,
    ) -> None:
        super().__init__(placement, rounds)
        if expert_time is not None and not isinstance(expert_time, ExpertTime):
            raise ValueError(f"expert_time={expert_time!r} is not an ExpertTime; use one, or None")
        self.expert_time = expert_time

    def replica(self, counts: Any, backend: str | None = None) -> Any:
        """Return which of its replicas each expert uses, int64 [L, E].

        In the order of `Placement.logical_to_physical`; 0, the first, for experts without tokens.
        Parameters and errors as `quotas`.
        """
        quotas = self.quotas(counts, backend)
        return quotas.argmax(2) if is_tensor(quotas) else quotas.argmax(axis=2)

    @cached_property
    def _idle(self) -> Float:
        first = np.zeros(self._slots.shape)
        first[:, :, 0] = 1.0
        return first

    def _compiled(self, counts: Int) -> Int:
        time = self.expert_time
        ticks = counts if time is None else ticks_of(counts, time, _tick_by_layer(time, counts))
        chosen = choose(self.placement, ticks[None], by_count=time is None).replica[0]
        quotas = np.zeros(self._slots.shape, np.int64)
        np.put_along_axis(quotas, chosen[:, :, None], counts[:, :, None], axis=2)
        return quotas

    def _filler(self, backend: str | None, device: Any) -> Any:
        from evenload.splitting.one_tensors import choose_one

        if backend == "triton":
            raise ValueError("backend='triton' does not choose one replica; use 'torch'")
        if self.expert_time is not None:
            raise ValueError(
                f"expert_time is beyond tensors on {device.type!r}; leave it out, or use "
                "backend 'compiled'"
            )
        return choose_one


def _tick_by_layer(time: ExpertTime, counts: Int) -> Float:
    return np.array([[tick(time, max(int(total), 1))] for total in counts.sum(axis=1)])
