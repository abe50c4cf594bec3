"""Tables of the time that experts are expected to take, in whole numbers, for the planner.

They are made with + - x / alone, one after the other: `exp` and sums in another order differ
between libraries and processors, and every rank has to find the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any

import numpy as np

from evenload.arrays import Float, Int, check_load, within_range
from evenload.checks import positive_int, whole_number
from evenload.cost.expert_time import ExpertTime

CERTAIN = 2**40  # the chance that is 1; an integer below it is a smaller one
STEPS = 64  # of a table, while the chance doubles: what is between two is within 3e-4 of a line
FEW = 10  # the table's first step is where a batch has an expert's token once in 2**FEW batches
MOST_TOKENS = 2**20
FULL = 2**40  # ticks of all tokens of a batch in one expert, on the slowest GPU


@dataclass(frozen=True, eq=False)
class TimeTable:
    """The mean time per batch of an expert with 1 to R replicas, by the chance of its tokens.

    Replicas share the expert's tokens as evenly as whole tokens can be. Ticks are whole numbers,
    the same on every machine, and relative: a curve twice as high has the same ticks.
    """

    tokens_per_batch: int
    chance: Int  #: [K], rising from 0 to `CERTAIN`: that a token goes to the expert
    ticks: Int  #: [C, R, K], of all replicas together: by curve and replicas, less one
    seconds_per_tick: float

    @staticmethod
    def build(
        curves: Sequence[ExpertTime], tokens_per_batch: int, max_replicas: int = 1
    ) -> TimeTable:
        """Make the table of one or more curves: one for each type of GPU.

        Parameters
        ----------
        curves : sequence of ExpertTime
            C of them, with the same ticks.
        tokens_per_batch : int
            Tokens that go through a layer at once on all GPUs, up to 1,048,576.
        max_replicas : int
            R, at least 1.

        Raises
        ------
        ValueError
            If a number is out of range, or there is no curve.
        """
        batch = whole_number("tokens_per_batch", tokens_per_batch, 1, MOST_TOKENS)
        if not curves:
            raise ValueError("curves is empty; use at least one ExpertTime")
        return _built(tuple(curves), batch, positive_int("max_replicas", max_replicas))

    @property
    def digest(self) -> str:
        """What differs where a table does, for ranks to compare: 64 hexadecimal digits."""
        said = f"{self.tokens_per_batch} {self.ticks.shape} "
        words = (table.astype("<i8").tobytes() for table in (self.chance, self.ticks))
        return hashlib.sha256(said.encode() + b"".join(words)).hexdigest()

    def of(self, load: Any, *, top_k: int = 1) -> Int:
        """Return the ticks per batch of each expert of a window, int64 [C, R, L, E].

        `load` is [L, E] or [E], tokens of each expert; a token goes to `top_k` experts, and there
        are `tokens_per_batch` of those. Raises `ValueError` as `ExpertTime.expected_seconds`.
        """
        return self.at(self.chances(load, top_k=top_k))

    def chances(self, load: Any, *, top_k: int = 1) -> Int:
        """Return the chance that a token goes to each expert of a window, as `of`: [L, E]."""
        weight = within_range(check_load(load)[0])
        k = whole_number("top_k", top_k, 1, weight.shape[1])
        total = np.cumsum(weight, axis=1)[:, -1:]  # in this order on every machine
        share = np.divide(weight * k, total, out=np.zeros_like(weight), where=total > 0.0)
        return np.asarray(np.rint(np.minimum(share, 1.0) * CERTAIN).astype(np.int64))

    def between(self, chance: Int) -> tuple[Int, Float]:
        """Return the last of the table's chances below each, and how far it is to the next."""
        i = np.minimum(np.searchsorted(self.chance, chance, "right") - 1, len(self.chance) - 2)
        return i, (chance - self.chance[i]) / (self.chance[i + 1] - self.chance[i])

    def at(self, chance: Int) -> Int:
        """Return the ticks at these chances, parts of `CERTAIN`: int64 [C, R, ...]."""
        i, part = self.between(chance)
        below = self.ticks[..., i]
        rise = np.rint((self.ticks[..., i + 1] - below) * part)
        return np.asarray(below + rise.astype(np.int64))


@lru_cache(maxsize=16)
def _built(curves: tuple[ExpertTime, ...], B: int, R: int) -> TimeTable:
    first, parts = 1, []
    while first <= R:  # twice as many each time, so that tables of other lengths share them
        unit, chance, ticks = _rows(curves, B, first, 2 * first - 1)
        parts.append(ticks)
        first *= 2
    table = np.ascontiguousarray(np.concatenate(parts, axis=1)[:, :R])
    table.flags.writeable = False
    return TimeTable(B, chance, table, unit)


@lru_cache(maxsize=64)
def _rows(curves: tuple[ExpertTime, ...], B: int, fewest: int, most: int) -> tuple[float, Int, Int]:
    """Return the seconds of a tick, the chances [K], and the ticks [C, R, K] of some numbers."""
    seconds = np.stack([curve.seconds(np.arange(B + 1)) for curve in curves])
    unit = float(seconds[:, -1].max()) / FULL
    by_tokens = np.rint(seconds / unit).astype(np.int64)  # [C, B + 1]
    chance = _chances(B)
    replicas = np.arange(fewest, most + 1)[:, None]
    ticks = np.empty((len(curves), len(replicas), len(chance)), np.int64)
    for k, p in enumerate(chance):
        first, weight = binomial(B, int(p))
        few, more = np.divmod(np.arange(first, first + len(weight)), replicas)  # [R, n]
        time = by_tokens[:, few] * (replicas - more)
        time += by_tokens[:, np.minimum(few + 1, B)] * more
        ticks[:, :, k] = np.rint(np.cumsum(time * weight, axis=-1)[..., -1])
    for table in (chance, ticks):
        table.flags.writeable = False
    return unit, chance, ticks


def _chances(B: int) -> Int:
    """Return 0, and `STEPS` for each doubling up to `CERTAIN`."""
    top = CERTAIN.bit_length() - 1
    doublings = range(top - FEW - B.bit_length(), top)
    steps = [
        (STEPS + step) << (power - STEPS.bit_length() + 1)
        for power in doublings
        for step in range(STEPS)
    ]
    return np.array([0, *steps, CERTAIN], np.int64)


def binomial(B: int, p: int) -> tuple[int, Float]:
    """Return the chances of first, first + 1, ... of B tokens, each with chance p / `CERTAIN`.

    From the likeliest number on, each from its neighbour; those left out are below 1e-15 together.
    """
    if p in (0, CERTAIN):
        return (B if p else 0), np.ones(1)
    odds = p / (CERTAIN - p)
    likeliest = min((B + 1) * p // CERTAIN, B)
    width = 9 * (isqrt(B * p * (CERTAIN - p) // CERTAIN**2) + 1) + 30
    first, last = max(likeliest - width, 0), min(likeliest + width, B)
    n = np.arange(likeliest, last)
    up = np.cumprod((B - n) / (n + 1) * odds)
    n = np.arange(likeliest, first, -1)
    down = np.cumprod(n / ((B - n + 1) * odds))
    weight = np.concatenate([down[::-1], np.ones(1), up])
    return first, weight / np.cumsum(weight)[-1]
