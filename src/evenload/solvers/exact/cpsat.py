"""OR-tools' CP-SAT, run so that the same input gives the same answer.

Source: Perron and Didier, CP-SAT (OR-tools). One worker, a fixed seed, and a limit counted in the
solver's deterministic time: wall clock and the number of cores change nothing. Another version of
OR-tools may find another placement of the same worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STEPS_A_UNIT = 100  # CP-SAT's deterministic unit is a rough second: a step is a hundredth


SEED = 1


def load_cp_model() -> Any:
    """Import ``ortools.sat.python.cp_model``.

    Raises
    ------
    ValueError
        If OR-tools is not installed.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise ValueError(
            "solver 'exact' needs OR-tools, which is not installed; use "
            "pip install \"evenload[exact]\", or solver 'joint'"
        ) from error
    return cp_model


@dataclass
class Budget:
    """Steps that are left for one layer.

    Parameters
    ----------
    steps : float
        Hundredths of CP-SAT's deterministic time.
    """

    steps: float

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.steps < 1.0

    def run(self, model: Any, **parameters: Any) -> tuple[Any, str]:
        """Solve a model with what is left, and pay for it.

        Returns
        -------
        solver : cp_model.CpSolver
        status : str
            ``"OPTIMAL"``, ``"FEASIBLE"``, ``"INFEASIBLE"`` or ``"UNKNOWN"``.
        """
        solver = load_cp_model().CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = SEED
        solver.parameters.max_deterministic_time = self.steps / STEPS_A_UNIT
        for name, value in parameters.items():
            setattr(solver.parameters, name, value)
        status = solver.solve(model)
        # A model that is solved at once costs a step all the same, so that every search ends.
        self.steps -= max(1.0, solver.response_proto.deterministic_time * STEPS_A_UNIT)
        return solver, str(status.name)
