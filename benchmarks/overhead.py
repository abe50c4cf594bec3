"""The whole call against its kernels: what checks, evaluation and the plan object add."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.loads import Case
from benchmarks.measure import interleaved, ratio, summary
from benchmarks.tables import number, table, times
from evenload import solve
from evenload.kernels.iterated_greedy import iterated_greedy as iterated_greedy_kernel
from evenload.kernels.local_search import local_search as local_search_kernel
from evenload.problem import Problem
from evenload.solvers import get_solver
from evenload.solvers.local_search import EFFORT_A_GPU, FINE_TARGET, LEAST_EFFORT
from evenload.threads import spread

# "joint" against the kernels of local search, which is all it runs where swaps are enough.
SOLVERS = ("iterated-greedy", "local-search", "joint")
HEAD = ("load", "solver", "whole call ms", "solver ms", "kernels ms", "whole call / kernels")


def compare(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Time ``solve``, the solver on a checked problem, and the kernels on prepared arrays."""
    problem = Problem.build(case.load, case.cluster)
    results = []
    for solver in SOLVERS:
        seconds = interleaved(
            {
                "whole": partial(solve, case.load, case.cluster, solver=solver),
                "prepared": partial(get_solver(solver), problem),
                "kernels": kernels(problem, solver),
            },
            rounds,
        )
        result = {name: summary(values) for name, values in seconds.items()}
        share = ratio(seconds["whole"], seconds["kernels"])
        results.append({"name": case.name, "solver": solver, "ratio": share} | result)
    return results


def kernels(problem: Problem, solver: str) -> Callable[[], None]:
    """Return a call of a solver's compiled part alone, on as many threads as the solver uses.

    It takes float64 loads and writes to an array that is there already. Without groups only.
    """
    gpus, slots = problem.cluster.num_gpus, problem.cluster.num_slots
    expert = np.empty((problem.num_layers, slots), np.int64)
    effort = max(LEAST_EFFORT, EFFORT_A_GPU * gpus)

    def run(first: int, end: int) -> None:
        load, part = problem.load[first:end], expert[first:end]
        if solver in ("local-search", "joint"):
            local_search_kernel(load, gpus, 1.0, FINE_TARGET, effort, part)
        else:
            iterated_greedy_kernel(load, gpus, 5, 1.05, 20, math.inf, part)

    return lambda: spread(problem.num_layers, expert.size, run)


def render(results: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    columns = ("whole", "prepared", "kernels")
    rows = [
        (
            result["name"],
            result["solver"],
            *(number(result[column]["median"]) for column in columns),
            times(result["ratio"]),
        )
        for result in results
    ]
    return (
        "Of joint, what `auto` runs, the kernels are those of local-search: in these loads it adds "
        "the check that local search came close enough.\n\n" + table(HEAD, rows)
    )
