"""Any cluster: a 0/1 variable for each count of each expert, an integer for each GPU it is on.

Times are integers of 30 bits below the mean, rounded down, so that what CP-SAT proves of them holds
for the real ones; the placement it finds is judged by its real times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.solvers.exact.layer import Budget, Layer, Outcome, load_cp_model

Int = NDArray[np.int64]

BITS = 30
MOST_VARIABLES = 500_000  # about a GB in CP-SAT
PARAMETERS = {"interleave_search": True}  # several strategies in turn, on one worker


@dataclass(frozen=True)
class Sizes:
    """What each GPU may hold of an expert, and how many replicas an expert may have.

    Parameters
    ----------
    fewest, most : tuple of int, [G]
        Replicas of one expert on each GPU.
    most_replicas : int
    """

    fewest: tuple[int, ...]
    most: tuple[int, ...]
    most_replicas: int

    @classmethod
    def of(cls, layer: Layer, apart: bool) -> Sizes:
        """Work them out for a layer.

        With `apart`, for placements without avoidable duplicates: 1 where a GPU has a slot for all
        experts, more than one only where it has slots left then. Else for all placements.
        """
        E, slots = layer.load.size, layer.cluster.slots
        may_hold = E if layer.num_groups == 1 else E // (max(layer.node) + 1)
        most = tuple(max(1, n - may_hold + 1) if apart else n for n in slots)
        return cls(
            fewest=tuple(int(apart and n >= may_hold) for n in slots),
            most=most,
            most_replicas=min(sum(most), sum(slots) - E + 1),
        )


def _model(
    layer: Layer, sizes: Sizes, start: Int, costs: list[Int], bounds: tuple[int, int]
) -> tuple[Any, dict[tuple[int, int, int], Any]]:
    """Model a layer: every expert has one count and that many replicas, every slot one expert.

    GPUs that are alike are left to CP-SAT, which finds such symmetries itself: to demand an order
    of them only gets in the way of the hint.

    Parameters
    ----------
    start : int64 ndarray, [S]
        A placement to try first.
    costs : list of int64 ndarray, [E, most_replicas]
        Time of one replica of each expert on each GPU, for every number of replicas.
    bounds : tuple of int
        Least and most time of the last GPU, which is minimised.

    Returns
    -------
    model : cp_model.CpModel
    held : dict of cp_model.IntVar
        (expert, count, GPU) to the replicas on that GPU if it has that many, else 0.
    """
    model = load_cp_model().CpModel()
    E, G = layer.load.size, len(layer.node)
    time = model.new_int_var(*bounds, "")
    begun = [np.bincount(part, minlength=E) for part in layer.by_gpu(start)]
    total = np.bincount(start, minlength=E)
    held = {}
    for e in range(E):
        has = [model.new_bool_var("") for _ in range(sizes.most_replicas)]
        model.add_exactly_one(has)
        for c, there in enumerate(has, 1):
            model.add_hint(there, int(total[e] == c))
            for g in range(G):
                most = min(c, sizes.most[g])
                held[e, c, g] = model.new_int_var(0, most, "")
                model.add(held[e, c, g] <= most * there)
                model.add_hint(held[e, c, g], int(begun[g][e] * (total[e] == c)))
            model.add(sum(held[e, c, g] for g in range(G)) == c * there)
    choices = [(e, c) for e in range(E) for c in range(1, sizes.most_replicas + 1)]
    for g, cost in enumerate(costs):
        model.add(sum(held[e, c, g] for e, c in choices) == layer.cluster.slots[g])
        model.add(sum(int(cost[e, c - 1]) * held[e, c, g] for e, c in choices) <= time)
    _stay_on_node(model, held, layer, sizes)
    model.minimize(time)
    return model, held


def _stay_on_node(model: Any, held: dict[Any, Any], layer: Layer, sizes: Sizes) -> None:
    """Keep every group on one node, and equally many on each.

    With one node for all this still says that a GPU with room for every expert holds them all.
    """
    nodes, groups = max(layer.node) + 1, layer.num_groups
    at: dict[tuple[int, int], Any] = {(0, n): 1 for n in range(nodes)}
    if groups > 1:
        at = {(i, n): model.new_bool_var("") for i in range(groups) for n in range(nodes)}
        for i in range(groups):
            model.add_exactly_one(at[i, n] for n in range(nodes))
        for n in range(nodes):
            model.add(sum(at[i, n] for i in range(groups)) == groups // nodes)
    size = layer.load.size // groups
    for e in range(layer.load.size):
        for g, node in enumerate(layer.node):
            on_gpu = sum(held[e, c, g] for c in range(1, sizes.most_replicas + 1))
            if groups > 1:
                model.add(on_gpu <= sizes.most[g] * at[e // size, node])
            if sizes.fewest[g]:
                model.add(on_gpu >= at[e // size, node])


def _minimise(
    layer: Layer, budget: Budget, start: Int, sizes: Sizes, part: float
) -> tuple[Int, float]:
    """Find the counts and places whose last GPU is done first, and what is proven of that time.

    Parameters
    ----------
    start : int64 ndarray, [S]
        A placement to go on from.
    sizes : Sizes
        Of the placements to search.
    part : float
        Of the budget.
    """
    scale = (1 << BITS) / layer.mean_time
    goal = int(max(layer.known.least_time * (1.0 - 1e-12), layer.goal) * scale) - max(sizes.most)
    share = layer.load[:, None] / np.arange(1, sizes.most_replicas + 1)
    costs = [
        np.floor(share / speed * scale * (1.0 - 1e-15)).astype(np.int64)
        for speed in layer.cluster.capacity
    ]
    bounds = max(goal, 0), int(layer.time(start) * scale) + 1
    model, held = _model(layer, sizes, start, costs, bounds)
    solver, status = budget.run(model, part, **PARAMETERS)
    if status not in ("OPTIMAL", "FEASIBLE"):
        return start, 0.0
    found = np.zeros((len(layer.node), layer.load.size), np.int64)
    for (e, _, g), var in held.items():
        found[g, e] += solver.value(var)
    expert = np.concatenate([np.repeat(np.arange(layer.load.size), row) for row in found])
    proven = solver.best_objective_bound
    return expert, proven / scale if proven > goal else 0.0


def search(layer: Layer, budget: Budget) -> Outcome:
    """Find the best placement without avoidable duplicates, then prove how good any one can be.

    A placement may be better for a duplicate, where GPUs have slots for nearly all experts: one
    half of the budget is for the placement, and what is left for the proof.

    Raises
    ------
    ValueError
        If the layer needs more variables than memory should be spent on.
    """
    E, G = layer.load.size, len(layer.node)
    sizes, for_all = Sizes.of(layer, apart=True), Sizes.of(layer, apart=False)
    if E * sizes.most_replicas * G > MOST_VARIABLES:
        raise ValueError(
            f"num_experts={E} x {sizes.most_replicas} replica counts x {G} GPUs are "
            f"{E * sizes.most_replicas * G} variables, and solver 'exact' takes {MOST_VARIABLES} "
            "at most; use fewer spare slots, or solver 'joint'"
        )
    alike = sizes == for_all
    expert, apart = _minimise(layer, budget, layer.known.expert, sizes, 1.0 if alike else 0.5)
    found = layer.outcome(expert, apart if alike else 0.0, apart)
    too_many = E * for_all.most_replicas * G > MOST_VARIABLES
    if alike or too_many or budget.spent or layer.time(found.expert) <= layer.goal:
        return found
    least = _minimise(layer, budget, found.expert, for_all, 1.0)[1]
    return layer.outcome(found.expert, least, apart)
