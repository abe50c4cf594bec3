"""One pass over the windows of loads: what their figures need, in the memory of one window."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from evenload.arrays import check_weights
from evenload.io.base import Float, RawTrace

_MOST = 1e150  # beyond it sums and products leave what a float holds
_CHANCE = math.sqrt(2.0 / math.pi)  # mean distance of a normal number from its mean, in sigmas


@dataclass
class Scan:
    """Sums over the windows of loads; L layers, E experts, T windows.

    Parameters
    ----------
    shape : tuple of int
        T, L, E.
    dtype : str
        Of the numbers in the file.
    total : float64 ndarray, [L, E]
        Summed over windows.
    tokens : float64 ndarray, [T, L]
        Of all experts.
    skew : float64 ndarray, [L]
        Sum over windows with tokens of the largest load over the mean.
    drift, chance : float64 ndarray, [L]
        Sum over pairs of the total-variation distance, and of what equal odds would give.
    pairs : int64 ndarray, [L]
        Pairs of consecutive windows that both have tokens in the layer.
    repeats : list of int
        Windows equal to the one before.
    flat : int64 ndarray, [L]
        Windows in which all experts of the layer have the same load, not 0.
    whole, running : bool
        Whether all numbers are whole; whether no number is ever smaller than a window before.
    """

    shape: tuple[int, int, int]
    dtype: str
    total: Float
    tokens: Float
    skew: Float
    drift: Float
    chance: Float
    pairs: np.ndarray[tuple[int], np.dtype[np.int64]]
    flat: np.ndarray[tuple[int], np.dtype[np.int64]]
    repeats: list[int] = field(default_factory=list)
    whole: bool = True
    running: bool = True

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> Scan:
        """Return the scan of no window."""
        T, L, E = shape
        sums = (np.zeros(L), np.zeros(L), np.zeros(L))
        counts = (np.zeros(L, np.int64), np.zeros(L, np.int64))
        return cls(shape, "", np.zeros((L, E)), np.zeros((T, L)), *sums, *counts)

    def add(self, number: int, load: Float, before: Float | None) -> None:
        """Take in one window, and the one before it."""
        tokens = load.sum(axis=1)
        self.total += load
        self.tokens[number] = tokens
        used = tokens > 0.0
        most, mean = load.max(axis=1), tokens / load.shape[1]
        self.skew[used] += most[used] / mean[used]
        self.flat += used & (load.min(axis=1) == most)
        self.whole = self.whole and bool((load == np.floor(load)).all())
        if before is not None:
            self._compare(number, load, before)

    def _compare(self, number: int, load: Float, before: Float) -> None:
        if np.array_equal(load, before):
            self.repeats.append(number)
        self.running = self.running and bool((load >= before).all())
        now, then = load.sum(axis=1), before.sum(axis=1)
        both = (now > 0.0) & (then > 0.0)
        now, then = now[both, None], then[both, None]
        p, q = load[both] / now, before[both] / then
        self.drift[both] += 0.5 * np.abs(p - q).sum(axis=1)
        odds = (load[both] + before[both]) / (now + then)
        spread = np.sqrt(odds * (1.0 - odds) * (1.0 / now + 1.0 / then))
        self.chance[both] += 0.5 * _CHANCE * spread.sum(axis=1)
        self.pairs += both


def scan_loads(trace: RawTrace) -> Scan:
    """Read every window once, in order.

    Raises
    ------
    ValueError
        If a number is not finite and >= 0, or beyond any count.
    """
    scan = Scan.empty(trace.windows.shape)
    before = None
    for t in range(trace.windows.shape[0]):
        window = trace.windows.read(t)
        scan.dtype = str(window.dtype)
        load = check_weights(f"window {t}: load", window)
        if load.max() > _MOST:
            raise ValueError(
                f"window {t}: load {load.max():g} is no number of tokens; use {_MOST:g} or less"
            )
        scan.add(t, load, before)
        before = load
    return scan
