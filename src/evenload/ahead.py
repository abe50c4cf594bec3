"""Compile ahead, so that the first plan of a serving engine does not wait."""

from __future__ import annotations

import numpy as np

from evenload.cluster import Cluster
from evenload.cost import CostModel
from evenload.moves import keep_slots
from evenload.placement import Placement
from evenload.planner import solve


def warmup() -> None:
    """Compile every kernel for every number type it is called with, and cache the code on disk.

    With a warm cache this only loads the code: a second or two. Call it where a process
    starts; the command ``evenload warmup`` does it in an image.
    """
    from evenload.eplb import balanced_packing
    from evenload.traffic import nodes_per_token

    # Two layers: the layout in memory of one does not say which way round it is.
    load = np.array([[9.0, 5.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]] * 2)
    cluster = Cluster(2, num_nodes=2, slots_per_gpu=6)
    for solver in ("greedy", "iterated-greedy", "local-search", "joint"):
        plan = solve(load, cluster, num_groups=2, solver=solver)
        plan.placement.moves_from(Placement.trivial(2, 8, cluster))
        _ = plan.placement.logical_to_physical, plan.bound, plan.split_balancedness, plan.away_share
    nodes_per_token(Placement.trivial(2, 8, cluster), np.array([[[0, 1], [2, 3]]]))
    cost, trivial = CostModel(), Placement.trivial(2, 8, cluster)
    cost.schedule(trivial, keep_slots(plan.placement, trivial))
    for slots in (2, 3):  # the joint search has a way of its own for two slots a GPU
        for nodes in (1, 2):
            solve(load, Cluster(6, nodes, slots_per_gpu=slots), num_groups=4, solver="joint")
    solve(load, Cluster(2, slots=[5, 6], speed=[1, 2]), solver="joint")
    current = trivial
    solve(np.stack([load, load]), cluster, current=current, max_total_moves=1)
    solve(load, Cluster(3, slots_per_gpu=4), current=current)  # a GPU more, fewer slots
    for dtype in (np.float32, np.float64):
        balanced_packing(load.astype(dtype), 2)
