"""Every kernel again, slow and obvious: scans where it keeps a heap, a tree or sorted rows.

A layer is a list of packs, and a pack a list of (share, expert), so that nothing here depends on
the arrays the kernels work on.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

# --- replicas ---------------------------------------------------------------------------------


def replicate(load, num_slots, most, least=1):
    """Replicas of each expert, and the experts by descending share, ties to the lowest index."""
    load = [int(x) for x in load]
    count = [least] * len(load)
    for _ in range(num_slots - least * len(load)):
        open_to = [e for e in range(len(load)) if count[e] < most]
        count[max(open_to, key=lambda e: (load[e] // count[e], -e))] += 1
    order = sorted(range(len(load)), key=lambda e: (-(load[e] // count[e]), e))
    return count, order


def replicate_in_float(weight, num_slots):
    """DeepSeek's rule for one row, in the float type of the weights."""
    weight = np.asarray(weight)
    count = np.ones(len(weight), np.int64)
    expert, rank = list(range(len(weight))), [0] * len(weight)
    for _ in range(num_slots - len(weight)):
        e = int(np.argmax(weight / count.astype(weight.dtype)))
        expert.append(e)
        rank.append(int(count[e]))
        count[e] += 1
    return expert, rank, count


def all_counts(num_experts, num_slots):
    """Every way to hand out `num_slots` slots, at least one to each expert: [n, E]."""
    cuts = itertools.combinations(range(1, num_slots), num_experts - 1)
    return np.array([np.diff([0, *cut, num_slots]) for cut in cuts])


# --- packing ----------------------------------------------------------------------------------


def pack(load, count, order, sizes):
    """Each replica in the pack with room that has fewest of its expert, then is lightest."""
    packs = [[] for _ in sizes]
    for e in order:
        weight = int(load[e]) // int(count[e])
        for _ in range(count[e]):
            held = [[expert for _, expert in p].count(e) for p in packs]
            total = [sum(share for share, _ in p) for p in packs]
            with_room = [p for p, size in enumerate(sizes) if len(packs[p]) < size]
            p = min(with_room, key=lambda p: (held[p], total[p], p))
            packs[p].append((weight, e))
    return packs


def soonest_done(load, wanted, order, slots, unit_time, node, home, lightest):
    """Each replica on the GPU that is done first with it and lacks it; what fills the slots left.

    Returns the experts on each GPU, in the order in which they came.
    """
    gpus = [[] for _ in slots]
    total = [0] * len(slots)
    count = [0] * len(load)

    def place(e, allowed):
        share = int(load[e]) // int(wanted[e])
        here = [g for g in allowed if len(gpus[g]) < slots[g] and e not in gpus[g]]
        if not here:
            return False
        g = min(here, key=lambda g: ((total[g] + share) * unit_time[g], g))
        gpus[g].append(e)
        total[g] += share
        count[e] += 1
        return True

    for e in order:
        if home[e] >= 0:
            place(e, [g for g in range(len(slots)) if node[g] == home[e]])
    for e in order:
        while count[e] < wanted[e] and place(e, range(len(slots))):
            pass
    for g, held in enumerate(gpus):
        while len(held) < slots[g]:
            lacking = [e for e in range(len(load)) if e not in held]
            share = {e: Fraction(int(load[e]), count[e]) for e in lacking}
            if not lacking:
                e = len(load) - 1
            else:
                e = min(lacking, key=lambda e: (share[e] if lightest else -share[e], e))
            held.append(e)
            count[e] += 1
    return gpus, count


# --- exchanges --------------------------------------------------------------------------------
#
# Pack p takes `unit[p]` for a unit of load.


def times(packs, unit):
    """When each pack is done."""
    return [sum(w for w, _ in p) * u for p, u in zip(packs, unit, strict=True)]


def slowest(packs, unit):
    """Time and number of the pack that is done last, of several the first."""
    time = times(packs, unit)
    return max(time), time.index(max(time))


def outcomes(packs, m, k, size, unit):
    """Yield (time of the later one, given, got) of each legal exchange of `size` slots of m and k.

    Illegal is what hands a pack an expert that it holds.
    """
    in_m, in_k = ({e for _, e in packs[p]} for p in (m, k))
    for given in itertools.combinations(packs[m], size):
        for got in itertools.combinations(packs[k], size):
            if any(e in in_k for _, e in given) or any(e in in_m for _, e in got):
                continue
            after = list(packs)
            exchange(after, m, k, given, got)
            time = times(after, unit)
            yield max(time[m], time[k]), given, got


def best_outcome(packs, size, unit):
    """Time to which the best exchange brings the slowest pack and its partner; None if none."""
    time, m = slowest(packs, unit)
    found = [
        outcome
        for k in range(len(packs))
        if k != m
        for outcome, *_ in outcomes(packs, m, k, size, unit)
        if outcome < time
    ]
    return min(found, default=None)


def exchange(packs, m, k, given, got):
    """Do an exchange."""
    packs[m] = [slot for slot in packs[m] if slot not in given] + list(got)
    packs[k] = [slot for slot in packs[k] if slot not in got] + list(given)


def least_time(time_m, unit_m, time_k, unit_k):
    """Time of the later of two packs if their load could be divided at will, in whole units."""
    if unit_m == unit_k:
        return (time_m + time_k + 1) // 2
    return int(
        (Fraction(time_m, unit_m) + Fraction(time_k, unit_k))
        / (Fraction(1, unit_m) + Fraction(1, unit_k))
    )


def descend(packs, mean, goal, most_pairs, size, unit):
    """Steepest descent of the slowest pack with the kernels' rules of where a search may end."""
    packs = [list(p) for p in packs]
    looked = 0
    while looked < most_pairs and slowest(packs, unit)[0] > goal:
        time, m = slowest(packs, unit)
        others = sorted((t, -k) for k, t in enumerate(times(packs, unit)) if k != m)
        second = others[-1][0] if others else time
        enough = mean + 3 * (second - mean) // 4 if size == 1 else mean + (second - mean) // 2
        if size == 2:
            enough = max(goal, enough)
        best, step = time, None
        for time_k, minus_k in others:
            k = -minus_k
            if least_time(time, unit[m], time_k, unit[k]) >= best:
                if unit[m] == unit[k]:
                    break
                continue
            looked += 1
            found = min(outcomes(packs, m, k, size, unit), default=(time,))
            if found[0] < best:
                best, step = found[0], (k, *found[1:])
                if best <= enough:
                    break
        if step is None:
            break
        exchange(packs, m, *step)
    return packs, looked


# --- duplicates -------------------------------------------------------------------------------


def num_duplicates(packs):
    """Slots whose expert the pack holds already."""
    return sum(len(p) - len({e for _, e in p}) for p in packs)


def deduplicate(packs):
    """Part the first duplicate by the exchange that leaves fewest and lightest, until none is left.

    An exchange counts if it leaves fewer duplicates; of those the one whose heavier pack is
    lightest is taken, ties to the first.
    """
    packs = [list(p) for p in packs]
    while num_duplicates(packs) > 0:
        g, i = next(
            (g, i)
            for g, p in enumerate(packs)
            for i in range(len(p))
            if p[i][1] in [e for _, e in p[:i]]
        )
        best, step = None, None
        for k, j in itertools.product(range(len(packs)), range(len(packs[0]))):
            if k == g or packs[g][i][1] in [e for _, e in packs[k]]:
                continue
            after = [list(p) for p in packs]
            after[g][i], after[k][j] = after[k][j], after[g][i]
            heavier = max(sum(w for w, _ in after[p]) for p in (g, k))
            if num_duplicates(after) < num_duplicates(packs) and (best is None or heavier < best):
                best, step = heavier, after
        if step is None:
            break
        packs = step
    return packs


def part_duplicates(packs, unit):
    """Part the first duplicate that can be, by the exchange that is done soonest, until none can.

    Packs are looked at in order of their shares; exchanges count that leave fewer duplicates.
    """
    packs = [sorted(p, reverse=True) for p in packs]
    while True:
        step = None
        for g, pack in enumerate(packs):
            for slot in pack:
                if pack.count(slot) > 1 and step is None:
                    step = _parting(packs, g, slot, unit)
        if step is None:
            return packs
        packs = [sorted(p, reverse=True) for p in step]


def _parting(packs, g, slot, unit):
    best, step = None, None
    for k, other in enumerate(packs):
        for got in other if k != g else ():
            after = [list(p) for p in packs]
            after[g][after[g].index(slot)] = got
            after[k][after[k].index(got)] = slot
            later = max(times(after, unit)[p] for p in (g, k))
            if num_duplicates(after) < num_duplicates(packs) and (best is None or later < best):
                best, step = later, after
    return step


# --- the grid ---------------------------------------------------------------------------------


def relative_grid(load, bits):
    """Exact position of each load on the grid, as a fraction."""
    exact = [Fraction(float(x)) for x in load]
    return [x / max(exact) * 2**bits for x in exact]


# --- what a placement does --------------------------------------------------------------------


def count_replicas(physical_to_logical, num_experts):
    return np.array([np.bincount(row, minlength=num_experts) for row in physical_to_logical])


def gpu_load(load, physical_to_logical, num_gpus):
    count = count_replicas(physical_to_logical, load.shape[1])
    share = np.take_along_axis(load / count, physical_to_logical, axis=1)
    return share.reshape(len(load), num_gpus, -1).sum(axis=-1)


def duplicates(physical_to_logical, num_gpus):
    rows = physical_to_logical.reshape(len(physical_to_logical), num_gpus, -1)
    return np.array([sum(len(gpu) - len(set(gpu)) for gpu in layer.tolist()) for layer in rows])


def moves(before, after, num_gpus):
    def held(row):
        return {(g, e) for g, gpu in enumerate(row.reshape(num_gpus, -1)) for e in gpu.tolist()}

    return np.array([len(held(b) - held(a)) for a, b in zip(before, after, strict=True)])


def balancedness(load_per_gpu):
    """Mean over max of each layer, 1 where there is no load."""
    load_per_gpu = np.asarray(load_per_gpu, dtype=np.longdouble)
    top = load_per_gpu.max(axis=1)
    return np.where(top > 0, load_per_gpu.mean(axis=1) / np.where(top > 0, top, 1), 1.0)


def slots_of_experts(physical_to_logical, num_experts):
    """Ascending slots of each expert in each layer, as nested lists."""
    return [
        [np.flatnonzero(row == expert).tolist() for expert in range(num_experts)]
        for row in physical_to_logical
    ]


# --- the same where GPUs differ ---------------------------------------------------------------


def experts_on_gpus(physical_to_logical, slots):
    """Experts on each GPU of each layer as nested lists; `slots` says how many each GPU has."""
    ends = np.cumsum(slots)[:-1]
    return [
        [[int(e) for e in gpu if e >= 0] for gpu in np.split(row, ends)]
        for row in np.asarray(physical_to_logical)
    ]


def load_on_gpus(load, gpus):
    """Each GPU's load, an expert's shared evenly among the GPUs' lists that name it."""
    result = []
    for row, layer in zip(load, gpus, strict=True):
        held = [e for gpu in layer for e in gpu]
        result.append([sum(row[e] / held.count(e) for e in gpu) for gpu in layer])
    return np.array(result)


def balancedness_at_speed(load_per_gpu, speed):
    """Time of a layer whose load could be divided at will, over that of its last GPU.

    GPUs of speed 0 are gone.
    """
    result = []
    for row in np.asarray(load_per_gpu, dtype=np.longdouble):
        last = max(load / s for load, s in zip(row, speed, strict=True) if s > 0)
        result.append(1.0 if last == 0 else row.sum() / sum(speed) / last)
    return np.array(result, dtype=np.float64)


# --- the best there is ------------------------------------------------------------------------


def all_placements(num_experts, num_gpus, slots_per_gpu):
    """Every placement but for the order of slots and GPUs, as replicas on each GPU: [n, G, E]."""
    gpus = [
        np.bincount(held, minlength=num_experts)
        for held in itertools.combinations_with_replacement(range(num_experts), slots_per_gpu)
    ]
    chosen = list(itertools.combinations_with_replacement(range(len(gpus)), num_gpus))
    placements = np.array(gpus)[np.array(chosen)]
    return placements[(placements.sum(axis=1) > 0).all(axis=1)]


def best_balancedness(load, placements):
    """Largest balancedness that any of the placements [n, G, E] reaches for a load [E]."""
    share = load / placements.sum(axis=1)
    heaviest_gpu = np.einsum("nge,ne->ng", placements, share).max(axis=1).min()
    return load.sum() / placements.shape[1] / heaviest_gpu


def time_of_best_split(load, gpus_of_expert, capacity):
    """Least time of the last GPU under any split of a layer, as an exact fraction.

    No set of experts is done before the GPUs that hold them, all together, have done its load, and
    by the theorem of maximum flow and minimum cut some set needs no longer than the best split.
    """
    busy = [e for e in range(len(load)) if load[e] > 0]
    times = [Fraction(0)]
    for size in range(1, len(busy) + 1):
        for experts in itertools.combinations(busy, size):
            gpus = {g for e in experts for g in gpus_of_expert[e]}
            speed = sum(Fraction(float(capacity[g])) for g in gpus)
            times.append(sum(Fraction(float(load[e])) for e in experts) / speed)
    return max(times)


# --- copies of experts for a microbatch -------------------------------------------------------


def copy_experts(load, resident, limit, most):
    """Tokens [G, E] that each GPU computes, of the best of three passes."""
    G, E = resident.shape
    load, limit = [int(x) for x in load], [int(x) for x in limit]
    start = _reside(load, resident, limit)
    found = [_copy_pass(start, resident, limit, most, how) for how in range(3)]

    def badness(sent):
        over = sum(max(sum(row) - limit[g], 0) for g, row in enumerate(sent))
        fetched = sum(sent[g][e] > 0 and not resident[g, e] for g in range(G) for e in range(E))
        return over, fetched

    return np.array(min(found, key=badness))


def _reside(load, resident, limit):
    G, E = resident.shape
    sent = [[0] * E for _ in range(G)]
    homes = [[g for g in range(G) if resident[g, e]] for e in range(E)]
    for e in range(E):
        if len(homes[e]) == 1:
            sent[homes[e][0]][e] = load[e]
    for _ in range(7):
        for e in (e for e in range(E) if len(homes[e]) > 1 and load[e]):
            for g in homes[e]:
                sent[g][e] = 0
            full = {g: sum(sent[g]) - limit[g] for g in homes[e]}
            level = max(full.values()) + load[e]
            below = list(full)
            while True:
                fair = (load[e] + sum(full[g] for g in below)) // len(below)
                if fair == level:
                    break
                level = fair
                below = [g for g in full if full[g] <= level]
            left = load[e] - sum(level - full[g] for g in below)
            for n, g in enumerate(below):
                sent[g][e] = level - full[g] + (n < left)
    return sent


def _copy_pass(start, resident, limit, most, how):
    sent, held = [list(row) for row in start], resident.astype(bool).copy()
    G, E = resident.shape
    fetched = [0] * G
    while True:
        excess = {g: sum(sent[g]) - limit[g] for g in range(G) if sum(sent[g]) > limit[g]}
        room = {
            g: limit[g] - sum(sent[g])
            for g in range(G)
            if sum(sent[g]) < limit[g] and fetched[g] < most
        }
        if not excess or not room:
            return sent
        pairs = [(room[d] - x, h, d) for h, x in excess.items() if max(sent[h]) >= x
                 for d in room if room[d] >= x]  # fmt: skip
        if how == 0 and pairs:
            _, h, d = min(pairs)
        else:
            h = max(excess, key=lambda g: (excess[g], -g))
            enough = [g for g in room if room[g] >= excess[h]]
            if how != 2 and enough:
                d = min(enough, key=lambda g: (room[g], g))
            else:
                d = max(room, key=lambda g: (room[g], -g))
        amount = min(excess[h], room[d])
        enough = [e for e in range(E) if sent[h][e] >= amount]
        if enough:
            e = min(enough, key=lambda e: (sent[h][e], e))
        else:
            e = max(range(E), key=lambda e: (sent[h][e], -e))
        fetched[d] += not held[d, e]
        held[d, e] = True
        for g in range(G):
            for k in np.flatnonzero(held[:, e]):
                part = min(sent[g][e], sum(sent[g]) - limit[g], limit[k] - sum(sent[k]))
                if part > 0:
                    sent[g][e] -= part
                    sent[k][e] += part


def moonep(load, num_gpus):
    """MoonEP's exact balance of experts in order, [G, E]; its ``tests/planning_reference.py``."""
    E, G = len(load), num_gpus
    alloc = np.zeros((G, E), np.int64)
    home = np.arange(E) // (E // G)
    alloc[home, np.arange(E)] = load
    balance = alloc.sum(axis=1) - sum(load) // G
    quota = np.zeros((G, G), np.int64)
    while balance.max() > 0:
        h, d = balance.argmax(), balance.argmin()
        quota[h, d] = -balance[d]
        balance[h] += balance[d]
        balance[d] = 0
    for h in range(G):
        left = np.where(home == h, load, 0)
        while quota[h].max() > 0:
            d, e = quota[h].argmax(), left.argmax()
            part = min(left[e], quota[h, d])
            alloc[d, e] += part
            alloc[h, e] -= part
            left[e] -= part
            quota[h, d] -= part
    return alloc
