"""The joint search and the bound against proven optima, on problems small enough for those."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.measure import once
from benchmarks.tables import number, table
from evenload import Cluster, Placement
from evenload.bounds import balancedness_bound
from evenload.problem import Problem
from evenload.solvers import get_solver
from evenload.synth import lognormal_load

ALIKE = 1e-7  # relative: what the exact solver calls optimal
ROUNDING = 1e-9  # absolute: a bound below the optimum by more than this would be wrong
HEAD = ("E/S/G load", "K", "layers", "proven", "optimum, mean", "joint, mean", "joint optimal",
        "optimum - joint, largest",
        "bound - optimum, median", "largest", "least", "s a layer")  # fmt: skip


@dataclass(frozen=True)
class Small:
    """Layers of a lognormal load that the exact solver settles in seconds each.

    Attributes
    ----------
    layers, experts, slots, gpus : int
        L, E, S and G.
    sigma : float
        Of the load.
    """

    layers: int
    experts: int
    slots: int
    gpus: int
    sigma: float

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"{self.experts}/{self.slots}/{self.gpus} lognormal {self.sigma}"

    def build(self) -> Problem:
        """Return the problem."""
        load = lognormal_load(self.layers, self.experts, self.sigma, seed=0)
        return Problem.build(load, Cluster(self.gpus, num_slots=self.slots))


PAIRS = [
    Small(layers, experts, slots, slots // 2, sigma)
    for layers, experts, slots in ((16, 64, 72), (8, 128, 144), (3, 256, 288))
    for sigma in (0.5, 1.0)
] + [Small(58, 256, 320, 160, 1.0)]  # the whole load of a figure that is wanted: see `efforts`
FEW_EXPERTS = [
    Small(16, 8, 9, 3, 1.0),
    Small(8, 8, 12, 4, 1.0),
    Small(6, 10, 12, 4, 1.0),
    Small(8, 8, 12, 3, 1.0),
    Small(6, 10, 15, 3, 1.0),
    Small(4, 12, 15, 3, 1.0),
]


def problems(quick: bool) -> list[Small]:
    """Return the problems; two quick ones where few seconds have to do."""
    return [PAIRS[1], FEW_EXPERTS[0]] if quick else PAIRS + FEW_EXPERTS


def missing() -> str:
    """Return why there are no optima here, or nothing."""
    if find_spec("ortools") is None:
        return 'solver "exact" needs OR-tools, which is not installed: pip install ".[exact]"'
    return ""


def measure(small: Small, say: Callable[[str], None]) -> dict[str, Any]:
    """Return how the joint search and the bound compare with the optima that are proven."""
    from evenload.solvers.exact import solve_exactly

    say(f"optima of {small.name}")
    problem = small.build()
    seconds, solution = once(lambda: solve_exactly(problem))
    best = Placement(solution.physical_to_logical, problem.cluster, problem.num_experts)
    proven = np.array([status == "optimal" for status in solution.status])
    optimum = best.balancedness(problem.load)[proven]
    joint = get_solver("joint")(problem).balancedness(problem.load)[proven]  # type: ignore[union-attr]
    slack = balancedness_bound(problem)[proven] - optimum
    return {
        "name": small.name,
        "slots_per_gpu": small.slots // small.gpus,
        "layers": small.layers,
        "proven": int(proven.sum()),
        "optimum": float(optimum.mean()),
        "joint": float(joint.mean()),
        "joint_optimal": int((joint >= optimum * (1.0 - ALIKE)).sum()),
        "distance": np.maximum(optimum - joint, 0.0).tolist(),
        "slack": slack.tolist(),
        "seconds": seconds / small.layers,
    }


def render(results: list[dict[str, Any]], why_not: str) -> str:
    """Return what the optima say of the bound, and the Markdown table."""
    if why_not:
        return f"Not run: {why_not}."
    known = [result for result in results if result["proven"]]
    least = min((slack for result in known for slack in result["slack"]), default=0.0)
    honest = "is nowhere below an optimum" if least >= -ROUNDING else f"is WRONG by {-least:.2e}"
    layers = sum(result["proven"] for result in known)
    optimal = sum(result["joint_optimal"] for result in known)
    return (
        'Effort "standard" of both solvers; distances are of layers whose optimum is proven. The '
        f"bound {honest}. The joint search is optimal in {optimal} of {layers} layers.\n\n"
        + table(HEAD, [_row(result) for result in results])
    )


def _row(result: dict[str, Any]) -> list[str]:
    slack, proven = result["slack"], result["proven"]
    figures = (max(result["distance"]), np.median(slack), max(slack), min(slack)) if proven else ()
    return [
        result["name"],
        str(result["slots_per_gpu"]),
        str(result["layers"]),
        str(proven),
        *(f"{result[name]:.5f}" if proven else "-" for name in ("optimum", "joint")),
        f"{result['joint_optimal'] / proven:.0%}" if proven else "-",
        *([f"{max(figure, 0.0) if figure > -ROUNDING else figure:.5f}" for figure in figures]
          or ["-"] * 4),
        number(result["seconds"]),
    ]  # fmt: skip
