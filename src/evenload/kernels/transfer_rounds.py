"""Rounds of transfers in which every GPU talks to one other at most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import inlined, kernel

Int = NDArray[np.int64]

FREE = -1
SENDS, RECEIVES = 1, 2


@inlined
def _fits(peer: Int, busy: Int, r: int, source: int, target: int) -> bool:
    """Whether a round has room: both idle, or talking to each other in the other direction."""
    talks_to = peer[r, target]
    if source < 0:
        return talks_to == FREE
    if talks_to != FREE and (talks_to != source or busy[r, target] & RECEIVES):
        return False
    return peer[r, source] == FREE or (peer[r, source] == target and not busy[r, source] & SENDS)


@kernel
def _most_rounds(source: Int, target: Int, num_gpus: int) -> int:
    """Return what first fit never goes beyond: the links of a GPU and of its peer, once each."""
    degree = np.zeros(num_gpus, np.int64)
    for i in range(source.size):
        degree[target[i]] += 1
        if source[i] >= 0:
            degree[source[i]] += 1
    return 2 * degree.max()


@kernel
def transfer_rounds(
    source: Int, target: Int, first_move: Int, node: Int, number: Int, rounds: Int
) -> None:
    """Put each move in the first round with room, those that cross nodes first.

    Greedy edge colouring. Two GPUs may send to each other in one round; both links are used then.

    Parameters
    ----------
    source, target : int64, [M]
        GPU that sends, -1 for none (the expert comes from storage), and GPU that receives.
    first_move : int64, [L + 1]
        Where each layer's moves begin.
    node : int64, [G]
    number : int64, [M], output
        Round of each move, from 0 in each layer.
    rounds : int64, [L, 2], output
        Rounds of each layer in which nothing crosses nodes, and in which something does.
    """
    L, G = first_move.size - 1, node.size
    for layer in range(L):
        begin, end = first_move[layer], first_move[layer + 1]
        rounds[layer] = 0
        if begin == end:
            continue
        most = _most_rounds(source[begin:end], target[begin:end], G)
        peer = np.full((most, G), FREE)
        busy = np.zeros((most, G), np.int64)
        across = np.zeros(most, np.int64)
        used = 0
        for far in (1, 0):
            for i in range(begin, end):
                s, t = source[i], target[i]
                crosses = 1 if s < 0 or node[s] != node[t] else 0
                if crosses != far:
                    continue
                r = 0
                while not _fits(peer, busy, r, s, t):
                    r += 1
                number[i] = r
                busy[r, t] |= RECEIVES
                peer[r, t] = s if s >= 0 else t
                if s >= 0:
                    busy[r, s] |= SENDS
                    peer[r, s] = t
                across[r] |= far
                used = max(used, r + 1)
        rounds[layer, 1] = across[:used].sum()
        rounds[layer, 0] = used - rounds[layer, 1]
