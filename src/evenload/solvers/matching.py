"""A fresh plan brought near to what runs, by exchanging whole GPUs."""

from __future__ import annotations

import numpy as np

from evenload.problem import Problem
from evenload.solvers.current import Flag
from evenload.solvers.fleets import GpuArrays
from evenload.solvers.rows import Int
from evenload.threads import spread


def match_gpus(problem: Problem, gpus: GpuArrays, placed: Int, old: Flag) -> Int:
    """Give the GPUs of a plan the numbers under which most experts stay, see `core.matching`.

    Only GPUs of the same slots and speed change places; where groups are kept on nodes, all of a
    node stay together.
    """
    from evenload.core.matching import relabel

    alike = np.stack([gpus.slots, gpus.unit_time], axis=1)
    kind = np.unique(alike, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    blocks = (
        problem.cluster.living_by_node if problem.hierarchical else (problem.cluster.living_gpus,)
    )
    first_gpu = np.concatenate([[0], np.cumsum([len(gpus) for gpus in blocks])])
    matched = placed.copy()

    def run(first: int, end: int) -> None:
        relabel(matched[first:end], gpus.slots, kind, first_gpu, old[first:end])

    spread(len(placed), placed.size * len(gpus.slots), run)
    return matched
