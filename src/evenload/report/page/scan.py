"""One walk over the trace, window by window: all that the page shows of loads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evenload.placement import Placement
from evenload.report.page.sample import Buckets
from evenload.report.summary import relative_load

if TYPE_CHECKING:
    from evenload.replay import Replay
    from evenload.trace import Trace

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scan:
    """What one walk over the served windows gathers.

    Parameters
    ----------
    start_balancedness : float64 ndarray, [W, L]
        What the placement at the start reaches in every window.
    share : float64 ndarray, [B, L, E]
        Load of each expert relative to its layer's mean, averaged over each run of windows.
    maps : float64 ndarray, [P + 1, N, L, G]
        GPU load relative to the layer's mean in the shown windows: with the placement at the start,
        then with each policy's; NaN for a GPU that is gone.
    """

    start_balancedness: Float
    share: Float
    maps: Float


def start_of(replay: Replay, num_experts: int) -> Placement:
    """Return the placement that a replay began with."""
    return Placement(replay.placements[0], replay.cluster, num_experts)


def _served(replay: Replay, num_experts: int, shown: Int) -> dict[int, Placement]:
    """Return the placement that served each shown window, by index; equal ones are one object."""
    numbers = np.asarray(replay.served)[shown]
    made = {
        int(k): Placement(replay.placements[k], replay.cluster, num_experts)
        for k in np.unique(numbers)
    }
    return {int(w): made[int(k)] for w, k in zip(shown, numbers, strict=True)}


def _relative_experts(load: Float) -> Float:
    mean = load.mean(axis=1, keepdims=True)
    relative: Float = np.divide(load, mean, out=np.ones_like(load), where=mean > 0.0)
    return relative


def _loads(replay: Replay, trace: Trace) -> Iterator[Float]:
    merged = trace.merged(replay.window)
    for window in replay.windows:
        yield merged.window(int(window))


def scan(replays: Sequence[Replay], trace: Trace, shown: Int, buckets: Buckets) -> Scan:
    """Walk over the served windows once; no more than one window of loads is held.

    Parameters
    ----------
    replays : sequence of Replay
        Checked by `check_replays`.
    trace : Trace
    shown : int64 ndarray, [N]
        Indices of the windows that get heat maps, ascending.
    buckets : Buckets
        Runs of windows that hot experts are averaged over.
    """
    first, E = replays[0], trace.num_experts
    W, L = first.balancedness.shape
    start = start_of(first, E)
    served = [_served(replay, E, shown) for replay in replays]
    at = {int(w): n for n, w in enumerate(shown)}
    balancedness = np.empty((W, L))
    share = np.zeros((len(buckets), L, E))
    maps = np.empty((1 + len(replays), len(shown), L, first.cluster.num_gpus))
    run_of = np.repeat(np.arange(len(buckets)), buckets.sizes)
    for w, load in enumerate(_loads(first, trace)):
        balancedness[w] = start.balancedness(load)
        share[run_of[w]] += _relative_experts(load) / buckets.sizes[run_of[w]]
        if w in at:
            placements = (start, *(of[w] for of in served))
            for p, placement in enumerate(placements):
                maps[p, at[w]] = relative_load(placement.gpu_load(load), first.cluster.capacity)
    return Scan(balancedness, share, maps)
