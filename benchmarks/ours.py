"""evenload's solvers under the signature of the published planners."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Planner
from evenload import Cluster, solve

SOLVERS = ("greedy", "iterated-greedy", "auto")
EFFORTS = ("fast", "standard", "thorough")


def planners() -> list[Planner]:
    """Return one planner a solver: the whole public call, checks and evaluation included."""
    return [Planner(label(name), partial(_plan, name, {})) for name in SOLVERS]


def effort_planners() -> list[Planner]:
    """Return the quick solvers, and the joint search at each of its efforts."""
    quick = [
        Planner(name, partial(_plan, name, {}))
        for name in ("greedy", "iterated-greedy", "local-search")
    ]
    return quick + [
        Planner(f"joint {effort}", partial(_plan, "joint", {"effort": effort}))
        for effort in EFFORTS
    ]


def label(solver: str) -> str:
    """Return a solver's name in the tables."""
    return f"evenload {solver}"


def _plan(
    solver: str,
    options: dict[str, Any],
    load: NDArray[Any],
    num_slots: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
) -> NDArray[np.int64]:
    cluster = Cluster(num_gpus, num_nodes, num_slots=num_slots)
    plan = solve(load, cluster, num_groups=num_groups, solver=solver, **options)
    slots: NDArray[np.int64] = plan.placement.physical_to_logical
    return slots
