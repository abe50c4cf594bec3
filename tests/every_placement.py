"""Every placement of a small problem, and the best of them: what bounds and solvers are held to."""

from __future__ import annotations

import itertools

import numpy as np


def fills(experts, slots, num_experts, avoid=False):
    """Every way to fill one GPU with some experts, as replicas of each: [n, E].

    With `avoid`, an expert comes twice only where there are more slots than experts, and then all
    of them come.
    """
    if avoid and slots <= len(experts):
        held = itertools.combinations(experts, slots)
    elif avoid:
        more = itertools.combinations_with_replacement(experts, slots - len(experts))
        held = ((*experts, *rest) for rest in more)
    else:
        held = itertools.combinations_with_replacement(experts, slots)
    return np.array([np.bincount(row, minlength=num_experts) for row in held])


def every_placement(cluster, num_experts, num_groups=1, avoid=False):
    """Every placement on the living GPUs but for the order of slots: replicas [n, G, E].

    With several groups each stays on one node, and every node gets as many. With `avoid`, none has
    a duplicate that can be avoided.
    """
    nodes = [[cluster.slots[g] for g in gpus] for gpus in cluster.living_by_node]
    size, each = num_experts // num_groups, num_groups // len(nodes)
    found = []
    for home in itertools.product(range(len(nodes)), repeat=num_groups):
        if num_groups > 1 and set(np.bincount(home, minlength=len(nodes))) != {each}:
            continue
        choices = []
        for n, slots in enumerate(nodes):
            here = [e for e in range(num_experts) if num_groups == 1 or home[e // size] == n]
            choices += [fills(here, s, num_experts, avoid) for s in slots]
        index = np.array(list(itertools.product(*(range(len(c)) for c in choices))))
        placed = np.stack([c[index[:, g]] for g, c in enumerate(choices)], axis=1)
        found.append(placed[(placed.sum(axis=1) > 0).all(axis=1)])
        if num_groups == 1:
            break
    return np.concatenate(found)


def best_balancedness(load, cluster, placements):
    """Largest balancedness that any of the placements [n, G, E] reaches for each layer: [L]."""
    speed = np.array([cluster.speed[g] for g in cluster.living_gpus])
    best = []
    for row in load:
        time = (placements @ (row[:, None] / placements.sum(axis=1)[:, :, None])).squeeze(-1)
        last = (time / speed).max(axis=1).min()
        best.append(row.sum() / speed.sum() / last if last > 0 else 1.0)
    return np.array(best)


def small_cluster(rng, most_ways=40_000):
    """Draw a cluster, a number of experts and of groups, few enough to look at every placement."""
    while True:
        G = int(rng.integers(1, 5))
        N = 2 if G % 2 == 0 and rng.random() < 0.5 else 1
        slots = rng.integers(1, 4, G) if rng.random() < 0.7 else np.full(G, rng.integers(1, 4))
        speed = rng.choice([1.0, 1.5, 2.0, 4.0], G) if rng.random() < 0.4 else np.ones(G)
        alive = rng.random(G) < (0.8 if rng.random() < 0.3 else 1.0)
        if not alive.any():
            continue
        total = int(slots[alive].sum())
        E = int(rng.integers(1, min(total, 6) + 1))
        groups = int(rng.choice([g for g in (1, 2, 4) if E % g == 0]))
        ways = np.prod([float(len(fills(range(E), s, E))) for s in slots[alive]])
        if ways <= most_ways:
            return (slots.tolist(), speed.tolist(), alive.tolist(), N), E, groups
