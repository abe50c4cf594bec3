"""What 4 nodes of 8 GPUs make of a plan for DeepSeek-V3: ``python -m benchmarks.cluster``.

The load is `evenload.synth.synthetic_load`: 58 layers of 256 experts in 288 slots. No times.
"""

from typing import Any

import numpy as np

from benchmarks.measure import table
from evenload import Cluster, Placement, solve
from evenload.plugins.plan import Request, plan_map
from evenload.plugins.settings import Settings
from evenload.synth import synthetic_load

GROUPS, GROUPS_A_TOKEN, EXPERTS_A_TOKEN = 8, 4, 8  # of DeepSeek-V3
NODES = (1, 2, 4)
MOST_REBALANCES = 12


def routed(load: Any, num_tokens: int, seed: int = 0) -> Any:
    """Draw the experts of tokens as DeepSeek-V3's router picks them, int64 [tokens, L, 8].

    A token scores each expert by its popularity [L, E] and chance, goes to the four groups whose
    two best experts score highest, and to the eight best experts in them.
    """
    rng, (L, E) = np.random.default_rng(seed), load.shape
    popularity, size = np.log(np.maximum(load, 1)), E // GROUPS
    topk = np.empty((num_tokens, L, EXPERTS_A_TOKEN), np.int64)
    for token in topk:
        score = popularity + rng.gumbel(size=(L, E))
        by_group = score.reshape(L, GROUPS, size)
        best = np.sort(np.exp(by_group), axis=2)[:, :, -2:].sum(axis=2)
        left_out = np.argsort(-best, axis=1)[:, GROUPS_A_TOKEN:]
        by_group[np.arange(L)[:, None], left_out] = -np.inf
        token[:] = np.argsort(-score, axis=1)[:, :EXPERTS_A_TOKEN]
    return topk


def nodes_a_token(placement: Placement, topk: Any, seed: int = 0) -> float:
    """Return how many nodes a token visits, on average, with a replica of each expert at random."""
    layers, rng = np.arange(placement.num_layers)[:, None], np.random.default_rng(seed)
    visited = np.zeros(placement.cluster.num_nodes)
    node_of_slot = placement.cluster.node_of_gpu[placement.cluster.gpu_of_slot]
    for token in topk:
        replica = (rng.random(token.shape) * placement.replica_count[layers, token]).astype(int)
        node = node_of_slot[placement.logical_to_physical[layers, token, replica]]
        visited += [(node == number).any(axis=1).sum() for number in range(len(visited))]
    return float(visited.sum() / topk[:, :, 0].size)


def by_topology(load: Any, cluster: Cluster, topk: Any) -> list[tuple[str, ...]]:
    """Plan a load [L, E] under each topology; the rows of a table."""
    rows = []
    for topology in ("strict", "prefer", "ignore"):
        plan = solve(load, cluster, num_groups=GROUPS, topology=topology)
        rows.append((
            topology, f"{plan.balancedness.mean():.4f}", f"{plan.balancedness.min():.4f}",
            f"{plan.bound.mean():.4f}", f"{plan.straggler_time:.3f}",
            f"{nodes_a_token(plan.placement, topk):.2f}",
        ))  # fmt: skip
    return rows


def first_rebalances(load: Any, cluster: Cluster, settings: Settings) -> list[tuple[str, ...]]:
    """Rebalance from experts in order, as a plug-in does, until few move; table rows."""
    slots, gpus = cluster.num_slots, cluster.num_gpus
    running = np.tile(np.arange(slots) % load.shape[1], (len(load), 1))
    rows: list[tuple[str, ...]] = []
    for number in range(1, MOST_REBALANCES + 1):
        done = plan_map(Request(load[None], running, slots, gpus), settings)
        if not rows:
            rows.append(("at start", "", f"{done.before:.4f}"))
        running = done.map
        if done.moves == 0:
            break
        rows.append((f"{number}", f"{done.moves:,}", f"{done.after:.4f}"))
    return rows


def by_nodes(load: Any) -> list[tuple[str, ...]]:
    """Plan a load [L, E] for 32 GPUs on some nodes, and send it to near replicas; table rows."""
    rows = []
    for nodes in NODES:
        plan = solve(load, Cluster(32, nodes, num_slots=288))
        reached = plan.placement.balancedness(load, dispatch="nearest")
        rows.append((f"{nodes}", f"{plan.balancedness.mean():.4f}", f"{reached.mean():.4f}",
                     f"{reached.min():.4f}"))  # fmt: skip
    return rows


def tables(num_layers: int = 58, num_tokens: int = 512) -> list[str]:
    """Return all tables, as the pages on engines and groups show them."""
    load = synthetic_load(num_layers)
    cluster = Cluster(32, 4, num_slots=288)
    topk = routed(load, num_tokens)
    moves = ("rebalance", "moves", "mean balancedness")
    return [
        table(("topology", "mean balancedness", "worst layer", "bound", "straggler time",
               "nodes per token"), by_topology(load, cluster, topk)),
        table(("nodes", "planned", "near replicas first", "worst layer"), by_nodes(load)),
        table(moves, first_rebalances(load, cluster, Settings(start_share=1.0))),
        table(moves, first_rebalances(load, cluster, Settings())),
    ]  # fmt: skip


if __name__ == "__main__":
    print("\n\n".join(tables()))
