"""From what the command line says to a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.cli.prepare import cluster_for, living, slots_for, speeds
from evenload.cli.timing import find_redundancy, make_ready, timed_plan

if TYPE_CHECKING:
    from evenload.plan import Plan
    from evenload.redundancy import Redundancy

DEFAULT_TARGET = 0.99


@dataclass(frozen=True)
class Wanted:
    """What to plan, as it was given.

    Parameters
    ----------
    gpus, nodes : int
    slots, redundant : int or None, str or None
        Two ways to say how many slots; `redundant` may be ``auto``.
    target : float or None
        Balancedness that ``auto`` is to reach.
    speed : str or None
        Speed of each GPU, with commas.
    dead : list of int or None
        GPUs that are gone.
    how : dict
        Further arguments of `evenload.solve`.
    """

    gpus: int
    nodes: int
    slots: int | None
    redundant: str | None
    target: float | None
    speed: str | None
    dead: list[int] | None
    how: dict[str, Any]

    @property
    def automatic(self) -> bool:
        """Whether the number of slots is to be found."""
        return self.redundant == "auto"

    def check(self, curve: object, next_window: bool = False) -> None:
        """Raise `ValueError` for options that do not go together, before any work is done."""
        if not self.automatic:
            if curve is not None:
                raise ValueError("--curve is drawn for --redundant auto; give both, or neither")
            if self.target is not None:
                raise ValueError("--target is for --redundant auto; give both, or neither")
        if self.target is not None and not 0.0 < self.target <= 1.0:
            raise ValueError(
                f"--target {self.target:g} is outside (0, 1]; use {DEFAULT_TARGET:g} for example"
            )
        if self.automatic and next_window:
            raise ValueError(
                "--redundant auto looks at one load; leave out --next, or take a --window"
            )
        if self.automatic and "current" in self.how:
            raise ValueError(
                "--redundant auto looks for the slots to plan anew on; leave out --current, or "
                "give --slots"
            )
        if self.automatic and (self.slots, self.speed, self.dead) != (None, None, None):
            raise ValueError(
                "--redundant auto looks for the slots of equal living GPUs; leave out --slots, "
                "--speed and --dead"
            )


def effort_option(effort: str | None) -> dict[str, Any]:
    """Return the effort as an option of a solver; none if it was not given."""
    if effort is None:
        return {}
    return {"effort": int(effort) if effort.isascii() and effort.isdigit() else effort}


def price_option(price: float | None, topology: str | None) -> dict[str, Any]:
    """Return the price as an argument of `evenload.solve`; none if it was not given.

    Raises
    ------
    ValueError
        For a price where no topology looks at it.
    """
    if price is None:
        return {}
    if topology != "prefer":
        raise ValueError(
            f"--cross-node-price {price:g} is for --topology prefer; give both, or neither"
        )
    return {"cross_node_price": price}


def moves_options(
    current: Path | None, move_cost: float | None, max_moves: int | None
) -> dict[str, Any]:
    """Return what moving may cost, as arguments of `evenload.solve`, and where what runs now is.

    Raises
    ------
    ValueError
        For limits on moves without a placement to move from.
    """
    limits = {"move_cost": move_cost, "max_moves": max_moves}
    given = {name: value for name, value in limits.items() if value is not None}
    if current is None:
        for name in given:
            raise ValueError(
                f"--{name.replace('_', '-')} limits moves from --current; give both, or neither"
            )
        return {}
    return {"current": current, **given}


def plan_wanted(load: Any, wanted: Wanted) -> tuple[Plan, float, Redundancy | None]:
    """Plan a load; tell the milliseconds it took, and how the slots were found if they were."""
    if wanted.automatic:
        target = DEFAULT_TARGET if wanted.target is None else wanted.target
        found = find_redundancy(load, wanted.gpus, wanted.nodes, wanted=target, **wanted.how)
        plan, milliseconds = timed_plan(load, found.plan.placement.cluster, **wanted.how)
        return plan, milliseconds, found
    experts = load.shape[-1]
    slots = slots_for(wanted.slots, wanted.redundant, experts)
    alive = living(wanted.gpus, wanted.dead)
    cluster = cluster_for(wanted.gpus, wanted.nodes, slots, experts, speeds(wanted.speed), alive)
    make_ready(load, cluster, **wanted.how)
    plan, milliseconds = timed_plan(load, cluster, **wanted.how)
    return plan, milliseconds, None
