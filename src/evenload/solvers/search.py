"""The compiled search, for layers on the living GPUs of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.bounds import Gpus
from evenload.checks import whole_number
from evenload.cluster import Cluster
from evenload.problem import Apart
from evenload.threads import spread

Int = NDArray[np.int64]
Float = NDArray[np.float64]

ANYWHERE: Apart = (1, False)
TRIALS = {"fast": 4, "standard": 180, "thorough": 4000}
CLOSE = 0.9999  # share of the bound, and balancedness after swaps, at which a layer is left at that
LEAST_PAIRS, PAIRS_A_GPU = 512, 16  # pairs of GPUs that exchanges and disturbances look at
UNIT_BITS = 14  # of the time that the fastest GPU takes for a unit of load, where speeds differ
FEW_SLOTS = 64  # a trial of so few costs next to nothing, and there are few states: try more


class Placed(NamedTuple):
    """Layers that were placed.

    Parameters
    ----------
    expert : int64 ndarray, [L, S]
        Expert in each living slot.
    time : float64 ndarray, [L]
        Time of the slowest GPU, over that of a load divided at will.
    bound : float64 ndarray, [L]
        What that can be at least, where it was asked; at least 1.
    """

    expert: Int
    time: Float
    bound: Float

    def or_better(self, other: Placed) -> Placed:
        """Take each layer from the other where its slowest GPU is done sooner."""
        better = other.time < self.time
        expert = np.where(better[:, None], other.expert, self.expert)
        return Placed(expert, np.minimum(self.time, other.time), self.bound)


def check_effort(effort: Any, levels: Mapping[str, int]) -> int:
    """Return an effort as a number of steps.

    Parameters
    ----------
    effort : str or int
        A level by name, or a number.
    levels : mapping, name -> steps

    Raises
    ------
    ValueError
        For an unknown level, or a number that is no integer of at least 0.
    """
    if not isinstance(effort, str):
        return whole_number("effort", effort)
    if effort not in levels:
        known = ", ".join(levels)
        raise ValueError(f"effort={effort!r} is unknown; use one of: {known}, or a number of steps")
    return levels[effort]


@lru_cache(maxsize=64)
def gpu_rows(cluster: Cluster) -> Int:
    """Describe the living GPUs for kernels, see `core.start`: int64 [4, G], to be read only."""
    living = np.array(cluster.living_gpus)
    capacity = cluster.capacity[living]
    rows = np.empty((4, len(living)), np.int64)
    rows[0] = np.array(cluster.slots)[living]
    rows[1] = np.cumsum(rows[0]) - rows[0]
    alike = (capacity == capacity[0]).all()
    rows[2] = 1 if alike else np.rint(2.0**UNIT_BITS / capacity)
    rows[3] = living // cluster.gpus_per_node
    return rows


@lru_cache(maxsize=64)
def _bounding(cluster: Cluster, copies: int) -> Gpus:
    return Gpus.of(cluster, cluster.living_gpus, copies)


def _load_bits(gpu: Int) -> int:
    """Bits for one expert's load, so that a time and a GPU's number fit one key."""
    from evenload.core.grid import KEY_BITS, LOAD_BITS

    spent = int(gpu[0].sum()).bit_length() + gpu.shape[1].bit_length()
    return int(min(LOAD_BITS, KEY_BITS - spent - int(gpu[2].max()).bit_length() + 1))


def place(
    load: Float,
    cluster: Cluster,
    *,
    trials: int = 0,
    most_pairs: int | None = None,
    target: float = 1.0,
    fine_target: float = CLOSE,
    close: float = CLOSE,
    goal: Float | None = None,
    home: Int | None = None,
    away_price: float = 0.0,
    begun: Int | None = None,
    apart: Apart = ANYWHERE,
) -> Placed:
    """Place layers on the living GPUs of a cluster; see `core.place`.

    Parameters
    ----------
    load : float64 ndarray, [L, E]
    cluster : Cluster
    trials : int, default 0
        Changes of replica counts and placement to try in a layer, times (64 / S)**2 where it has
        fewer slots S than that; 0 leaves it at swaps.
    most_pairs : int, optional
        Pairs of GPUs that exchanges and disturbances look at. Default: 16 a GPU, at least 512.
    target, fine_target : float
        Balancedness at which swaps stop, and at which a layer is left after them.
    close : float
        Share of the bound at which a layer is good enough.
    goal : float64 ndarray, [L], optional
        Time of the slowest GPU that nobody needs to be below, over the mean. Default: 1.
    home : int64 ndarray, [L, E], optional
        Node that has to hold a replica of each expert, -1 for none.
    away_price : float, default 0
        What one token costs that is computed away from home, in tokens spread over all GPUs.
    begun : int64 ndarray, [L, S], optional
        Where to go on from: the expert in each living slot.
    apart : int, bool
        On how many GPUs every expert has to be, or on how many nodes; see `Problem.apart`.
    """
    from evenload.core.place import Scratch, place_layers, start_layers
    from evenload.core.state import State

    L, E = load.shape
    gpu = gpu_rows(cluster)
    bits, bounding = _load_bits(gpu), _bounding(cluster, apart[0])
    G, equal = gpu.shape[1], len(set(gpu[0])) == len(set(gpu[2])) == 1
    pairs = max(LEAST_PAIRS, PAIRS_A_GPU * G) if most_pairs is None else most_pairs
    if only_counts_matter(cluster, apart) and home is None:
        pairs = 0  # longest first is the best pairing
    goals = np.ones(L) if goal is None else goal
    homes = np.full((L, E), -1) if home is None else home
    trials *= max(1, FEW_SLOTS // int(gpu[0].sum())) ** 2
    starts = home is not None or not equal or int(gpu[0].max()) > E or apart[0] > 1
    starts = begun is None and starts
    expert = np.empty((L, int(gpu[0].sum())), np.int64) if begun is None else begun.copy()
    time = np.empty((L, 2))

    def run(first: int, end: int) -> None:
        part = slice(first, end)
        state, scratch = State.empty(gpu, E, 1, False, *apart), Scratch.empty(gpu, E)
        if starts:
            start_layers(load[part], bits, homes[part], state, scratch, expert[part])
        if starts and apart[0] > 1:
            expert[part] = _part_copies(load[part], bits, homes[part], state, expert[part])
        place_layers(
            load[part], bits, homes[part], away_price, starts or begun is not None, pairs, trials,
            target, fine_target, close, goals[part], *bounding[1:4], state, scratch, expert[part],
            time[part],
        )  # fmt: skip

    spread(L, expert.size * (1 + trials), run)
    return Placed(expert, time[:, 0], time[:, 1])


def _part_copies(load: Float, bits: int, home: Int, state: Any, expert: Int) -> Int:
    """Bring experts to as many GPUs or nodes as they need, the heaviest first."""
    from evenload.core.replan import part_copies

    order = np.argsort(-load, axis=1, kind="stable")
    load = np.take_along_axis(load, order, axis=1)
    home = np.take_along_axis(home, order, axis=1)
    expert = np.take_along_axis(np.argsort(order, axis=1), expert, axis=1)
    old = np.zeros((*load.shape, state.gpu.shape[1]), np.uint8)
    part_copies(load[:, :, None], np.ones(1, np.int64), bits, home, old, state, expert)
    return np.take_along_axis(order, expert, axis=1)


def only_counts_matter(cluster: Cluster, apart: Apart = ANYWHERE) -> bool:
    """Whether there are two slots on each of equal GPUs, so that the counts decide everything.

    Not where copies have to be on several nodes: then it matters which GPUs are together.
    """
    gpu = gpu_rows(cluster)
    return bool((gpu[0] == 2).all()) and len(set(gpu[2])) == 1 and not apart[1]


def search(
    load: Float, cluster: Cluster, trials: int, *, begun: Placed | None = None,
    close: float = CLOSE, goal: Float | None = None, apart: Apart = ANYWHERE,
) -> Placed:  # fmt: skip
    """Search replica counts and placement of layers together, from scratch or from where they are.

    Parameters are those of `place`. More trials never end worse: the search of fewer is the
    beginning of theirs, and where it is not, those of each named effort are run too.
    """
    if not only_counts_matter(cluster, apart):
        expert = None if begun is None else begun.expert
        pairs = None if begun is None else 0
        after = place(
            load, cluster, trials=trials, most_pairs=pairs, close=close, goal=goal, begun=expert,
            apart=apart,
        )  # fmt: skip
        return after if begun is None else begun.or_better(after)
    best = begun or place(load, cluster, goal=goal, apart=apart)
    if int(gpu_rows(cluster)[0].sum()) > FEW_SLOTS:
        return _search_pairs(load, cluster, best, trials, close, goal, apart)
    start = best
    for level in levels_up_to(trials):
        expert = _search_pairs(load, cluster, start, level, close, goal, apart).expert
        best = best.or_better(
            place(load, cluster, trials=level, begun=expert, close=close, goal=goal, apart=apart)
        )
    return best


def levels_up_to(trials: int) -> list[int]:
    """List an effort and the named ones below it."""
    return [level for level in TRIALS.values() if level < trials] + [trials]


def _search_pairs(
    load: Float, cluster: Cluster, begun: Placed, trials: int, close: float, goal: Float | None,
    apart: Apart,
) -> Placed:  # fmt: skip
    from evenload.core.place import Scratch, place_pairs
    from evenload.core.state import State

    gpu, E = gpu_rows(cluster), load.shape[1]
    goals = np.ones(len(load)) if goal is None else goal
    expert, time = begun.expert.copy(), np.stack(begun[1:], axis=1)

    def run(first: int, end: int) -> None:
        part = slice(first, end)
        place_pairs(
            load[part], _load_bits(gpu), trials, close, goals[part],
            State.empty(gpu, E, 1, False, *apart), Scratch.empty(gpu, E), expert[part], time[part],
        )  # fmt: skip

    spread(len(load), expert.size * trials, run)
    return Placed(expert, time[:, 0], begun.bound)
