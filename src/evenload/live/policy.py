"""What a `Balancer` plans, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from evenload.arrays import Float, Int
from evenload.cluster import Cluster
from evenload.placement import Placement
from evenload.planner import solve
from evenload.survive import repairs


@dataclass(frozen=True)
class Policy:
    """Plans by `evenload.solve` from what runs, every so many steps.

    Another policy is an object with the same attribute and methods; one rank asks it, and the
    others follow what it says if it is legal.
    """

    every: int = 0  #: steps between two plans; 0 for none but those that are asked for
    #: Of `evenload.solve`, such as ``survive="gpu"`` or ``move_cost``.
    options: dict[str, Any] = field(default_factory=dict)

    def plan(self, load: Float, current: Placement, cluster: Cluster) -> Int:
        """Return the map to go to from what runs, int64 [L, S], on the GPUs that are alive.

        Parameters
        ----------
        load : float64 [L, E]
            Tokens of the last window, of all ranks.
        current : Placement
            What runs, or ran before GPUs died.
        cluster : Cluster
            The GPUs that are alive now.
        """
        options: dict[str, Any] = {"solver": "incremental", "current": current, **self.options}
        try:
            return solve(load, cluster, **options).placement.rows
        except ValueError:
            if "survive" not in options:
                raise
        del options["survive"]  # with too few slots for that, balance what is left
        return solve(load, cluster, **options).placement.rows

    def repair(self, load: Float, current: Placement, cluster: Cluster) -> Int:
        """Return the map to go to after deaths: as few moves as bring each expert back."""
        options = {name: v for name, v in self.options.items() if name != "survive"}
        how: dict[str, Any] = {"solver": "incremental", "current": current, **options}
        how["max_moves"] = 0
        return solve(load, cluster, **how).placement.rows

    def ahead(self, load: Float, current: Placement) -> dict[int, Int]:
        """Return the map to go to for each GPU that may die, see `evenload.survive.repairs`.

        Empty where a death would leave too few slots: nothing can be planned for that.
        """
        options = {n: v for n, v in self.options.items() if n not in ("survive", "solver")}
        options |= {"max_moves": 0}
        try:
            plans = repairs(current, load, **options)
        except ValueError:
            return {}
        return {gpu: plan.placement.rows for gpu, plan in plans.items()}
