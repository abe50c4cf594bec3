"""One layer of a problem on the GPUs that are alive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evenload.bounds import balancedness_bound
from evenload.cluster import Cluster
from evenload.kernels.evaluate import count_replicas, gpu_load, heaviest_time
from evenload.problem import Problem
from evenload.solvers.joint import joint
from evenload.solvers.never_worse import BEYOND_ROUNDING

Int = NDArray[np.int64]
Float = NDArray[np.float64]

OPTIMAL = "optimal"
TARGET = "target reached"
LIMIT = "limit reached"
CLOSE = 1e-7  # relative: the integers of a GPU with a hundred slots add up no finer


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is known of a layer.

    Parameters
    ----------
    expert : int64 ndarray, [S]
        Expert in each living slot.
    least_time : float
        Proven: no placement's last GPU is done earlier. In tokens at the fastest GPU's speed.
    status : str
        `OPTIMAL`, `TARGET` or `LIMIT`.
    """

    expert: Int
    least_time: float
    status: str


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer, and what is known before the search.

    Parameters
    ----------
    load : float64 ndarray, [E]
    cluster : Cluster
        The living GPUs, on one node.
    node : tuple of int, [G]
        Node of each of them, numbered from 0.
    num_groups : int
        Groups that are kept on one node, equally many on each; 1 for none.
    known : Outcome
        A placement to start from and a proven least time.
    goal : float
        Time that is good enough; 0 where only the best is.
    """

    load: Float
    cluster: Cluster
    node: tuple[int, ...]
    num_groups: int
    known: Outcome
    goal: float

    @property
    def mean_time(self) -> float:
        """When all GPUs are done if the load could be divided at will."""
        return float(self.load.sum() / self.cluster.capacity.sum())

    def time(self, expert: Int) -> float:
        """When the last GPU is done under a placement [S]."""
        row, E = expert[None, :], self.load.size
        count = count_replicas(row, E)
        per_gpu = gpu_load(self.load[None, :], row, count, self.cluster.first_slot)
        return float(heaviest_time(per_gpu, self.cluster.capacity)[0])

    def outcome(self, expert: Int, least_time: float) -> Outcome:
        """Judge a placement; the start is kept where that is as good."""
        start = self.known.expert
        best = expert if self.time(expert) * BEYOND_ROUNDING < self.time(start) else start
        reached = self.time(best)
        least = min(max(least_time, self.known.least_time), reached)
        if reached <= least * (1.0 + CLOSE):
            return Outcome(best, least, OPTIMAL)
        return Outcome(best, least, TARGET if reached <= self.goal else LIMIT)


def layers(problem: Problem, target: float | None) -> Iterator[Layer]:
    """Take a problem apart.

    Parameters
    ----------
    problem : Problem
    target : float, optional
        Balancedness in (0, 1] that is good enough.
    """
    cluster = problem.cluster
    living = cluster.only(cluster.living_gpus)
    node = tuple(n for n, gpus in enumerate(cluster.living_by_node) for _ in gpus)
    groups = problem.num_groups if problem.hierarchical else 1
    start = joint(problem).physical_to_logical[:, cluster.living_slot]
    mean = problem.load.sum(axis=1) / living.capacity.sum()
    least = mean / balancedness_bound(problem)
    goal = mean / target if target is not None else np.zeros_like(mean)
    for layer in range(problem.num_layers):
        known = Outcome(start[layer], float(least[layer]), LIMIT)
        row = Layer(problem.load[layer], living, node, groups, known, float(goal[layer]))
        yield replace(row, known=row.outcome(known.expert, known.least_time))
