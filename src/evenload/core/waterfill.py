"""Water-filling of one layer after another: the same whole numbers as `splitting.tensors`.

Each replicated expert in turn takes its tokens off its GPUs and fills them anew to one level, the
least loaded first, and so for some rounds. The sum of the squares of the GPUs' loads sinks with
every step, and where it is least the heaviest GPU is lightest too. So rounds without end would come
to the best split, as `core.split` does (but for whole tokens).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.core.compile import Int, Int1, Int2, Int3, entry, read_only, step

Table = read_only(Int3)


@step(Table, Int, Int, Int1, Int2, Int1)
def _group(owner: Any, layer: Any, num_experts: Any, seen: Any, member: Any, size: Any) -> None:
    """List the GPUs of each step [C, G], those of an expert in a row, and how many there are [C].

    `seen` [E] is scratch.
    """
    C, G = owner.shape[1], owner.shape[2]
    for e in range(num_experts):
        seen[e] = -1
    for c in range(C):
        n = np.int64(0)
        for first in range(G):
            e = owner[layer, c, first]
            if e == num_experts or seen[e] == c:
                continue
            seen[e] = c
            for gpu in range(first, G):
                if owner[layer, c, gpu] == e:
                    member[c, n] = gpu
                    n += 1
        size[c] = n


@step(Int, Int2, Int, Int, Int, read_only(Int1), Int1, Int2, Int1)
def _fill(
    count: Any, member: Any, c: Any, start: Any, end: Any, speed: Any, load: Any, quota: Any,
    wet: Any,
) -> Any:  # fmt: skip
    """Fill an expert's GPUs, ``member[c, start:end]``, to one level; tell whether a quota changed.

    What rounding down leaves over goes to the first GPUs that get any, one token each. `wet` [G] is
    scratch.
    """
    for i in range(start, end):
        gpu = member[c, i]
        load[gpu] -= quota[c, gpu]
    total, width = count, np.int64(0)
    for i in range(start, end):
        gpu, need = member[c, i], np.int64(0)
        for j in range(start, end):
            other = member[c, j]
            need += max(load[gpu] * speed[other] - load[other] * speed[gpu], 0)
        wet[gpu] = need < count * speed[gpu]  # the level is above what it bears already
        if wet[gpu]:
            total += load[gpu]
            width += speed[gpu]
    left = total
    for i in range(start, end):
        gpu = member[c, i]
        if wet[gpu]:
            left -= total * speed[gpu] // width
    changed = False
    for i in range(start, end):
        gpu, new = member[c, i], np.int64(0)
        if wet[gpu]:
            new = total * speed[gpu] // width - load[gpu]
            if left > 0:
                new += 1
                left -= 1
        changed = changed or new != quota[c, gpu]
        quota[c, gpu] = new
        load[gpu] += new
    return changed


@entry(read_only(Int2), Table, Table, Table, read_only(Int1), Int, Int2)
def water_fill(
    counts: Any, resident: Any, owner: Any, place: Any, speed: Any, rounds: Any, out: Any
) -> None:
    """Write how many of its expert's tokens each replica gets, [L, E * X], where it may get some.

    Takes the tokens of each expert [L, E] and the tables of `splitting.schedule.Schedule`. Stops
    where a round changes nothing.
    """
    L, C, G = owner.shape
    E, K = counts.shape[1], resident.shape[2]
    X = out.shape[1] // E
    load, wet, seen = np.empty(G, np.int64), np.empty(G, np.int64), np.empty(E, np.int64)
    quota, member, size = (
        np.empty((C, G), np.int64),
        np.empty((C, G), np.int64),
        np.empty(C, np.int64),
    )
    for layer in range(L):
        for gpu in range(G):
            load[gpu] = 0
            for k in range(K):
                e = resident[layer, gpu, k]
                if e < E:
                    load[gpu] += counts[layer, e]
                    out[layer, e * X] = counts[layer, e]
        _group(owner, layer, E, seen, member, size)
        for r in range(rounds + 1):
            changed = r == 0
            for c in range(C):
                start = np.int64(0)
                while start < size[c]:
                    e, end = owner[layer, c, member[c, start]], start + 1
                    while end < size[c] and owner[layer, c, member[c, end]] == e:
                        end += 1
                    count, n = counts[layer, e], end - start
                    if r > 0 and _fill(count, member, c, start, end, speed, load, quota, wet):
                        changed = True
                    for i in range(n if r == 0 else 0):  # to begin with, the even split
                        gpu = member[c, start + i]
                        quota[c, gpu] = count // n + (1 if i < count % n else 0)
                        load[gpu] += quota[c, gpu]
                    start = end
            if not changed:
                break
        for c in range(C):
            for i in range(size[c]):
                gpu = member[c, i]
                out[layer, place[layer, c, gpu]] = quota[c, gpu]
