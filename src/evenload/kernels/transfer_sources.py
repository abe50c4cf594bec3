"""Which GPU sends each expert that has to cross a link."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel

Int = NDArray[np.int64]
Flag = NDArray[np.uint8]

NO_SOURCE = -1


@kernel
def _nearest(holds: Flag, target: int, alive: Flag, node: Int, sent: Int) -> int:
    """Return a living holder: of the target's node before others, then who sends least so far."""
    best = NO_SOURCE
    best_far, best_sent = 2, np.int64(0)
    for g in range(holds.size):
        if holds[g] == 0 or alive[g] == 0:
            continue
        far = 0 if node[g] == node[target] else 1
        if far < best_far or (far == best_far and sent[g] < best_sent):
            best, best_far, best_sent = g, far, sent[g]
    return best


@kernel
def transfer_sources(
    before: Int, before_first: Int, after: Int, after_first: Int, alive: Flag, node: Int, move: Int
) -> None:
    """List the experts that cross a link, layer by layer, each with its nearest sender.

    Parameters
    ----------
    before, after : int64, [L, S] and [L, S']
        Experts in slots; -1 for none.
    before_first, after_first : int64, [G + 1]
        Where each GPU's slots begin.
    alive : uint8, [G]
        Whether a GPU can send.
    node : int64, [G]
    move : int64, [M, 5], output
        Layer, expert, source (-1 where no living GPU has it), target, slot of the target, in the
        order of layers and slots.
    """
    G = node.size
    num_experts = 1 + max(before.max(), after.max())
    found = 0
    for layer in range(before.shape[0]):
        holds = np.zeros((num_experts, G), np.uint8)
        got = np.full(num_experts, -1, np.int64)
        sent = np.zeros(G, np.int64)
        for g in range(G):
            for slot in range(before_first[g], before_first[g + 1]):
                if before[layer, slot] >= 0:
                    holds[before[layer, slot], g] = 1
        for g in range(G):
            for slot in range(after_first[g], after_first[g + 1]):
                e = after[layer, slot]
                if e < 0 or holds[e, g] == 1 or got[e] == g:
                    continue
                got[e] = g
                source = _nearest(holds[e], g, alive, node, sent)
                if source != NO_SOURCE:
                    sent[source] += 1
                move[found, 0], move[found, 1], move[found, 2] = layer, e, source
                move[found, 3], move[found, 4] = g, slot
                found += 1
