"""What the ways to choose replicas for a batch share: their input, backends, and tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from evenload.arrays import Float, Int, Rewrap, is_tensor, keep_numpy, refuse
from evenload.checks import one_of, positive_int
from evenload.placement import Placement, check_placement
from evenload.splitting.schedule import Schedule, make_schedule

BACKENDS = ("compiled", "torch", "triton")
MOST_TOKENS = 2**40  # of a layer, so that products with speeds stay below 2**63


class Splits(ABC):
    """Splits of one placement, for batch after batch.

    Parameters
    ----------
    placement : Placement
    rounds : int
        See those that inherit this.
    """

    placement: Placement
    rounds: int

    def __init__(self, placement: Placement, rounds: int) -> None:
        self.placement = check_placement(placement)
        self.rounds = positive_int("rounds", rounds)
        self._slots = placement.rewrapped(keep_numpy).logical_to_physical
        self._on_device: dict[Any, tuple[Any, ...]] = {}  # tables, and what idle experts have

    @cached_property
    def schedule(self) -> Schedule:
        """The tables that every batch is filled by."""
        cluster = self.placement.cluster
        return make_schedule(self._slots, cluster.gpu_of_slot, cluster.capacity)

    @property
    @abstractmethod
    def _idle(self) -> Float:
        """Return the weights of experts without tokens, [L, E, X]."""

    @abstractmethod
    def _compiled(self, counts: Int) -> Int:
        """Return the quotas of counts [L, E]."""

    @abstractmethod
    def _filler(self, backend: str | None, device: Any) -> Any:
        """Return what writes the quotas of tensors, see `tensors.water_fill`."""

    def quotas(self, counts: Any, backend: str | None = None) -> Any:
        """Return how many of its expert's tokens each replica gets, int64 [L, E, X].

        In the order of `Placement.logical_to_physical`, 0 where that is padded; each expert's add
        up to its tokens.

        Parameters
        ----------
        counts : array_like or torch.Tensor, [L, E], or [E] for one layer
            Tokens of each expert: whole numbers, at most 2**40 a layer; else a `ValueError`. On
            another device than the CPU values are not looked at, since that would wait for it.
        backend : {"compiled", "torch", "triton"}, optional
            Loops compiled by Numba; torch operations; one kernel. Default: compiled for arrays and
            tensors on the CPU; on other devices triton where it is installed and the GPUs are at
            most 128, else torch. The last two take tensors, and with those on a GPU neither waits
            for it, so that a CUDA graph can hold them (after one call outside of it, which compiles
            and copies the tables).
        """
        if backend is not None:
            one_of("backend", backend, BACKENDS)
        if not is_tensor(counts) and backend in BACKENDS[1:]:
            raise ValueError(f"backend={backend!r} takes a tensor; use one, or 'compiled'")
        if is_tensor(counts) and (backend or counts.device.type) not in ("cpu", "compiled"):
            return self._by_torch(counts, backend)
        checked, rewrap = self._check(counts)
        return rewrap(self._compiled(checked))

    def weights(self, counts: Any, backend: str | None = None) -> Any:
        """Return the part of its expert's tokens that each replica gets, float64 [L, E, X].

        What `Placement.gpu_load` takes as ``split``, and an engine as probabilities; even for an
        expert without tokens. Parameters and errors as `quotas`.
        """
        quotas = self.quotas(counts, backend)
        if not is_tensor(quotas):
            total = quotas.sum(axis=2, keepdims=True)
            return np.where(total > 0, quotas / np.maximum(total, 1), self._idle)
        total = quotas.sum(2, keepdim=True)
        shares = quotas.double() / total.clamp(min=1)
        return shares.where(total > 0, self._tables(quotas.device)[1])

    def _check(self, counts: Any) -> tuple[Int, Rewrap]:
        load, rewrap = self.placement.check_load(counts, "counts")
        refuse("counts", load, load != np.floor(load), "is not a whole number; use tokens")
        total = load.sum(axis=1)
        refuse("counts in layer ", total, total > MOST_TOKENS, f"is past {MOST_TOKENS}; use less")
        return load.astype(np.int64), rewrap

    def _tables(self, device: Any) -> tuple[Any, ...]:
        import torch

        from evenload.splitting.tensors import to_device

        if device not in self._on_device:
            idle = torch.tensor(self._idle, device=device)
            self._on_device[device] = to_device(self.schedule, device), idle
        return self._on_device[device]

    def _by_torch(self, counts: Any, backend: str | None) -> Any:
        import torch

        L, E, X = self._slots.shape
        if counts.shape not in ((L, E), (E,) if L == 1 else ()):
            raise ValueError(
                f"counts has shape {tuple(counts.shape)}, and the placement is for [layers, "
                f"experts] {(L, E)}; use counts of that shape"
            )
        if counts.device.type == "cpu":
            self._check(counts)
        fill = self._filler(backend, counts.device)
        out = torch.zeros((L, E, X), dtype=torch.int64, device=counts.device)
        fill(counts.reshape(L, E).contiguous(), self._tables(counts.device)[0], self.rounds, out)
        return out
