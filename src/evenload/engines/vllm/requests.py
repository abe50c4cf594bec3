"""Requests as windows: the experts of their tokens, counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.engines.archives.kept import without_dense
from evenload.engines.vllm.request_files import Request, requests_in
from evenload.formats.base import FileFormatError, RawTrace
from evenload.formats.files import files_of
from evenload.formats.topk import MOST_EXPERTS, check_routed, count_topk, experts_note

_SUFFIXES = (".jsonl", ".npy", ".npz")


class Requests:
    """Requests of one file or of several, each looked through once.

    Parameters
    ----------
    path : Path
        A file, a folder or a pattern.
    num_experts : int or None
        Experts E; None takes the largest number + 1.
    """

    def __init__(self, path: Path, num_experts: int | None) -> None:
        self._path, self._given = path, num_experts
        files = files_of(path, *_SUFFIXES)
        if not files:
            raise FileFormatError(f"{path}: no .npy, .npz or .jsonl file in this folder")
        self.all: list[Request] = []
        self.num_numbers = 0
        self._largest, self._without = -1, 0
        self._per_token: tuple[int, ...] = ()
        self._used: list[NDArray[np.bool_]] = []
        for file in files:
            for request in requests_in(file):
                self._look(request)
        if not self.all:
            raise FileFormatError(f"{path}: no request has routed experts in it")
        self.num_experts = num_experts or self._largest + 1

    def _look(self, request: Request) -> None:
        topk = request.read()
        if topk is None or (topk.ndim == 3 and len(topk) == 0):
            self._without += 1
            return
        check_routed(topk, request.where, "routed_experts")
        if self.all and topk.shape[1:] != self._per_token:
            raise FileFormatError(
                f"{request.where}: routed_experts has {topk.shape[1:]} layers and experts a token, "
                f"and that of {self.all[0].where} has {self._per_token}; give requests of one model"
            )
        self._per_token = topk.shape[1:]
        self._check_numbers(topk, request.where)
        self.all.append(request)
        self.num_numbers += topk.size
        self._used.append(np.asarray(topk.any(axis=(0, 2))))

    def _check_numbers(self, topk: NDArray[Any], where: str) -> None:
        least, largest = int(topk.min()), int(topk.max())
        most = (self._given or MOST_EXPERTS) - 1
        if least < 0 or largest > most:
            bad = least if least < 0 else largest
            raise FileFormatError(f"{where}: routed_experts has {bad}; use experts 0 to {most}")
        self._largest = max(self._largest, largest)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts; dense layers included."""
        return len(self.all), self._per_token[0], self.num_experts

    @property
    def moe_layers(self) -> NDArray[np.int64]:
        """Layers in which some token goes anywhere else than to expert 0, [L]."""
        return np.flatnonzero(np.any(self._used, axis=0))

    def topk(self, number: int) -> NDArray[Any]:
        """Return the experts of each token of one request, [tokens, L, k]."""
        topk = self.all[number].read()
        if topk is None or topk.shape[1:] != self._per_token:
            raise FileFormatError(f"{self.all[number].where}: the file has changed meanwhile")
        return topk

    def read(self, number: int) -> NDArray[Any]:
        """Return the tokens of one request, [L, E]."""
        return count_topk(self.topk(number), self.num_experts, self.all[number].where).array

    def trace(self) -> RawTrace:
        """Return the requests as windows, without dense layers."""
        every = np.arange(len(self.all))
        why = "name expert 0 for every token"
        raw = without_dense(self, every, np.array(self._used), str(self._path), why)
        notes = raw.notes
        if self._given is None:
            notes += (experts_note(str(self._path), self.num_experts),)
        if self._without:
            notes += (
                f"{self._path}: {self._without} of {self._without + len(self.all)} requests have "
                "no routed experts and are left out",
            )
        return RawTrace(raw.windows, notes, raw.layers)
