"""The hottest experts of every layer, and how long they stay it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

MOST_EXPERTS = 16


@dataclass(frozen=True, eq=False)
class Hot:
    """Hot experts over time.

    Parameters
    ----------
    experts : int64 ndarray, [L, X]
        The experts with the highest peaks, those with the largest mean first.
    load : float64 ndarray, [L, X, B]
        Their load relative to the layer's mean.
    since_last, since_first : float64 ndarray, [B]
        Part of the hottest experts (an eighth of all, mean over layers) that was among them in the
        run of windows before, and in the first one.
    layer : int
        The layer whose hot experts change most.
    """

    experts: Int
    load: Float
    since_last: Float
    since_first: Float
    layer: int


def _hottest(share: Float, count: int) -> NDArray[np.bool_]:
    """Mark the `count` experts with the most load, the lowest number on ties: [..., E]."""
    order = np.argsort(-share, axis=-1, kind="stable")[..., :count]
    marked = np.zeros(share.shape, bool)
    np.put_along_axis(marked, order, True, axis=-1)
    return marked


def hot_experts(share: Float) -> Hot:
    """Find the hot experts in loads relative to their layer's mean, [B, L, E]."""
    B, _, E = share.shape
    X = min(MOST_EXPERTS, E)
    peak, mean = share.max(axis=0), share.mean(axis=0)
    highest = np.argsort(-peak, axis=1, kind="stable")[:, :X]
    by_mean = np.argsort(-np.take_along_axis(mean, highest, axis=1), axis=1, kind="stable")
    experts = np.take_along_axis(highest, by_mean, axis=1)
    load = np.take_along_axis(share, experts[None], axis=2).transpose(1, 2, 0)
    count = num_hottest(E)
    hottest = _hottest(share, count)
    before = hottest[np.maximum(np.arange(B) - 1, 0)]
    kept_last = (hottest & before).sum(axis=2) / count
    kept_first = (hottest & hottest[0]).sum(axis=2) / count
    return Hot(
        experts=experts,
        load=np.ascontiguousarray(load),
        since_last=kept_last.mean(axis=1),
        since_first=kept_first.mean(axis=1),
        layer=int(kept_first.mean(axis=0).argmin()),
    )


def num_hottest(num_experts: int) -> int:
    """Return how many experts of a layer count as the hottest."""
    return max(1, num_experts // 8)
