"""What is odd in loads, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from evenload.report.inspect.facts import counted, some
from evenload.report.inspect.scan import Scan

_FAR = 10.0  # times the median: windows of very different size
_SAME = 1e-3  # relative: every token visits as many experts in each layer
_RUNNING = 3  # windows that only grow, from which on it is told


def _gaps(scan: Scan, name: Callable[[int], str]) -> Iterator[str]:
    empty = scan.tokens == 0.0
    windows, layers = np.flatnonzero(empty.all(axis=1)), np.flatnonzero(empty.all(axis=0))
    if windows.size:
        yield f"{counted(windows.size, 'window')} without a token: {some(windows.tolist())}"
    if layers.size and layers.size < scan.shape[1]:
        names = ", ".join(name(int(i)) for i in layers[:5])
        yield (
            f"{counted(layers.size, 'layer')} without a token in any window, as dense layers have: "
            f"{names}{', ...' if layers.size > 5 else ''}"
        )
    empty = empty & ~empty.all(axis=1, keepdims=True) & ~empty.all(axis=0, keepdims=True)
    if empty.any():
        t, layer = np.argwhere(empty)[0]
        yield (
            f"{name(int(layer))} has no token in window {t}, where others have; "
            f"{counted(int(empty.sum()), 'such gap')}"
        )


def _never_used(scan: Scan, name: Callable[[int], str]) -> Iterator[str]:
    unused = (scan.total == 0.0) & (scan.total.sum(axis=1, keepdims=True) > 0.0)
    if unused.any():
        layer, expert = np.argwhere(unused)[0]
        yield (
            f"{int(unused.sum()):,} of {unused.size:,} experts never get a token; the first is "
            f"expert {expert} of {name(int(layer))}"
        )


def _sizes(scan: Scan) -> Iterator[str]:
    size = scan.tokens.sum(axis=1)
    size = size[size > 0.0]
    if size.size:
        middle = float(np.median(size))
        far = int(((size > _FAR * middle) | (size * _FAR < middle)).sum())
        if far:
            yield (
                f"{counted(far, 'window')} with more than {_FAR:g} times or less than 1/{_FAR:g} "
                "of the tokens of the median one"
            )
    most = scan.tokens.max(axis=1, keepdims=True)
    uneven = ((scan.tokens > 0.0) & (scan.tokens < most * (1.0 - _SAME))).any(axis=1)
    if uneven.any():
        yield (
            f"layers differ in tokens in {counted(int(uneven.sum()), 'window')}, the first is "
            f"{int(np.flatnonzero(uneven)[0])}; each token visits as many experts in every layer"
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


def odd_in_loads(scan: Scan, name: Callable[[int], str]) -> list[str]:
    """Return what is odd, one sentence each.

    Parameters
    ----------
    scan : Scan
    name : callable
        What people call the layer of a row.
    """
    if not scan.tokens.any():
        return ["there is no token at all"]
    found = (_gaps(scan, name), _never_used(scan, name), _sizes(scan), _numbers(scan))
    return [sentence for sentences in found for sentence in sentences]
