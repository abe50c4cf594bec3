"""What replicas cost where time counts, in whole numbers, and starts that reckon with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.core.start import FIRST, SLOTS, UNIT_TIME
from evenload.problem import Problem
from evenload.seconds import most_replicas, table_of

Int = NDArray[np.int64]
Float = NDArray[np.float64]


class Prices(NamedTuple):
    """What replicas cost in each sample, ready to be looked up; see `core.prices`.

    Parameters
    ----------
    row : int64 ndarray, [L, E, M]
    part : float64 ndarray, [L, E, M]
    ticks : int64 ndarray, [K, R]
        The tables of all phases, one after the other.
    scale : float64 ndarray, [M]
    weight : int64 ndarray, [M]
    bits : int
    """

    row: Int
    part: Float
    ticks: Int
    scale: Float
    weight: Int
    bits: int

    @classmethod
    def of(cls, problem: Problem, load: Float, weight: Int, phase: Int, bits: int) -> Prices:
        """Look the chances of experts up in the tables of a problem's phases.

        Parameters
        ----------
        problem : Problem
        load : float64 ndarray, [L, E, M]
            Samples of what an expert's part of the tokens may be; where a layer has none, all
            experts count as alike.
        weight, phase : int64 ndarray, [M]
            What each sample counts, and the phase that it is of.
        bits : int
            As for `core.prices.price_layer`.
        """
        rows = most_replicas(problem.cluster, load.shape[1])
        tables = [table_of(problem, n, rows) for n in range(len(problem.phases))]
        first = np.cumsum([0, *(len(table.chance) for table in tables)])
        seconds = np.array([table.seconds_per_tick for table in tables])
        row, part = np.empty(load.shape, np.int64), np.empty(load.shape)
        for m, n in enumerate(phase):
            some = (load[:, :, m] > 0.0).any(axis=1, keepdims=True)
            chance = tables[n].chances(np.where(some, load[:, :, m], 1.0), top_k=problem.top_k)
            below, part[:, :, m] = tables[n].between(chance)
            row[:, :, m] = first[n] + below
        ticks = np.ascontiguousarray(np.concatenate([table.ticks[0].T for table in tables]))
        return cls(row, part, ticks, seconds[phase] / seconds.max(), weight, bits)

    def write(self, layer: int, price: Int) -> None:
        """Write what one of 1 to R replicas costs in a layer: int64 [R, E, M]."""
        from evenload.core.prices import price_layer

        price_layer(self.row[layer], self.part[layer], *self[2:], price)

    @property
    def over_samples(self) -> Int:
        """The sum over all samples, int64 [L, R, E]."""
        (L, E, M), R = self.row.shape, self.ticks.shape[1]
        total, of_layer = np.empty((L, R, E), np.int64), np.empty((R, E, M), np.int64)
        for layer in range(L):
            self.write(layer, of_layer)
            total[layer] = of_layer.sum(axis=2)
        return total


def by_added_time(price: Int, begun: Int, gpu: Int, domains: list[Int]) -> Int:
    """Give spare slots to the experts whose next replica adds least time, and place longest first.

    What a token-balanced plan does not see: in decode another replica of a busy expert is another
    reading of its weights, and one of an expert that is seldom active costs next to nothing.

    Parameters
    ----------
    price : int64 ndarray, [L, R, E]
        Of one replica, over all samples.
    begun : int64 ndarray, [L, S]
        A placement; experts stay within the domains where it has them.
    gpu : int64 ndarray, [4, G]
        See `core.start`.
    domains : list of int64 ndarray
        The GPUs of each domain.

    Returns
    -------
    int64 ndarray, [L, S]
    """
    placed = np.empty_like(begun)
    layer = np.arange(len(begun))
    for gpus in domains:
        first, slots = gpu[FIRST, gpus], gpu[SLOTS, gpus]
        here = np.concatenate([np.arange(f, f + s) for f, s in zip(first, slots, strict=True)])
        count = np.zeros(price.shape[::2], np.int64)
        count[layer[:, None], begun[:, here]] = 1
        _spend(price, count, len(here), len(gpus))
        each = np.take_along_axis(price, np.clip(count, 1, price.shape[1])[:, None] - 1, axis=1)[
            :, 0
        ]
        _longest_first(each, count, gpu[:, gpus], placed)
        _part(each, gpu[:, gpus], placed)
    return placed


def _spend(price: Int, count: Int, num_slots: int, num_gpus: int) -> None:
    """Raise the counts [L, E] of those that have any until all slots are used."""
    R = price.shape[1]
    layer = np.arange(len(count))
    total = price * np.arange(1, R + 1)[:, None]
    added = np.concatenate([np.diff(total, axis=1), np.zeros_like(total[:, :1])], axis=1)
    never = np.iinfo(np.int64).max
    for _ in range(num_slots - int(count[0].sum())):
        # Duplicates last, those without slots never; the dearest expert first among equals.
        at = np.minimum(count, R) - 1
        least = np.take_along_axis(added, at[:, None, :], axis=1)[:, 0]
        least = np.where(count >= num_gpus, never - 1, np.where(count == 0, never, least))
        each = np.take_along_axis(price, at[:, None, :], axis=1)[:, 0]
        equal = least == least.min(axis=1, keepdims=True)
        count[layer, np.where(equal, each, -1).argmax(axis=1)] += 1


def _longest_first(each: Int, count: Int, gpu: Int, placed: Int) -> None:
    """Place the dearest replica next, on the GPU that is done first with it and lacks it."""
    L, E = each.shape
    order = np.argsort(-each, axis=1, kind="stable")
    replicas = np.take_along_axis(count, order, axis=1)
    expert = np.stack([np.repeat(order[n], replicas[n]) for n in range(L)])  # [L, slots]
    layer, slots = np.arange(L), gpu[SLOTS]
    used, time = np.zeros((L, len(slots)), np.int64), np.zeros((L, len(slots)))
    held = np.zeros((L, E, len(slots)), bool)
    for i in range(expert.shape[1]):
        e = expert[:, i]
        cost = each[layer, e]
        after = (time + cost[:, None]) * gpu[UNIT_TIME]
        full = np.where(used < slots, 0, 2) + held[layer, e]  # a duplicate where nothing else is
        best = np.where(full == full.min(axis=1, keepdims=True), after, np.inf).argmin(axis=1)
        placed[layer, gpu[FIRST, best] + used[layer, best]] = e
        used[layer, best] += 1
        time[layer, best] += cost
        held[layer, e, best] = True


def _part(each: Int, gpu: Int, placed: Int) -> None:
    """Exchange duplicates for replicas of other GPUs, so that the later of the two is done first.

    Only one that leaves fewer of them.
    """
    G, unit = gpu.shape[1], gpu[UNIT_TIME]
    of_slot = np.repeat(np.arange(G), gpu[SLOTS])
    slots = np.concatenate([np.arange(f, f + n) for f, n in gpu[[FIRST, SLOTS]].T])
    for cost, row in zip(each, placed, strict=True):
        held = np.zeros((G, len(cost)), np.int64)
        np.add.at(held, (of_slot, row[slots]), 1)
        for i in np.flatnonzero(held[of_slot, row[slots]] > 1):
            g, a, b = of_slot[i], row[slots[i]], row[slots]
            fits = (held[of_slot, a] == 0) & ((held[g, b] == 0) | (held[of_slot, b] > 1))
            if held[g, a] < 2 or not fits.any():
                continue
            time, change = held @ cost, cost[a] - cost[b]
            there = (time[of_slot] + change) * unit[of_slot]
            later = np.maximum((time[g] - change) * unit[g], there)
            j = int(np.where(fits, later, np.inf).argmin())
            k, b = of_slot[j], b[j]
            row[slots[i]], row[slots[j]] = b, a
            np.add.at(held, ([g, g, k, k], [a, b, b, a]), [-1, 1, -1, 1])
