"""One pass over the windows of loads, in the memory of one window, and what is odd in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import check_weights
from evenload.io import RawTrace
from evenload.report.text import counted, some

Float = NDArray[np.float64]

_MOST = 1e150  # beyond it sums and products leave what a float holds
_CHANCE = math.sqrt(2.0 / math.pi)  # mean distance of a normal number from its mean, in sigmas
_FAR = 10.0  # times the median: windows of very different size
_SAME = 1e-3  # relative: every token visits as many experts in each layer
_RUNNING = 3  # windows that only grow, from which on it is told


class Scan:
    """Sums over the T windows of loads of L layers and E experts; reads each window once, in order.

    Raises
    ------
    ValueError
        If a number is not finite and >= 0, or beyond any count.
    """

    def __init__(self, trace: RawTrace) -> None:
        self.shape = T, L, E = trace.windows.shape
        self.dtype = ""  # of the numbers in the file
        self.total = np.zeros((L, E))  # over windows
        self.tokens = np.zeros((T, L))  # of all experts
        self.skew = np.zeros(L)  # over windows with tokens: the largest load over the mean
        self.drift = np.zeros(L)  # over pairs of windows: their total-variation distance,
        self.chance = np.zeros(L)  # and what equal odds would give
        self.pairs = np.zeros(L, np.int64)  # of consecutive windows that both have tokens
        self.flat = np.zeros(L, np.int64)  # windows whose experts have the same load, not 0
        self.repeats: list[int] = []  # windows equal to the one before
        self.whole = True  # whether all numbers are whole
        self.running = True  # whether no number is ever smaller than a window before
        before = None
        for t in range(T):
            window = trace.windows.read(t)
            self.dtype = str(window.dtype)
            load = check_weights(f"window {t}: load", window)
            if load.max() > _MOST:
                raise ValueError(
                    f"window {t}: load {load.max():g} is no number of tokens; use {_MOST:g} or less"
                )
            self._add(t, load)
            if before is not None:
                self._compare(t, load, before)
            before = load

    def _add(self, number: int, load: Float) -> None:
        self.tokens[number] = tokens = load.sum(axis=1)
        self.total += load
        used, most = tokens > 0.0, load.max(axis=1)
        self.skew[used] += most[used] / (tokens / load.shape[1])[used]
        self.flat += used & (load.min(axis=1) == most)
        self.whole = self.whole and bool((load == np.floor(load)).all())

    def _compare(self, number: int, load: Float, before: Float) -> None:
        if np.array_equal(load, before):
            self.repeats.append(number)
        self.running = self.running and bool((load >= before).all())
        now, then = self.tokens[number], self.tokens[number - 1]
        both = (now > 0.0) & (then > 0.0)
        now, then = now[both, None], then[both, None]
        p, q = load[both] / now, before[both] / then
        self.drift[both] += 0.5 * np.abs(p - q).sum(axis=1)
        odds = (load[both] + before[both]) / (now + then)
        spread = np.sqrt(odds * (1.0 - odds) * (1.0 / now + 1.0 / then))
        self.chance[both] += 0.5 * _CHANCE * spread.sum(axis=1)
        self.pairs += both


# ---- what is odd -----------------------------------------------------------------------------


def _gaps(scan: Scan, names: Sequence[str]) -> Iterator[str]:
    empty = scan.tokens == 0.0
    windows, layers = np.flatnonzero(empty.all(axis=1)), np.flatnonzero(empty.all(axis=0))
    if windows.size:
        yield f"{counted(windows.size, 'window')} without a token: {some(windows.tolist())}"
    if layers.size and layers.size < scan.shape[1]:
        yield (
            f"{counted(layers.size, 'layer')} without a token in any window, as dense layers have: "
            f"{some([names[i] for i in layers.tolist()])}"
        )
    empty = empty & ~empty.all(axis=1, keepdims=True) & ~empty.all(axis=0, keepdims=True)
    if empty.any():
        t, layer = np.argwhere(empty)[0]
        yield (
            f"{names[layer]} has no token in window {t}, where others have; "
            f"{counted(int(empty.sum()), 'such gap')}"
        )
    unused = (scan.total == 0.0) & (scan.total.sum(axis=1, keepdims=True) > 0.0)
    if unused.any():
        layer, expert = np.argwhere(unused)[0]
        yield (
            f"{int(unused.sum()):,} of {unused.size:,} experts never get a token; the first is "
            f"expert {expert} of {names[layer]}"
        )


def _sizes(scan: Scan) -> Iterator[str]:
    size = scan.tokens.sum(axis=1)
    size = size[size > 0.0]
    middle = float(np.median(size))
    far = int(((size > _FAR * middle) | (size * _FAR < middle)).sum())
    if far:
        yield (
            f"{counted(far, 'window')} with more than {_FAR:g} times or less than 1/{_FAR:g} "
            "of the tokens of the median one"
        )
    most = scan.tokens.max(axis=1, keepdims=True)
    uneven = np.flatnonzero(
        ((scan.tokens > 0.0) & (scan.tokens < most * (1.0 - _SAME))).any(axis=1)
    )
    if uneven.size:
        yield (
            f"layers differ in tokens in {counted(uneven.size, 'window')}, the first is "
            f"{uneven[0]}; each token visits as many experts in every layer"
        )


def _numbers(scan: Scan) -> Iterator[str]:
    T, L, _ = scan.shape
    if not scan.whole:
        yield "not all numbers are whole: these are no counts of tokens"
    flat = int((scan.flat > 0).sum())
    if flat:
        what = "every window" if int(scan.flat.sum()) == T * L else "some window"
        yield f"all experts have the same load in {what} of {counted(flat, 'layer')}"
    if scan.repeats:
        yield (
            f"{counted(len(scan.repeats), 'window')} equal to the one before: {some(scan.repeats)}"
        )
    if T >= _RUNNING and scan.running and len(scan.repeats) < T - 1:
        yield "no number is ever smaller than a window before: are these running totals?"


def odd_in_loads(scan: Scan, names: Sequence[str]) -> list[str]:
    """Return what is odd, one sentence each; `names` [L] is what people call the layers."""
    if not scan.tokens.any():
        return ["there is no token at all"]
    return [*_gaps(scan, names), *_sizes(scan), *_numbers(scan)]
