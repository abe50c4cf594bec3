"""What a plan reaches in the window after, at several prices of a move: the frontier."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.drift_traces import Drift, drifts
from evenload import Placement, solve

PRICES = (0.0, 0.0005, 0.002, 0.01)
STRIDE = 2  # a long trace is planned for every other window
WINDOWS = 20  # served in all on each trace: short ones are relabelled more often
LEAST = 2


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Return, for each trace, moves and balancedness at each price, an entry a relabelling."""
    found = {}
    for drift in drifts(quick=False):
        name = f"{drift.name}, {drift.cluster.num_gpus} GPUs"
        say(name)
        found[name] = frontier(drift)
    return found


def frontier(drift: Drift) -> dict[str, Any]:
    """Follow a trace at each price.

    A search is a draw of what it could have found. So each trace is followed under several
    numberings of its experts, which ask the same question and draw anew.

    Returns
    -------
    dict
        ``moves`` and ``balancedness``: lists [prices][numberings], means over windows.
    """
    draws = max(LEAST, WINDOWS // len(_served(drift)))
    moves, reached = [], []
    for price in PRICES:
        rows = [_follow(drift, price, draw) for draw in range(draws)]
        moves.append([row[0] for row in rows])
        reached.append([row[1] for row in rows])
    return {"moves": moves, "balancedness": reached}


def _served(drift: Drift) -> range:
    return range(drift.warm, len(drift.trace), 1 if drift.is_short else STRIDE)


def _follow(drift: Drift, price: float, draw: int) -> tuple[float, float]:
    """Return the experts moved before a window and the balancedness in it, means over windows."""
    _, L, E = drift.trace.shape
    order = np.random.default_rng(draw).permutation(E) if draw else np.arange(E)
    trace = drift.trace[:, :, order]
    current = Placement.trivial(L, E, drift.cluster)
    reached, moved = [], []
    for t in _served(drift):
        free = t == drift.warm  # nobody is charged for leaving the engine's first placement
        planned = solve(
            trace[:t], drift.cluster, current=current, move_cost=0.0 if free else price
        ).placement
        moved.append(int(planned.moves_from(current).sum()))
        reached.append(float(planned.balancedness(trace[t]).mean()))
        current = planned
    return float(np.mean(moved[1:])), float(np.mean(reached))
