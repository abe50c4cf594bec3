"""Balanced packing with torch: iterated greedy, all rows of a batch at once, on any device.

Names of tensors end in their shape. X: rows, P: packs, K: items of a pack, n = P * K: items of a
row, and its slots as well: slot ``p * K + r`` is rank r of pack p.
"""

import math
from functools import reduce
from typing import NamedTuple

import torch

# Most elements of a temporary in the search for a swap, where a row allows. A CPU is fastest while
# it fits the cache and is not worth waking other threads for; other devices want to be filled.
BLOCK_CPU = 1 << 15
BLOCK_DEVICE = 1 << 24


class Packed(NamedTuple):
    """A packing by slot: item [X, n] in it, its weight [X, n]; and the load [X, P] of the packs."""

    item: torch.Tensor
    weight: torch.Tensor
    load: torch.Tensor


def pack(
    weight: torch.Tensor,
    num_packs: int,
    num_attempts: int = 5,
    boost: float = 1.05,
    max_swaps: int = 20,
    target: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put the items of every row into packs of equal size, the heaviest as light as can be.

    Each attempt packs greedily by virtual weight, then swaps items of the heaviest pack with
    items of the others; every row keeps its lightest attempt. Virtual weights begin as the real
    ones, and those of the items in the heaviest pack grow by `boost` after each attempt.

    Rows do not influence each other, and no sum depends on the device or the number of threads.

    Parameters
    ----------
    weight : Tensor [X, n], floating
        Finite weights >= 0 in any unit, checked by the caller; n is a multiple of `num_packs`. Any
        device and layout. Dtypes below 32 bits are computed in float32, others as they are.
    num_packs, num_attempts, boost, max_swaps, target
        As `evenload.eplb.balanced_packing`.

    Returns
    -------
    pack_index, rank_in_pack : Tensor [X, n], int64
        Pack of each item and its place there, on the device of `weight`.

    Notes
    -----
    A swap or an attempt is better when the heaviest load it leaves is smaller, as computed in
    the dtype; no tolerance is involved. None is needed: rounding never reverses an order, so
    where the computed ``load + d`` is below ``heaviest`` the exact one is too, and nothing looks
    better by rounding alone. And none is wanted: weights times a power of two round alike, so
    they are packed alike (short of the ends of the dtype's range), in tokens or normalised to 1.
    In case of a tie the attempt is the first, the pack and the item are those of lowest index.
    """
    with torch.no_grad():
        weight_Xn = _computable(weight)
        num_rows, num_items = weight_Xn.shape
        slot_Xn = torch.arange(num_items, device=weight.device).repeat(num_rows, 1)
        if num_items == num_packs:
            return slot_Xn, torch.zeros_like(slot_Xn)
        item_Xn = _iterate(weight_Xn, num_packs, num_attempts, boost, max_swaps, target)
        slot_Xn = torch.empty_like(item_Xn).scatter_(1, item_Xn, slot_Xn)
        pack_size = num_items // num_packs
        return slot_Xn // pack_size, slot_Xn % pack_size


def _computable(weight_Xn: torch.Tensor) -> torch.Tensor:
    """Weights in at least 32 bits, rows near the end of the range scaled so that sums stay finite.

    The factor is a power of two, hence exact; and with every weight below the square root of the
    range, the greedy pass has numbers left that no load reaches.
    """
    if weight_Xn.element_size() < 4:
        weight_Xn = weight_Xn.to(torch.float32)
    limit = _sqrt_of_range(weight_Xn.dtype)
    huge_X1 = weight_Xn.amax(1, keepdim=True) > limit
    return torch.where(huge_X1, weight_Xn / limit, weight_Xn)


def _sqrt_of_range(dtype: torch.dtype) -> float:
    """2**64 for float32, 2**512 for float64."""
    return 2.0 ** (math.frexp(torch.finfo(dtype).max)[1] // 2)


def _iterate(
    weight_Xn: torch.Tensor,
    num_packs: int,
    num_attempts: int,
    boost: float,
    max_swaps: int,
    target: float | None,
) -> torch.Tensor:
    """Items [X, n] in slot order of each row's lightest attempt, of equals the first."""
    enough_X1 = None if target is None else _sum(weight_Xn) / (num_packs * target)
    virtual_Xn = weight_Xn.clone()
    best_Xn = torch.zeros_like(weight_Xn, dtype=torch.int64)
    best_X1 = torch.full_like(weight_Xn[:, :1], math.inf)
    for _ in range(num_attempts):
        packed = greedy(weight_Xn, virtual_Xn, num_packs)
        refine(packed, max_swaps, enough_X1)
        heaviest_X1, pack_X1 = packed.load.max(1, keepdim=True)
        better_X1 = heaviest_X1 < best_X1
        if enough_X1 is not None:
            better_X1 &= best_X1 > enough_X1
        best_Xn = torch.where(better_X1, packed.item, best_Xn)
        best_X1 = torch.where(better_X1, heaviest_X1, best_X1)
        if enough_X1 is not None and bool((best_X1 <= enough_X1).all()):
            break
        item_XK = packed.item.gather(1, _slots_of(pack_X1, weight_Xn.shape[1] // num_packs))
        virtual_Xn.scatter_(1, item_XK, virtual_Xn.gather(1, item_XK) * boost)
    return best_Xn


def _sum(part_Xn: torch.Tensor) -> torch.Tensor:
    """Sum [X, 1] of each row, as a tree of halves: the same on every device."""
    while (n := part_Xn.shape[1]) > 1:
        left_Xn = part_Xn[:, : (n + 1) // 2].clone()
        left_Xn[:, : n // 2] += part_Xn[:, (n + 1) // 2 :]
        part_Xn = left_Xn
    return part_Xn


def _slots_of(pack_X1: torch.Tensor, size: int) -> torch.Tensor:
    """Slots [X, K] of one pack of each row, in order of rank."""
    return pack_X1 * size + torch.arange(size, device=pack_X1.device)


def greedy(weight_Xn: torch.Tensor, virtual_Xn: torch.Tensor, num_packs: int) -> Packed:
    """Pack by virtual weight, largest first, each item into the lightest pack not yet full.

    One step an item, for all rows at once; the host never waits for the device.
    """
    num_rows, num_items = weight_Xn.shape
    order_Xn = torch.sort(virtual_Xn, dim=1, descending=True, stable=True).indices
    sorted_Xn = weight_Xn.gather(1, order_Xn)
    load_XP = weight_Xn.new_zeros(num_rows, num_packs)
    # A pack counts as heavy as its floor if that is more than its load. Floors begin far below
    # zero, rise a step with each item, and are above every load once the pack is full.
    step = _sqrt_of_range(weight_Xn.dtype) * 2.0**32
    floor_XP = torch.full_like(load_XP, (0.5 - num_items // num_packs) * step)
    step_X1 = torch.full_like(load_XP[:, :1], step)
    key_XP = torch.empty_like(load_XP)
    pack_nX1 = order_Xn.new_empty(num_items, num_rows, 1)
    for item_X1, pack_X1 in zip(sorted_Xn.t().contiguous().unsqueeze(2), pack_nX1, strict=True):
        torch.maximum(load_XP, floor_XP, out=key_XP)
        torch.argmin(key_XP, 1, keepdim=True, out=pack_X1)
        load_XP.scatter_add_(1, pack_X1, item_X1)
        floor_XP.scatter_add_(1, pack_X1, step_X1)
    by_slot_Xn = torch.sort(pack_nX1.squeeze(2).t(), dim=1, stable=True).indices
    return Packed(order_Xn.gather(1, by_slot_Xn), sorted_Xn.gather(1, by_slot_Xn), load_XP)


def refine(packed: Packed, max_swaps: int, enough_X1: torch.Tensor | None) -> None:
    """Swap, in place, while that makes a row's heaviest pack lighter.

    Rows that got no better, or are good enough, drop out; to learn which is the one thing for
    which the host waits in each step.
    """
    num_rows, num_packs = packed.load.shape
    num_items = packed.item.shape[1]
    row_A = torch.arange(num_rows, device=packed.load.device)
    for _ in range(max_swaps if num_packs > 1 else 0):
        load_AP = packed.load.index_select(0, row_A)
        heaviest_A1 = load_AP.amax(1, keepdim=True)
        swap = best_swap(packed.weight.index_select(0, row_A), load_AP)
        better_A1 = swap[2].amax(1, keepdim=True) < heaviest_A1
        if enough_X1 is not None:
            better_A1 &= heaviest_A1 > enough_X1.index_select(0, row_A)
        chosen_B = better_A1.squeeze(1).nonzero().squeeze(1)
        if len(chosen_B) == 0:
            break
        row_A = row_A.index_select(0, chosen_B)
        slot_B2, pack_B2, load_B2 = (part.index_select(0, chosen_B) for part in swap)
        slot_B2 = slot_B2 + (row_A * num_items).unsqueeze(1)
        to_2B, from_2B = slot_B2.view(-1), slot_B2.flip(1).view(-1)
        for state in (packed.item.view(-1), packed.weight.view(-1)):
            state.index_copy_(0, to_2B, state.index_select(0, from_2B))
        pack_2B = (pack_B2 + (row_A * num_packs).unsqueeze(1)).view(-1)
        packed.load.view(-1).index_copy_(0, pack_2B, load_B2.view(-1))


def best_swap(
    weight_Xn: torch.Tensor, load_XP: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Find the swap of an item u of the heaviest pack m with v of any pack k, for each row.

    Best is the least max(load(m) - d, load(k) + d), d = w(u) - w(v); of equals the one of lowest
    k, then rank of v, then rank of u. Pack m against itself never yields less than load(m).

    Returns the slots of u and v, their packs, and what these weigh afterwards, each [X, 2].
    """
    size = weight_Xn.shape[1] // load_XP.shape[1]
    heaviest_X1, m_X1 = load_XP.max(1, keepdim=True)
    slot_XK = _slots_of(m_X1, size)
    u_XK = weight_Xn.gather(1, slot_XK)
    # In two steps, which keep to the order of ties: the first v that any u suits best, then u.
    v_slot_X1 = _least_over_u(u_XK, weight_Xn, heaviest_X1, load_XP).argmin(1, keepdim=True)
    k_X1 = v_slot_X1 // size
    d_XK = u_XK - weight_Xn.gather(1, v_slot_X1)
    after_2XK = torch.stack([heaviest_X1 - d_XK, load_XP.gather(1, k_X1) + d_XK])
    u_X1 = after_2XK.amax(0).argmin(1, keepdim=True)
    load_X2 = after_2XK.gather(2, u_X1.expand(2, -1, -1)).squeeze(2).t().contiguous()
    return torch.cat([slot_XK.gather(1, u_X1), v_slot_X1], 1), torch.cat([m_X1, k_X1], 1), load_X2


def _least_over_u(
    u_XK: torch.Tensor, v_Xn: torch.Tensor, heaviest_X1: torch.Tensor, load_XP: torch.Tensor
) -> torch.Tensor:
    """Least outcome [X, n] of swapping each item v with any u, in blocks of bounded memory."""
    num_rows, size = u_XK.shape
    load_Xn = load_XP.unsqueeze(2).expand(-1, -1, size).reshape(num_rows, -1)
    block = BLOCK_CPU if u_XK.device.type == "cpu" else BLOCK_DEVICE
    rows = max(1, block // (size * v_Xn.shape[1]))
    columns = max(1, block // v_Xn.shape[1])
    least = []
    for u, v, heaviest, load in zip(
        *(part.split(rows) for part in (u_XK, v_Xn, heaviest_X1, load_Xn)), strict=True
    ):
        outcomes = []
        for some_u in u.split(columns, 1):  # all pairs at once: [rows, columns, n]
            d = some_u.unsqueeze(2) - v.unsqueeze(1)
            m_after = heaviest.unsqueeze(2) - d
            k_after = d.add_(load.unsqueeze(1))
            outcomes.append(torch.maximum(m_after, k_after, out=m_after).amin(1))
        least.append(reduce(torch.minimum, outcomes))
    return torch.cat(least)
