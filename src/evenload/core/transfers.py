"""Experts that cross links between two placements: which slots stay, who sends, when, how far.

GPU g has the slots from ``first_slot[g]`` up to ``first_slot[g + 1]``; a slot with -1 holds
nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.core.compile import (
    Flag1,
    Flag2,
    Float1,
    Int,
    Int1,
    Int2,
    Int3,
    entry,
    read_only,
    step,
)

FREE = -1
SENDS, RECEIVES = 1, 2


@entry(Int2, read_only(Int2), read_only(Int1), Int)
def keep_slots(physical_to_logical: Any, before: Any, first_slot: Any, num_experts: Any) -> None:
    """Reorder each GPU's slots so that an expert that was there keeps its slot: [L, S], in place.

    `before` [L, S] is what each slot holds now; what is not an expert stands for nothing.
    """
    L, S = physical_to_logical.shape
    left = np.zeros(num_experts, np.int64)  # slots that each expert of a GPU has still to get
    new = np.empty(S, np.int64)
    for layer in range(L):
        for g in range(first_slot.size - 1):
            start, end = first_slot[g], first_slot[g + 1]
            for slot in range(start, end):
                new[slot] = physical_to_logical[layer, slot]
                if new[slot] >= 0:
                    left[new[slot]] += 1
                physical_to_logical[layer, slot] = -1
            for slot in range(start, end):
                e = before[layer, slot]
                if 0 <= e < num_experts and left[e] > 0:
                    left[e] -= 1
                    physical_to_logical[layer, slot] = e
            n = start
            for slot in range(start, end):
                if physical_to_logical[layer, slot] >= 0:
                    continue
                while n < end and (new[n] < 0 or left[new[n]] == 0):
                    n += 1
                if n == end:
                    break
                physical_to_logical[layer, slot] = new[n]
                left[new[n]] -= 1


@step(Flag2, Int, Int, read_only(Flag1), read_only(Int1), Int1)
def _nearest(holds: Any, e: Any, target: Any, alive: Any, node: Any, sent: Any) -> Any:
    """Return a living holder: of the target's node before others, then who sends least so far."""
    best, best_far, best_sent = -1, 2, np.int64(0)
    for g in range(alive.size):
        if holds[e, g] == 0 or alive[g] == 0:
            continue
        far = 0 if node[g] == node[target] else 1
        if far < best_far or (far == best_far and sent[g] < best_sent):
            best, best_far, best_sent = g, far, sent[g]
    return best


@entry(
    read_only(Int2), read_only(Int1), read_only(Int2), read_only(Int1), Int, read_only(Flag1),
    read_only(Int1), Int2,
)  # fmt: skip
def transfer_sources(
    before: Any, before_first: Any, after: Any, after_first: Any, num_experts: Any, alive: Any,
    node: Any, move: Any,
) -> None:  # fmt: skip
    """List the experts that cross a link, layer by layer, each with its nearest sender.

    Of what slots hold before and after, [L, S] and [L, S'], with the GPUs that are `alive` and so
    can send [G], and their nodes [G]. Writes `move` [M, 5]: layer, expert, source (-1 where no
    living GPU has it), target, slot of the target, in the order of layers and slots.
    """
    G = node.size
    holds = np.empty((num_experts, G), np.uint8)
    got = np.empty(num_experts, np.int64)
    sent = np.empty(G, np.int64)
    found = 0
    for layer in range(before.shape[0]):
        for g in range(G):
            sent[g] = 0
            for e in range(num_experts):
                holds[e, g] = 0
                got[e] = -1
            for slot in range(before_first[g], before_first[g + 1]):
                if before[layer, slot] >= 0:
                    holds[before[layer, slot], g] = 1
        for g in range(G):
            for slot in range(after_first[g], after_first[g + 1]):
                e = after[layer, slot]
                if e < 0 or holds[e, g] == 1 or got[e] == g:
                    continue
                got[e] = g
                source = _nearest(holds, e, g, alive, node, sent)
                if source >= 0:
                    sent[source] += 1
                move[found, 0], move[found, 1], move[found, 2] = layer, e, source
                move[found, 3], move[found, 4] = g, slot
                found += 1


@entry(
    read_only(Int1), read_only(Int1), read_only(Int1), read_only(Int1), Int2, Int2, Int1, Int2
)  # fmt: skip
def transfer_rounds(
    source: Any, target: Any, first_move: Any, node: Any, peer: Any, busy: Any, number: Any,
    rounds: Any,
) -> None:  # fmt: skip
    """Put each move in the first round with room, those that cross nodes first.

    Greedy edge colouring. Two GPUs may send to each other in one round; both links are used then.

    `source` [M] is the GPU that sends, -1 for none (the expert comes from storage), `target` [M]
    the one that receives, and `first_move` [L + 1] where each layer's moves begin. `peer` and
    `busy` are scratch, [R, G]: as many rounds as first fit never goes beyond, which is the links of
    a GPU and of its peer, once each, in any of the layers.

    Writes the `number` of each move's round [M], from 0 in each layer, and the `rounds` of each
    layer [L, 2] in which nothing crosses nodes, and in which something does.
    """
    R, G = peer.shape
    across = np.empty(R, np.int64)
    for layer in range(first_move.size - 1):
        used = 0
        for far in range(1, -1, -1):
            for i in range(first_move[layer], first_move[layer + 1]):
                s, t = source[i], target[i]
                if far != (1 if s < 0 or node[s] != node[t] else 0):
                    continue
                for r in range(R):
                    if r == used:  # none of the rounds so far has room
                        used += 1
                        across[r] = 0
                        for g in range(G):
                            peer[r, g], busy[r, g] = FREE, 0
                    free = peer[r, t] == FREE and (s < 0 or peer[r, s] == FREE)
                    # Or the two talk already, in the other direction.
                    swap = s >= 0 and peer[r, t] == s and peer[r, s] == t
                    if free or (swap and not busy[r, t] & RECEIVES and not busy[r, s] & SENDS):
                        break
                number[i] = r
                across[r] |= far
                busy[r, t] |= RECEIVES
                peer[r, t] = t
                if s >= 0:
                    peer[r, t], peer[r, s] = s, t
                    busy[r, s] |= SENDS
        rounds[layer, 1] = 0
        for r in range(used):
            rounds[layer, 1] += across[r]
        rounds[layer, 0] = used - rounds[layer, 1]


@step(Int1, Int)
def _first_unmet(need: Any, chosen: Any) -> Any:
    for q in range(need.size):
        if not need[q] & chosen:
            return q
    return -1


@step(Int)
def _bits(number: Any) -> Any:
    n = 0
    while number:
        number &= number - 1
        n += 1
    return n


@step(Int1, Int1, Int1)
def _fewest_nodes(need: Any, chosen: Any, left: Any) -> Any:
    """Count the nodes of a smallest set that meets every need, a set of nodes as bits each.

    Depth first: the first need that is not met is met by each of its nodes in turn, and a branch
    ends where it is no smaller than the best set so far. `chosen` and `left` are its stack.
    """
    best = need.size + 1
    chosen[0] = 0
    for q in range(need.size):
        if need[q] & (need[q] - 1) == 0:
            chosen[0] |= need[q]  # there is no choice
    depth = 0
    q = _first_unmet(need, chosen[0])
    if q < 0:
        return _bits(chosen[0])
    left[0] = need[q]
    while depth >= 0:
        if left[depth] == 0 or _bits(chosen[depth]) + 1 >= best:
            depth -= 1
            continue
        node = left[depth] & -left[depth]
        left[depth] ^= node
        more = chosen[depth] | node
        q = _first_unmet(need, more)
        if q < 0:
            best = _bits(more)
            continue
        depth += 1
        chosen[depth] = more
        left[depth] = need[q]
    return best


@entry(read_only(Int3), read_only(Int2), Int, Int, Float1)
def mean_visits(topk: Any, held: Any, first: Any, end: Any, visits: Any) -> None:
    """Average the fewest nodes that hold all experts of a token, for layers `first` up to `end`.

    Takes the experts of each token [tokens, L, k] and the nodes of each expert as bits [L, E], and
    writes their number to `visits` [L].
    """
    tokens, _, k = topk.shape
    need = np.empty(k, np.int64)
    chosen, left = np.empty(k + 1, np.int64), np.empty(k + 1, np.int64)
    for layer in range(first, end):
        total = 0
        for token in range(tokens):
            for i in range(k):
                need[i] = held[layer, topk[token, layer, i]]
            total += _fewest_nodes(need, chosen, left)
        visits[layer] = total / tokens
