"""Any cluster: a 0/1 variable for each count of each expert, an integer for each GPU it is on.

Times are integers of 30 bits below the mean, rounded down, so that what CP-SAT proves of them holds
for the real ones; the placement it finds is judged by its real times.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.solvers.exact.layer import (
    CLOSE,
    MOST_OPTIONS,
    OPTIMAL,
    Budget,
    Layer,
    Outcome,
    load_cp_model,
)

Int = NDArray[np.int64]

BITS = 30
# To prove the bound over duplicates too can take fifty times as long as to find the placement.
SECOND_PROOF = 1 / 2  # of the steps that the placement took, at most
SHORT_PROOF = 1 / 250  # of the effort, that a second proof may take in any case


class Sizes(NamedTuple):
    """Replicas of one expert on each GPU, [G], fewest and most; and how many it may have in all."""

    fewest: tuple[int, ...]
    most: tuple[int, ...]
    most_replicas: int


def _sizes(layer: Layer, apart: bool) -> Sizes:
    """Say what GPUs may hold; `apart`: in placements without avoidable duplicates, else in all.

    Without them, it is 1 where a GPU has a slot for all experts, and more than one only where it
    has slots left then.
    """
    slots, nodes = layer.cluster.slots, max(layer.node) + 1
    may_hold = layer.num_experts // (nodes if layer.num_groups > 1 else 1)
    replicas = sum(slots) - layer.num_experts + 1
    most = tuple(min(max(1, n - may_hold + 1) if apart else n, replicas) for n in slots)
    fewest = tuple(int(apart and n >= may_hold) for n in slots)
    return Sizes(fewest, most, min(sum(most), replicas))


def _model(
    layer: Layer, sizes: Sizes, start: Int, costs: list[Int], bounds: tuple[int, int]
) -> tuple[Any, dict[tuple[int, int, int], Any]]:
    """Model a layer: every expert has one count and that many replicas, every slot one expert.

    GPUs that are alike are left to CP-SAT, which finds such symmetries itself: to demand an order
    of them only gets in the way of the hint.

    `start` [S] is tried first. For each GPU, `costs` has the time of one replica of each expert for
    every number of replicas, [E, most_replicas]; `bounds` are those of the last GPU's time, which
    is minimised. Returns the model, and for each (expert, count, GPU) the variable of the replicas
    on that GPU, 0 unless the expert has that many.
    """
    model = load_cp_model().CpModel()
    E, G, counts = layer.num_experts, len(layer.node), range(1, sizes.most_replicas + 1)
    time = model.new_int_var(*bounds, "")
    parts = np.split(start, layer.cluster.first_slot[1:-1])
    begun = [np.bincount(part, minlength=E) for part in parts]
    total = np.bincount(start, minlength=E)
    held = {}
    for e in range(E):
        has = [model.new_bool_var("") for _ in counts]
        model.add_exactly_one(has)
        for c, there in zip(counts, has, strict=True):
            model.add_hint(there, int(total[e] == c))
            for g in range(G):
                most = min(c, sizes.most[g])
                held[e, c, g] = model.new_int_var(0, most, "")
                model.add(held[e, c, g] <= most * there)
                model.add_hint(held[e, c, g], int(begun[g][e] * (total[e] == c)))
            model.add(sum(held[e, c, g] for g in range(G)) == c * there)
    for g, cost in enumerate(costs):
        here = {(e, c): held[e, c, g] for e in range(E) for c in counts}
        model.add(sum(here.values()) == layer.cluster.slots[g])
        model.add(sum(int(cost[e, c - 1]) * var for (e, c), var in here.items()) <= time)
    # Every group on one node, equally many on each. With one node for all this still says that a
    # GPU with room for every expert holds them all.
    nodes, groups = max(layer.node) + 1, layer.num_groups
    at: dict[tuple[int, int], Any] = {(0, n): 1 for n in range(nodes)}
    if groups > 1:
        at = {(i, n): model.new_bool_var("") for i in range(groups) for n in range(nodes)}
        for i in range(groups):
            model.add_exactly_one(at[i, n] for n in range(nodes))
        for n in range(nodes):
            model.add(sum(at[i, n] for i in range(groups)) == groups // nodes)
    for e in range(E):
        for g, node in enumerate(layer.node):
            on_gpu, there = sum(held[e, c, g] for c in counts), at[e * groups // E, node]
            if groups > 1:
                model.add(on_gpu <= sizes.most[g] * there)
            if sizes.fewest[g]:
                model.add(on_gpu >= there)
    model.minimize(time)
    return model, held


def _minimise(layer: Layer, budget: Budget, start: Int, sizes: Sizes) -> tuple[Int, float]:
    """Go on from a placement [S]; return the best of such sizes, and what is proven of its time."""
    scale = (1 << BITS) / layer.mean_time
    goal = int(max(layer.least_time * (1.0 - 1e-12), layer.goal) * scale) - max(sizes.most)
    share = layer.share[:, : sizes.most_replicas]
    costs = [
        np.floor(share / speed * scale * (1.0 - 1e-15)).astype(np.int64)
        for speed in layer.cluster.capacity
    ]
    bounds = max(goal, 0), int(layer.time(start) * scale) + 1
    model, held = _model(layer, sizes, start, costs, bounds)
    solver, status = budget.run(model, interleave_search=True)  # several strategies, on one worker
    if status not in ("OPTIMAL", "FEASIBLE"):
        return start, 0.0
    found = np.zeros((len(layer.node), layer.num_experts), np.int64)
    for (e, _, g), var in held.items():
        found[g, e] += solver.value(var)
    expert = np.concatenate([np.repeat(np.arange(layer.num_experts), row) for row in found])
    proven = solver.best_objective_bound
    return expert, proven / scale if proven > goal else 0.0


def search(layer: Layer, budget: Budget) -> Outcome:
    """Find the best placement without avoidable duplicates, then prove how good any one can be.

    A placement may be better for a duplicate, where GPUs have slots for nearly all experts, so a
    proof without them bounds no other placement. The second proof is a try, and short: where it
    does not end, the bound known before the search holds. A ValueError where the layer needs more
    variables than memory should be spent on.
    """
    E, G = layer.num_experts, len(layer.node)
    sizes, for_all = _sizes(layer, apart=True), _sizes(layer, apart=False)
    if E * sizes.most_replicas * G > MOST_OPTIONS:
        raise ValueError(
            f"num_experts={E} x {sizes.most_replicas} replica counts x {G} GPUs are "
            f"{E * sizes.most_replicas * G} variables, and solver 'exact' takes {MOST_OPTIONS} "
            "at most; use fewer spare slots, or solver 'joint'"
        )
    alike, effort = sizes == for_all, budget.steps
    expert, apart = _minimise(layer, budget, layer.start, sizes)
    found = layer.outcome(expert, apart if alike else 0.0, apart)
    enough = max(layer.goal, found.least_time * (1.0 + CLOSE))
    too_many = E * for_all.most_replicas * G > MOST_OPTIONS
    if alike or too_many or found.status != OPTIMAL or layer.time(found.expert) <= enough:
        return found
    allowed = max((effort - budget.steps) * SECOND_PROOF, effort * SHORT_PROOF)
    second = Budget(min(allowed, budget.steps))
    if second.spent:
        return found
    least = _minimise(layer, second, found.expert, for_all)[1]
    return layer.outcome(found.expert, least, apart)
