"""One layer of a problem on the GPUs that are alive, and CP-SAT within a budget of steps.

Source: Perron and Didier, CP-SAT (OR-tools), run so that the same input gives the same answer: one
worker, a fixed seed, and a limit counted in the solver's deterministic time. Wall clock and the
number of cores change nothing. Another version of OR-tools may find another placement of the same
worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.bounds import balancedness_bound
from evenload.cluster import Cluster
from evenload.extras import needed
from evenload.problem import Problem
from evenload.seconds import least_seconds, replica_seconds
from evenload.solvers.by_node import BEYOND_ROUNDING
from evenload.solvers.incremental import incremental
from evenload.solvers.joint import joint

Int = NDArray[np.int64]
Float = NDArray[np.float64]

OPTIMAL = "optimal"
TARGET = "target reached"
LIMIT = "limit reached"
CLOSE = 1e-7  # relative: the integers of a GPU with a hundred slots add up no finer
STEPS_A_UNIT = 100  # CP-SAT's deterministic unit is a rough second: a step is a hundredth
SEED = 1
MOST_OPTIONS = 500_000  # that a model takes: about a GB in CP-SAT


def load_cp_model() -> Any:
    """Import ``ortools.sat.python.cp_model``; a ValueError where OR-tools is not installed."""
    module = "ortools.sat.python.cp_model"
    return needed(module, "OR-tools", "exact", "solver 'exact'", instead="solver 'joint'")


@dataclass
class Budget:
    """Steps that are left for one layer: hundredths of CP-SAT's deterministic time."""

    steps: float

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.steps < 1.0

    def run(self, model: Any, **parameters: Any) -> tuple[Any, str]:
        """Solve a model with what is left, and pay for it; return the solver and its status."""
        solver = load_cp_model().CpSolver()
        parameters |= {"num_workers": 1, "random_seed": SEED}
        parameters["max_deterministic_time"] = self.steps / STEPS_A_UNIT
        for name, value in parameters.items():
            setattr(solver.parameters, name, value)
        status = solver.solve(model)
        # A model that is solved at once costs a step all the same, so that every search ends.
        self.steps -= max(1.0, solver.response_proto.deterministic_time * STEPS_A_UNIT)
        return solver, str(solver.status_name(status))


class Outcome(NamedTuple):
    """What is known of a layer: the expert in each living slot [S], and the rest of `Solution`."""

    expert: Int
    least_time: float
    status: str


class Layer(NamedTuple):
    """One layer, and what is known before the search.

    Parameters
    ----------
    share : float64 ndarray, [E, R]
        Time of one replica at full speed, by how many there are: all numbers that there may be. A
        part of the expert's tokens, or seconds.
    whole : float64 ndarray, [E]
        What each expert costs with its best number of replicas.
    by_time : bool
        Whether replicas cost other than their part of that.
    cluster : Cluster
        The living GPUs, on one node.
    node : tuple of int, [G]
        Node of each of them, numbered from 0.
    num_groups : int
        Groups that are kept on one node, equally many on each; 1 for none.
    start : int64 ndarray, [S]
        A placement to start from.
    least_time : float
        Proven of all placements.
    goal : float
        Time that is good enough; 0 where only the best is.
    """

    share: Float
    whole: Float
    by_time: bool
    cluster: Cluster
    node: tuple[int, ...]
    num_groups: int
    start: Int
    least_time: float
    goal: float

    @property
    def mean_time(self) -> float:
        """When all GPUs are done if the load could be divided at will."""
        return float(self.whole.sum() / self.cluster.capacity.sum())

    @property
    def num_experts(self) -> int:
        """Logical experts E."""
        return len(self.share)

    def time(self, expert: Int) -> float:
        """When the last GPU is done under a placement [S]."""
        count = np.bincount(expert, minlength=self.num_experts)
        each = self.share[expert, count[expert] - 1]
        gpu_load = np.bincount(self.cluster.gpu_of_slot, each)
        return float((gpu_load / self.cluster.capacity).max())

    def outcome(self, expert: Int, least_time: float = 0.0, least_apart: float = 0.0) -> Outcome:
        """Judge a placement [S]; the start is kept where that is as good.

        `least_time` is proven of all placements, `least_apart` of those without avoidable
        duplicates.
        """
        better = self.time(expert) * BEYOND_ROUNDING < self.time(self.start)
        best = expert if better else self.start
        reached = self.time(best)
        least = min(max(least_time, self.least_time), reached)
        if reached <= max(least, least_apart) * (1.0 + CLOSE):
            return Outcome(best, least, OPTIMAL)
        return Outcome(best, least, TARGET if reached <= self.goal else LIMIT)


def layers(problem: Problem, target: float | None) -> Iterator[Layer]:
    """Take a problem apart; a balancedness of `target` is good enough, None for only the best."""
    cluster = problem.cluster
    living = cluster.only(cluster.living_gpus)
    node = tuple(n for n, gpus in enumerate(cluster.living_by_node) for _ in gpus)
    groups = problem.num_groups if problem.hierarchical else 1
    replicas = np.arange(1, cluster.num_living_slots - problem.num_experts + 2)
    whole, share = problem.load, problem.load[:, :, None] / replicas
    if problem.by_time:
        share = replica_seconds(problem, len(replicas))
        whole = (share * replicas).min(axis=2)
        start, least = incremental(problem.alone).placement, least_seconds(problem)
    else:
        start = joint(problem)
        least = problem.load.sum(axis=1) / living.capacity.sum() / balancedness_bound(problem)
    rows = start.physical_to_logical[:, cluster.living_slot]
    for n, row in enumerate(rows):
        costs = share[n], whole[n], problem.by_time
        layer = Layer(*costs, living, node, groups, row, float(least[n]), 0.0)
        yield layer if target is None else layer._replace(goal=layer.mean_time / target)
