"""How good a placement is, judged alike for every planner."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.loads import Case
from evenload import Placement


def placed(case: Case, physical_to_logical: NDArray[np.int64]) -> Placement:
    """Return a planner's answer as a checked placement (an expert left out is an error)."""
    return Placement(physical_to_logical, case.cluster, case.load.shape[1])


def judge(case: Case, placement: Placement) -> dict[str, Any]:
    """Return balancedness (mean, worst layer), duplicates and moves from the trivial placement."""
    balancedness = placement.balancedness(case.load)
    layers, experts = case.load.shape
    start = Placement.trivial(layers, experts, case.cluster)
    return {
        "mean": float(balancedness.mean()),
        "worst": float(balancedness.min()),
        "duplicates": int(placement.duplicates.sum()),
        "moves": int(placement.moves_from(start).sum()),
    }


def share_at_least(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the share of layers where `ours` is not below `theirs` (beyond rounding)."""
    return float(np.mean(np.asarray(ours) >= np.asarray(theirs) * (1 - 1e-12)))
