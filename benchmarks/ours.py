"""evenload's solvers under the signature of the published planners."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Planner
from evenload import Cluster, solve

SOLVERS = ("greedy", "iterated-greedy", "auto")


def planners() -> list[Planner]:
    """Return one planner a solver: the whole public call, checks and evaluation included."""
    return [Planner(label(name), partial(_plan, name)) for name in SOLVERS]


def label(solver: str) -> str:
    """Return a solver's name in the tables."""
    return f"evenload {solver}"


def _plan(
    solver: str,
    load: NDArray[Any],
    num_slots: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
) -> NDArray[np.int64]:
    cluster = Cluster(num_gpus, num_nodes, num_slots=num_slots)
    plan = solve(load, cluster, num_groups=num_groups, solver=solver)
    slots: NDArray[np.int64] = plan.placement.physical_to_logical
    return slots
