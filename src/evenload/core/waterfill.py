"""Water-filling of one layer after another: the same whole numbers as `splitting.tensors`.

Each replicated expert in turn takes its tokens off its GPUs and fills them anew to one level, the
least loaded first, and so for some rounds. That lowers the sum of the squares of the GPUs' loads,
and where that is least the heaviest GPU is lightest too: rounds without end would come to the best
split, as `core.split` does (but for whole tokens).

All rounds but the last go further than to the level, by half (successive over-relaxation): they
fill as if GPUs were half as loaded again. After 8 rounds that was .3-.7 points of balancedness from
the best split on placements that link all GPUs, where it was .8-1.6 without.
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


@step(Int, Int2, Int, Int, Int, read_only(Int1), Int, Int1, Int2, Int2)
def _fill(
    count: Any, member: Any, c: Any, start: Any, end: Any, speed: Any, last: Any, load: Any,
    quota: Any, scratch: Any,
) -> Any:  # fmt: skip
    """Fill an expert's GPUs, ``member[c, start:end]``, to one level; tell whether a quota changed.

    What rounding down leaves over goes to the first GPUs that get any, one token each. `scratch`
    [2, G] is what a GPU seems to bear of other experts, and whether it gets some.
    """
    for i in range(start, end):
        gpu = member[c, i]
        scratch[0, gpu] = (load[gpu] if last else load[gpu] * 3 // 2) - quota[c, gpu]
    total, width = count, np.int64(0)
    for i in range(start, end):
        gpu, need = member[c, i], np.int64(0)
        for j in range(start, end):
            other = member[c, j]
            need += max(scratch[0, gpu] * speed[other] - scratch[0, other] * speed[gpu], 0)
        scratch[1, gpu] = need < count * speed[gpu]  # the level is above what it bears already
        if scratch[1, gpu]:
            total += scratch[0, gpu]
            width += speed[gpu]
    left = total
    for i in range(start, end):
        gpu = member[c, i]
        if scratch[1, gpu]:
            left -= total * speed[gpu] // width
    changed = False
    for i in range(start, end):
        gpu, new = member[c, i], np.int64(0)
        if scratch[1, gpu]:
            new = total * speed[gpu] // width - scratch[0, gpu]
            if left > 0:
                new += 1
                left -= 1
        changed = changed or new != quota[c, gpu]
        load[gpu] += new - quota[c, gpu]
        quota[c, gpu] = new
    return changed


@step(Int1, read_only(Int1))
def _latest(load: Any, speed: Any) -> Any:
    """Return when the last GPU is done, in 1/1024 of a token's time."""
    latest = np.int64(0)
    for gpu in range(load.size):
        latest = max(latest, load[gpu] * 1024 // speed[gpu])
    return latest


@step(read_only(Int2), Table, Int, Int2, Int1, Int1, Int2)
def _share_evenly(
    counts: Any, owner: Any, layer: Any, member: Any, size: Any, load: Any, quota: Any
) -> None:
    """Add to `load` [G] the even split of all experts, and write it to `quota` [C, G]."""
    for c in range(size.size):
        start = np.int64(0)
        while start < size[c]:
            end = _end(owner, layer, c, member, size, start)
            count, n = counts[layer, owner[layer, c, member[c, start]]], end - start
            for i in range(n):
                gpu = member[c, start + i]
                quota[c, gpu] = count // n + (1 if i < count % n else 0)
                load[gpu] += quota[c, gpu]
            start = end


@step(Table, Int, Int, Int2, Int1, Int)
def _end(owner: Any, layer: Any, c: Any, member: Any, size: Any, start: Any) -> Any:
    """Return where the GPUs end that share the expert of ``member[c, start]``."""
    end = start + 1
    while end < size[c] and owner[layer, c, member[c, end]] == owner[layer, c, member[c, start]]:
        end += 1
    return end


@entry(read_only(Int2), Table, Table, Table, read_only(Int1), Int, Int2)
def water_fill(
    counts: Any, resident: Any, owner: Any, place: Any, speed: Any, rounds: Any, out: Any
) -> None:
    """Write how many of its expert's tokens each replica gets, [L, E * X], where it may get some.

    Takes the tokens of each expert [L, E] and the tables of `splitting.schedule.Schedule`. Where
    the even split, from which it starts, lets the last GPU be done sooner, it is that.
    """
    L, C, G = owner.shape
    E, K = counts.shape[1], resident.shape[2]
    X = out.shape[1] // E
    load, seen, size = np.empty(G, np.int64), np.empty(E, np.int64), np.empty(C, np.int64)
    quota, member = np.empty((C, G), np.int64), np.empty((C, G), np.int64)
    scratch = np.empty((2, G), np.int64)
    for layer in range(L):
        for gpu in range(G):
            load[gpu] = 0
            for k in range(K):
                e = resident[layer, gpu, k]
                if e < E:
                    load[gpu] += counts[layer, e]
                    out[layer, e * X] = counts[layer, e]
        _group(owner, layer, E, seen, member, size)
        _share_evenly(counts, owner, layer, member, size, load, quota)
        even = _latest(load, speed)
        r, changed = np.int64(0), True
        while r < rounds:
            r = r + 1 if changed else rounds  # nothing but the last round can change anything
            changed = False
            for c in range(C):
                start = np.int64(0)
                while start < size[c]:
                    end = _end(owner, layer, c, member, size, start)
                    count, last = counts[layer, owner[layer, c, member[c, start]]], r == rounds
                    if _fill(count, member, c, start, end, speed, last, load, quota, scratch):
                        changed = True
                    start = end
        if _latest(load, speed) > even:
            _share_evenly(counts, owner, layer, member, size, load, quota)
        for c in range(C):
            for i in range(size[c]):
                gpu = member[c, i]
                out[layer, place[layer, c, gpu]] = quota[c, gpu]
