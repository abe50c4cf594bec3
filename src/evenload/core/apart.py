"""Copies of an expert that are kept apart, so that no GPU or node takes all of them when it dies.

What may die is a *domain*: a GPU, or a node with all of its GPUs. Every expert has to be held by
`State.copies` domains at least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.core.compile import Int, Int1, Int2, kernel, step
from evenload.core.start import NEVER, NODE, NONE, SLOTS, UNIT_TIME
from evenload.core.state import (
    COUNT,
    EXPERT,
    FEWER,
    HELD,
    MORE,
    NOW,
    OLD,
    State,
    StateType,
    hand_over,
    is_away,
    slot_with,
    swap,
)

IntArray = NDArray[np.int64]

UNSEEN = -2
GPU, MOVED, LOSS = range(3)  # of a path, by domain: who comes from which GPU, how unlike in load


@step(StateType, Int)
def domain(s: State, g: int) -> int:
    """Return the domain of a GPU; those of the GPUs never descend."""
    return s.gpu[NODE, g] if s.by_node else np.int64(g)


@step(StateType, Int, Int)
def num_domains(s: State, e: int, without: int) -> int:
    """Count the domains that hold an expert, less one replica on a GPU (-1: less none)."""
    found = np.int64(0)
    last = np.int64(NONE)
    for g in range(s.gpu.shape[1]):
        if s.held[HELD, e, g] > np.int64(g == without):
            here = domain(s, g)
            found += here != last
            last = here
    return found


@step(StateType, Int, Int, Int)
def may_go(s: State, e: int, g: int, to: int) -> bool:
    """Whether a replica of an expert may leave a GPU for another, or for none (-1).

    Not if the expert is then held by fewer domains than it needs, and fewer than before. It calls
    nothing, since every plan compiles it.
    """
    if s.copies == 1 or s.held[HELD, e, g] > 1:
        return True
    before = np.int64(0)
    after = np.int64(0)
    last = np.int64(NONE)
    last_after = np.int64(NONE)
    for h in range(s.gpu.shape[1]):
        here = s.gpu[NODE, h] if s.by_node else np.int64(h)
        held = s.held[HELD, e, h] > 0
        if held:
            before += here != last
            last = here
        if h == to or (held and h != g):
            after += here != last_after
            last_after = here
    return after >= min(s.copies, before)


@step(StateType)
def all_apart(s: State) -> bool:
    """Whether every expert is held by as many domains as it needs."""
    for e in range(s.expert.shape[1] if s.copies > 1 else 0):
        if num_domains(s, e, NONE) < s.copies:
            return False
    return True


@step(StateType, Int, Int)
def _is_in(s: State, e: int, where: int) -> bool:
    """Whether a domain holds an expert."""
    if not s.by_node:
        return s.held[HELD, e, where] > 0
    for g in range(s.gpu.shape[1]):  # noqa: SIM110 - `any` takes long to compile
        if s.gpu[NODE, g] == where and s.held[HELD, e, g] > 0:
            return True
    return False


@kernel(StateType)
def keep_apart(s: State) -> bool:
    """Bring every expert to as many domains as it needs; return whether that went.

    It goes wherever the domains together, each with no more slots than there are experts, have a
    slot for every copy needed, and no expert is bound to a home. *Proof.* Domains and experts are
    the two sides of a bipartite graph, and what is searched is an augmenting path of a flow. Where
    there is none, let R be the domains that were reached. The domains outside, o in number, hold
    every expert that R holds, and the one that lacks a copy too. So no expert has more than
    ``copies - o`` domains in R, and that one has fewer; R is full and holds nothing twice, so its
    slots are fewer than ``(copies - o) * E``; those outside count for at most ``o * E``.
    """
    D = 1 + domain(s, s.gpu.shape[1] - 1)
    path, queue = np.empty((3, D), np.int64), np.empty(D, np.int64)
    kept = True
    for e in range(s.expert.shape[1]):
        while kept and num_domains(s, e, NONE) < s.copies:
            kept = _bring(s, e, path, queue)
    return kept


@step(StateType, Int, Int2, Int1)
def _bring(s: State, e: int, path: IntArray, queue: IntArray) -> bool:
    """Bring an expert to one more domain, with as few others moved as that takes.

    Breadth first over domains: the expert may come to each that lacks it; where no replica there
    can be spared, one of them goes on to a domain that lacks it, and so on.
    """
    reached = 0
    for where in range(path.shape[1]):
        path[GPU, where] = UNSEEN
        if not _is_in(s, e, where) and (s.by_node or not is_away(s, e, where)):
            path[GPU, where] = NONE
            path[MOVED, where] = e
            queue[reached] = where
            reached += 1
    first = 0
    while first < reached:
        g, x = _best_spare(s, path, queue, first, reached)
        if g != NONE:
            _follow(s, e, g, x, path)
            return True
        last = reached
        for at in range(first, last):
            reached = _go_on(s, e, queue[at], path, queue, last, reached)
        first = last
    return False


@step(StateType, Int2, Int1, Int, Int)
def _best_spare(s: State, path: IntArray, queue: IntArray, first: int, last: int) -> tuple:
    """Find the GPU and the expert of a replica that can be spared, in one of some domains.

    Fewest moves first, then the soonest end of the GPUs that this makes slower.
    """
    best_g = np.int64(NONE)
    best_x = np.int64(NONE)
    fewest = np.int64(2)
    soonest = NEVER
    for g in range(s.gpu.shape[1]):
        where = domain(s, g)
        among = False
        for at in range(first, last):
            among = among or queue[at] == where
        for i in range(s.gpu[SLOTS, g] if among else 0):
            x, coming = s.slot[EXPERT, g, i], path[MOVED, where]
            if s.expert[COUNT, x] < 2 or not may_go(s, x, g, NONE):
                continue
            moves = np.int64(s.held[OLD, coming, g] == 0)
            moves -= np.int64(s.held[OLD, x, g] == 0 and s.held[HELD, x, g] == 1)
            if moves > fewest:
                continue
            later = np.int64(0)
            for m in range(s.time.shape[1]):
                after = (
                    s.time[g, m]
                    + (s.cost[MORE, coming, m] - s.cost[NOW, x, m]) * (s.gpu[UNIT_TIME, g])
                )
                for h in range(s.gpu.shape[1]):
                    if h != g and s.held[HELD, x, h] > 0:
                        more = s.cost[FEWER, x, m] - s.cost[NOW, x, m]
                        after = max(after, s.time[h, m] + more * s.gpu[UNIT_TIME, h])
                later += after
            if moves < fewest or later < soonest:
                best_g, best_x, fewest, soonest = g, x, moves, later
    return best_g, best_x


@step(StateType, Int, Int, Int2, Int1, Int, Int)
def _go_on(
    s: State, e: int, where: int, path: IntArray, queue: IntArray, last: int, reached: int
) -> int:
    """Reach the domains that a replica of this one may go to, by the one most like `e` in load."""
    for g in range(s.gpu.shape[1]):
        for i in range(s.gpu[SLOTS, g] if domain(s, g) == where else 0):
            f = s.slot[EXPERT, g, i]
            loss = abs(s.cost[NOW, f, 0] - s.cost[NOW, e, 0])
            for to in range(path.shape[1]):
                if path[GPU, to] != UNSEEN:
                    new = False
                    for at in range(last, reached):
                        new = new or queue[at] == to
                    if not new or loss >= path[LOSS, to]:
                        continue
                if _is_in(s, f, to) or (not s.by_node and is_away(s, f, to)):
                    continue
                if path[GPU, to] == UNSEEN:
                    queue[reached] = to
                    reached += 1
                path[GPU, to] = g
                path[MOVED, to] = f
                path[LOSS, to] = loss
    return reached


@step(StateType, Int, Int, Int, Int2)
def _follow(s: State, e: int, g: int, x: int, path: IntArray) -> None:
    """Give a spare replica of x on a GPU to an expert, and change places back along the path."""
    if x != e:
        for place in range(s.spare.size):
            if s.spare[place] == x:
                hand_over(s, place, g, e)
                break
    while path[GPU, domain(s, g)] != NONE:
        where = domain(s, g)
        k, f = path[GPU, where], path[MOVED, where]
        swap(s, g, slot_with(s, g, e), k, slot_with(s, k, f))
        g = k
