"""A redundant replica's slot handed from one expert to another."""

from __future__ import annotations

from evenload.kernels.compile import kernel
from evenload.kernels.fleet import Fleet, is_away, set_load, set_slot, slot_with
from evenload.kernels.undo import Undo, keep


@kernel
def may_hand_over(fleet: Fleet, giver: int, gpu: int, taker: int) -> bool:
    """Whether the slot of `giver` on a GPU may become one of `taker`."""
    if giver == taker or fleet.count[giver] < 2 or fleet.held[taker, gpu] > 0:
        return False
    return is_away(fleet, giver, gpu) or fleet.at_home[giver] > 1


@kernel
def _count_away(fleet: Fleet, e: int) -> int:
    """Load of an expert that is computed away from its home."""
    return (fleet.count[e] - fleet.at_home[e]) * (fleet.weight[e] // fleet.count[e])


@kernel
def _reweigh(fleet: Fleet, e: int, before: int, undo: Undo, kept: int) -> int:
    """Bring the replicas of an expert to their share, where it was `before`."""
    share = fleet.weight[e] // fleet.count[e]
    for g in range(fleet.slots.size):
        if fleet.held[e, g] > 0:
            kept = keep(undo, kept, fleet, g)
            for _ in range(fleet.held[e, g]):
                i = _slot_with_share(fleet, g, e, before)
                set_slot(fleet, g, i, share, e)
            set_load(fleet, g, fleet.load[g] + fleet.held[e, g] * (share - before))
    return kept


@kernel
def _slot_with_share(fleet: Fleet, gpu: int, e: int, share: int) -> int:
    for i in range(fleet.slots[gpu]):
        if fleet.expert[gpu, i] == e and fleet.share[gpu, i] == share:
            return i
    return -1


@kernel
def hand_over(fleet: Fleet, giver: int, gpu: int, taker: int, undo: Undo, kept: int) -> int:
    """Make the slot of `giver` on a GPU one of `taker`; all replicas of both get other shares.

    Returns
    -------
    int
        GPUs kept in `undo`, of which `kept` were there before.
    """
    kept = keep(undo, kept, fleet, gpu)
    fleet.away[0] -= _count_away(fleet, giver) + _count_away(fleet, taker)
    giver_before = fleet.weight[giver] // fleet.count[giver]
    taker_before = fleet.weight[taker] // fleet.count[taker]
    fleet.count[giver] -= 1
    fleet.count[taker] += 1
    i = slot_with(fleet, gpu, giver)
    set_slot(fleet, gpu, i, taker_before, taker)
    fleet.held[giver, gpu] -= 1
    fleet.held[taker, gpu] += 1
    set_load(fleet, gpu, fleet.load[gpu] - giver_before + taker_before)
    fleet.at_home[giver] -= not is_away(fleet, giver, gpu)
    fleet.at_home[taker] += not is_away(fleet, taker, gpu)
    kept = _reweigh(fleet, giver, giver_before, undo, kept)
    kept = _reweigh(fleet, taker, taker_before, undo, kept)
    fleet.away[0] += _count_away(fleet, giver) + _count_away(fleet, taker)
    return kept
