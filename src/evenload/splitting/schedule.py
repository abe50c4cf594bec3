"""In which order experts fill their GPUs: worked out once a placement, so that a batch needs none.

Experts that share no GPU fill theirs at the same time, with the result of one after the other. So
the replicated experts of a layer are put into as few *steps* as a greedy colouring finds: 3 to 6 on
recorded loads where there were 7 to 15 experts. Within a step a GPU belongs to one expert at most,
so that all that a step needs fits into one row of GPUs.
"""

from typing import NamedTuple

import numpy as np

from evenload.arrays import Float, Int, read_only

SPEEDS = 1024  # of the fastest GPU; the speed of the others is rounded to a whole number


class Schedule(NamedTuple):
    """Tables of a placement, all int64. C: steps of a layer, K: experts that only one GPU holds.

    Parameters
    ----------
    resident : [L, G, K]
        Experts that no other GPU holds, padded with E.
    owner : [L, C, G]
        Which replicated expert fills a GPU in a step, E for none.
    place : [L, C, G]
        Where that goes in an expert's replicas [E * X], E * X for none. Of replicas on one GPU it
        is the first: the others get nothing, since they could not change what the GPU bears.
    speed : [G]
        Whole numbers, all 1 where GPUs are alike.
    """

    resident: Int
    owner: Int
    place: Int
    speed: Int


def make_schedule(slots: Int, gpu_of_slot: Int, capacity: Float) -> Schedule:
    """Work the tables out, from `logical_to_physical` [L, E, X], the GPU of a slot [S], speeds [G].

    Experts with most GPUs come first, of equals the one of lowest index: each takes the first step
    in which all of its GPUs are free.
    """
    (L, E, X), G = slots.shape, capacity.size
    layers = [_steps(layer, gpu_of_slot) for layer in slots.tolist()]
    C = max(1, *(len(steps) for steps, _ in layers), 1)
    K = max(1, *(len(held) for _, alone in layers for held in alone.values()), 1)
    resident = np.full((L, G, K), E)
    owner, place = np.full((L, C, G), E), np.full((L, C, G), E * X)
    for layer, (steps, alone) in enumerate(layers):
        for gpu, experts in alone.items():
            resident[layer, gpu, : len(experts)] = experts
        for c, step in enumerate(steps):
            for gpu, (e, x) in step.items():
                owner[layer, c, gpu], place[layer, c, gpu] = e, e * X + x
    return Schedule(*map(read_only, (resident, owner, place, _whole_speeds(capacity))))


Step = dict[int, tuple[int, int]]  # expert and number of its replica, by GPU


def _steps(slots: list[list[int]], gpu_of_slot: Int) -> tuple[list[Step], dict[int, list[int]]]:
    """Return the steps of one layer, and the experts that each GPU alone holds."""
    gpu_of = gpu_of_slot.tolist()
    held: list[dict[int, int]] = []  # for each expert its GPUs, and its first replica there
    for replicas in slots:
        first: dict[int, int] = {}
        for x, slot in enumerate(replicas):
            if slot >= 0:
                first.setdefault(gpu_of[slot], x)
        held.append(first)
    steps: list[Step] = []
    alone: dict[int, list[int]] = {}
    for e in sorted(range(len(held)), key=lambda e: -len(held[e])):
        if len(held[e]) == 1:
            alone.setdefault(next(iter(held[e])), []).append(e)
            continue
        step = next((step for step in steps if not step.keys() & held[e].keys()), None)
        if step is None:
            steps.append(step := {})
        step |= {gpu: (e, x) for gpu, x in held[e].items()}
    return steps, alone


def _whole_speeds(capacity: Float) -> Int:
    living = capacity[capacity > 0.0]
    if living.min() == living.max():
        return np.ones(capacity.size, np.int64)
    speed: Int = np.rint(capacity / living.max() * SPEEDS).astype(np.int64)
    return np.maximum(speed, 1)
