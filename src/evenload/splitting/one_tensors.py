"""One replica of each active expert by torch operations over all layers at once.

As `tensors`: any device, never a wait for it, shapes that depend on the placement alone. g and h
are two GPUs of an expert.
"""

import torch

from evenload.splitting.tensors import Tables, write

FAR = 1 << 20  # GPUs on a way: more than there are
LONGEST = 8  # GPUs that a way passes at most


def choose_one(counts_LE: torch.Tensor, tables: Tables, rounds: int, out: torch.Tensor) -> None:
    """Write the tokens of each expert at the one replica that it uses, [L, E, X].

    Takes counts [L, E] and tables from `to_device`; `out` comes in zeros. Either is of any dtype.
    Every expert first takes its GPU that is done soonest, those of a step of the schedule at once.
    Then an expert is passed on `rounds` times along a shortest way from the fullest GPU to one that
    has room for one more.
    """
    resident_LGK, owner_LCG, _, speed_G = tables
    L, E, _ = out.shape
    _, C, G = owner_LCG.shape
    counts_LE = torch.nn.functional.pad(counts_LE.long(), (0, 1))
    alone_LGK = counts_LE.gather(1, resident_LGK.view(L, -1)).view(resident_LGK.shape)
    count_LCG = counts_LE.gather(1, owner_LCG.view(L, -1)).view(L, C, G)
    unit_G = speed_G.amax().double() / speed_G
    same_LCgh = (owner_LCG.unsqueeze(3) == owner_LCG.unsqueeze(2)) & (owner_LCG < E).unsqueeze(3)
    same_LCgh &= (count_LCG > 0).unsqueeze(3)
    load_LG = (alone_LGK > 0).sum(2)
    uses_LCG = torch.zeros_like(same_LCgh[..., 0])
    number_G = torch.arange(G, device=out.device)
    for c in range(C):
        done_LG = (load_LG + 1) * unit_G
        later_Lgh = done_LG.unsqueeze(1) < done_LG.unsqueeze(2)
        later_Lgh |= (done_LG.unsqueeze(1) == done_LG.unsqueeze(2)) & (
            number_G < number_G.unsqueeze(1)
        )
        beaten_LG = (later_Lgh & same_LCgh[:, c]).any(2)
        uses_LCG[:, c] = same_LCgh[:, c].any(2) & ~beaten_LG
        load_LG = load_LG + uses_LCG[:, c]
    for _ in range(rounds):
        _pass_one_on(uses_LCG, same_LCgh, load_LG, unit_G, min(LONGEST, G - 1))
    quota_LCG = torch.where(uses_LCG, count_LCG, 0)
    write(out, alone_LGK, quota_LCG, tables)


def _pass_one_on(
    uses_LCG: torch.Tensor,
    same_LCgh: torch.Tensor,
    load_LG: torch.Tensor,
    unit_G: torch.Tensor,
    longest: int,
) -> None:
    """Pass an expert on from the fullest GPU of each layer, where a way is short enough."""
    layer = torch.arange(len(uses_LCG), device=load_LG.device)
    time_LG = load_LG * unit_G
    latest_L1, at_L1 = time_LG.max(1, keepdim=True)
    leads_Lgh = (uses_LCG.unsqueeze(3) & same_LCgh).any(1)
    far_LG = torch.where((load_LG + 1) * unit_G < latest_L1, 0, FAR)
    for _ in range(longest):
        near_LG = torch.where(leads_Lgh, far_LG.unsqueeze(1), FAR).amin(2) + 1
        far_LG = torch.minimum(far_LG, near_LG)
    at_L = at_L1.squeeze(1)
    for _ in range(longest):
        far_L = far_LG[layer, at_L]
        goes_L = (far_L > 0) & (far_L < FAR)
        next_Lh = leads_Lgh[layer, at_L] & (far_LG == (far_L - 1).unsqueeze(1))
        to_L = torch.where(goes_L, next_Lh.long().argmax(1), at_L)
        passed_LC = uses_LCG[layer, :, at_L] & same_LCgh[layer, :, at_L, to_L]
        c_L = passed_LC.long().argmax(1)
        one_L = goes_L.long()
        uses_LCG[layer, c_L, at_L] &= ~goes_L
        uses_LCG[layer, c_L, to_L] |= goes_L
        load_LG[layer, at_L] -= one_L
        load_LG[layer, to_L] += one_L
        at_L = to_L
