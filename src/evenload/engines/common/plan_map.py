"""From what an engine hands its policy to the map that it gets back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.checks import multiple
from evenload.engines.common.carried import EMPTY, Int, carried_map
from evenload.engines.common.options import Options
from evenload.engines.common.static_plan import StaticPlan, static_plan

NO_LOAD = "no layer has a load that is finite, not negative and not zero"


@dataclass(frozen=True, eq=False)
class Planned:
    """A map, and what it is worth.

    Parameters
    ----------
    map : int64 ndarray, [L, S]
        Expert in each slot.
    before, after : float
        Balancedness on the load, mean over the layers that were planned; not a number where
        nobody measured it.
    moves : int
        Experts that are new to their rank, over all layers.
    kept : str
        Why the old map is kept; empty where a plan was made.
    """

    map: Int
    before: float = math.nan
    after: float = math.nan
    moves: int = 0
    kept: str = ""


@dataclass(frozen=True, eq=False)
class Request:
    """What an engine asks for.

    Parameters
    ----------
    weight : ndarray, [L, E]
        Tokens of each logical expert.
    old : integer ndarray, [L, S'] or None
        What runs, see `carried.carried_map`.
    num_slots, num_groups, num_nodes, num_ranks : int

    Raises
    ------
    ValueError
        If the numbers do not divide, or there are fewer slots than experts.
    """

    weight: NDArray[Any]
    old: Int | None
    num_slots: int
    num_groups: int
    num_nodes: int
    num_ranks: int

    def __post_init__(self) -> None:
        L, E = self.weight.shape
        multiple("num_slots", self.num_slots, "num_ranks", self.num_ranks)
        multiple("num_ranks", self.num_ranks, "num_nodes", self.num_nodes)
        if self.num_slots < E:
            raise ValueError(f"num_slots={self.num_slots} is fewer than the {E} experts; use {E}")
        if self.old is not None and (self.old.ndim != 2 or len(self.old) != L):
            raise ValueError(f"the old map has shape {self.old.shape}; use [{L} layers, slots]")

    @property
    def carried(self) -> Int:
        """The old map on the slots that there are now: int64 [L, S]."""
        L, E = self.weight.shape
        return carried_map(self.old, L, E, self.num_slots, self.num_ranks)


def plan_map(request: Request, options: Options) -> Planned:
    """Plan the layers whose load tells anything, and keep the old map in the others.

    Only the request and the options decide, so ranks that share both come to the same bytes.

    Parameters
    ----------
    request : Request
    options : Options

    Returns
    -------
    Planned
        A layer with a load that is negative, not finite or all zero keeps the old map. An expert
        that stays on its rank stays in its slot.

    Raises
    ------
    ValueError
        For a solver, option or topology that the problem cannot be planned with, or a placement
        planned ahead that is of another shape.
    """
    if options.placement:
        return _as_planned_ahead(request, static_plan(options.placement))
    kept = request.carried
    sound = sound_layers(request.weight)
    layers = np.flatnonzero(sound)
    if layers.size == 0:
        return Planned(kept, kept=NO_LOAD)
    return _plan_layers(request, layers, kept, options)


def _as_planned_ahead(request: Request, plan: StaticPlan) -> Planned:
    """Return the placement from the file; an expert that stays on its rank stays in its slot."""
    from evenload.moves import keep_slots
    from evenload.placement import Placement

    L, E = request.weight.shape
    plan.check(L, E, request.num_slots, request.num_ranks)
    start = Placement(request.carried, plan.placement.cluster, E)
    placed = keep_slots(plan.placement, start)
    layers = np.flatnonzero(sound_layers(request.weight))
    load = np.ones((L, E))
    load[layers] = request.weight[layers]
    before, after = (p.balancedness(load)[layers] for p in (start, placed))
    return Planned(
        np.array(placed.physical_to_logical, np.int64),
        float(np.mean(before)) if layers.size else math.nan,
        float(np.mean(after)) if layers.size else math.nan,
        int(placed.moves_from(start).sum()),
    )


def sound_layers(weight: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of each layer whether its load is finite, not negative and not all zero: bool [L]."""
    fine: NDArray[np.bool_] = np.isfinite(weight).all(axis=1) & (weight >= 0).all(axis=1)
    return fine & (weight > 0).any(axis=1)


def _plan_layers(request: Request, layers: Int, kept: Int, options: Options) -> Planned:
    from evenload.cluster import Cluster
    from evenload.moves import keep_slots
    from evenload.placement import Placement
    from evenload.planner import solve

    E = request.weight.shape[1]
    cluster = Cluster(request.num_ranks, request.num_nodes, num_slots=request.num_slots)
    load = np.ascontiguousarray(request.weight[layers], np.float64)
    start = Placement(kept[layers], cluster, E)
    groups = 1 if request.num_groups % request.num_nodes or E % request.num_groups else (
        request.num_groups
    )  # fmt: skip
    current = None if request.old is None else _current(request, layers, start)
    plan = solve(
        load, cluster, current=current, num_groups=groups,
        topology=None if options.topology == "auto" else options.topology,
        solver=options.solver, **options.for_solver(current is not None),
    )  # fmt: skip
    placed, moves = plan.placement, plan.moves
    if current is None:
        moves = placed.moves_from(start)
    else:
        placed = keep_slots(placed, start)
    result = kept.copy()
    result[layers] = placed.physical_to_logical
    return Planned(
        result,
        float(np.mean(start.balancedness(load))),
        float(np.mean(plan.balancedness)),
        int(np.sum(moves)),
    )


def _current(request: Request, layers: Int, start: Any) -> Any:
    """Return what runs as a placement: with the ranks that come and go, where the map shows them.

    A rank without any expert in any layer is one that comes. Where the map shows anything else
    than whole ranks, what was made of it counts as running.
    """
    from evenload.cluster import Cluster
    from evenload.placement import Placement

    assert request.old is not None
    old = request.old[layers]
    width, slots = old.shape[1], request.num_slots // request.num_ranks
    if width % slots:
        return start
    empty = (old == EMPTY).reshape(len(old), width // slots, slots)
    alive = ~empty.all(axis=(0, 2))
    if not alive.any():
        return start
    cluster = Cluster(width // slots, slots_per_gpu=slots, alive=[bool(a) for a in alive])
    try:
        return Placement(old, cluster, request.weight.shape[1])
    except ValueError:
        return start
