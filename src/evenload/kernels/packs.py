"""The packs of one layer while it is searched, on the integer grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.kernels.compile import kernel
from evenload.kernels.grid import bit_length
from evenload.kernels.sort import sort_few

Int = NDArray[np.int64]


class Packs(NamedTuple):
    """State of one layer; a tuple, since that is what kernels can take.

    Parameters
    ----------
    share, expert : int64 ndarray, [G, K]
        Load and expert of each slot, each pack's slots by descending share.
    load : int64 ndarray, [G]
        Sum of each pack.
    ranking : int64 ndarray, [G]
        The keys ``load << bits | pack`` ascending: one comparison orders by load and settles ties
        by the lowest index, and the heaviest pack is last.
    bits : int
        Bits that hold a pack's number.
    """

    share: Int
    expert: Int
    load: Int
    ranking: Int
    bits: int


@kernel
def empty_packs(num_packs: int, num_slots: int) -> Packs:
    """Make room for the state of a layer."""
    return Packs(
        np.empty((num_packs, num_slots), np.int64),
        np.empty((num_packs, num_slots), np.int64),
        np.empty(num_packs, np.int64),
        np.empty(num_packs, np.int64),
        bit_length(num_packs),
    )


@kernel
def rank_packs(packs: Packs) -> None:
    """Fill the loads and the ranking from the slots."""
    G, K = packs.share.shape
    for g in range(G):
        packs.load[g] = 0
        for i in range(K):
            packs.load[g] += packs.share[g, i]
        packs.ranking[g] = (packs.load[g] << packs.bits) | g
    sort_few(packs.ranking, G)


@kernel
def pack_at(packs: Packs, place: int) -> int:
    """Return the pack at a place of the ranking, 0 for the lightest, -1 for the heaviest."""
    return packs.ranking[place] & ((1 << packs.bits) - 1)


@kernel
def heaviest_load(packs: Packs) -> int:
    """Return the load of the heaviest pack."""
    return packs.ranking[-1] >> packs.bits
