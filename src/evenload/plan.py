"""What a solver's answer is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.arrays import keep_numpy
from evenload.bounds import balancedness_bound
from evenload.placement import Placement
from evenload.problem import Problem

Float = NDArray[np.float64]


def straggler_time(gpu_load: Float) -> float:
    """Sum over layers of the heaviest GPU's load, relative to the sum of the means.

    Parameters
    ----------
    gpu_load : float64 ndarray, [L, G]
        In any unit.

    Returns
    -------
    float
        At least 1; 1 where there is no load at all.
    """
    heaviest, mean = gpu_load.max(axis=1), gpu_load.mean(axis=1)
    scale = heaviest.max()
    if scale == 0.0:
        return 1.0
    return max(1.0, float((heaviest / scale).sum() / (mean / scale).sum()))


@dataclass(frozen=True, eq=False)
class Plan:
    """A placement with what it reaches on the load it was made for.

    Parameters
    ----------
    placement : Placement
        Where every expert lives.
    balancedness : float64, [L]
        Mean / max GPU load of each layer, in (0, 1].
    bound : float64, [L]
        Proven upper limit on the balancedness of any placement, or of any that keeps each group on
        one node where groups divide over the nodes; see `evenload.bounds`.
    duplicates : int64, [L]
        Slots wasted on an expert that their GPU holds already.
    straggler_time : float
        Sum over layers of the heaviest GPU's load, relative to the sum of the means: what a forward
        pass waits for, at least 1.
    solver : str
        Name of the solver that ran.
    reason : str
        Why that one.
    notes : tuple of str
        What was not possible, with the reason.
    """

    placement: Placement
    balancedness: Any
    bound: Any
    duplicates: Any
    straggler_time: float
    solver: str
    reason: str
    notes: tuple[str, ...] = ()

    @classmethod
    def evaluate(
        cls,
        problem: Problem,
        placement: Placement,
        solver: str,
        reason: str,
        notes: tuple[str, ...],
    ) -> Plan:
        """Measure a placement of a problem.

        Raises
        ------
        ValueError
            If the placement is not one of this problem's layers, experts and cluster.
        """
        from evenload.kernels.evaluate import balancedness

        if placement.cluster != problem.cluster:
            raise ValueError(
                f"placement is on {placement.cluster}, and the problem on {problem.cluster}; "
                "use the same cluster"
            )
        placement = placement.rewrapped(keep_numpy)
        gpu_load = placement.gpu_load(problem.load)
        wrap = problem.rewrap
        return cls(
            placement=placement.rewrapped(wrap),
            balancedness=wrap(balancedness(gpu_load)),
            bound=wrap(balancedness_bound(problem)),
            duplicates=wrap(placement.duplicates),
            straggler_time=straggler_time(gpu_load),
            solver=solver,
            reason=reason,
            notes=notes,
        )

    @property
    def gap(self) -> Any:
        """How far each layer may be from the best, ``bound - balancedness``, [L]."""
        return self.bound - self.balancedness

    def summary(self) -> str:
        """Return the plan's figures in a few lines of text."""
        p = self.placement
        lines = [
            f"{p.num_layers} layers, {p.num_experts} experts in {p.num_slots} slots on "
            f"{p.cluster.num_gpus} GPUs ({p.cluster.num_nodes} nodes)",
            f"solver          {self.solver}: {self.reason}",
            f"balancedness    mean {float(self.balancedness.mean()):.4f}, "
            f"worst layer {float(self.balancedness.min()):.4f}",
            f"bound           mean {float(self.bound.mean()):.4f} "
            f"(gap {float(self.gap.mean()):.4f}, largest {float(self.gap.max()):.4f})",
            f"straggler time  {self.straggler_time:.4f} x the mean",
            f"duplicates      {int(self.duplicates.sum())}",
        ]
        return "\n".join([*lines, *(f"note            {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return (
            f"<Plan by {self.solver}: balancedness {float(self.balancedness.mean()):.4f}, bound "
            f"{float(self.bound.mean()):.4f}, {self.placement!r}>"
        )
