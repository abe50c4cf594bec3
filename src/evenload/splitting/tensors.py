"""Water-filling by torch operations over all layers at once: any device, and never a wait for it.

Shapes depend on the placement alone, so that a CUDA graph can hold it. Names of tensors end in
their shape; g and h are two GPUs of an expert.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch

from evenload.extras import needed
from evenload.splitting.schedule import Schedule

Tables = tuple[torch.Tensor, ...]  # of a `Schedule`
MOST_GPUS = 128  # of the Triton kernel: a square of more does not fit one program's registers


def find(backend: str | None, device: torch.device, num_gpus: int) -> Callable[..., None]:
    """Return `water_fill` of a backend, "torch" or "triton"; for None what suits the device."""
    if backend == "triton" and num_gpus > MOST_GPUS:
        raise ValueError(
            f"backend='triton' is for at most {MOST_GPUS} GPUs, and the placement has {num_gpus}; "
            "use 'torch'"
        )
    fits = device.type == "cuda" and num_gpus <= MOST_GPUS and find_spec("triton") is not None
    if backend == "triton" or (backend is None and fits):
        needed("triton", "triton", "torch", "backend='triton'", instead="use backend 'torch'")
        from evenload.splitting import kernel

        return kernel.water_fill
    return water_fill


def to_device(schedule: Schedule, device: torch.device) -> Tables:
    """Copy the tables of a schedule to a device."""
    return tuple(torch.tensor(table, device=device) for table in schedule)


def water_fill(counts_LE: torch.Tensor, tables: Tables, rounds: int, out: torch.Tensor) -> None:
    """Write how many of its expert's tokens each replica gets, [L, E, X], where it may get some.

    Takes counts [L, E] and tables from `to_device`; `out` comes in zeros. Either is of any dtype.
    """
    resident_LGK, owner_LCG, _, speed_G = tables
    L, E, _ = out.shape
    counts_LE = torch.nn.functional.pad(counts_LE.long(), (0, 1))
    _, C, G = owner_LCG.shape
    alone_LGK = counts_LE.gather(1, resident_LGK.view(L, -1)).view(resident_LGK.shape)
    count_LCG = counts_LE.gather(1, owner_LCG.view(L, -1)).view(L, C, G)
    same_LCgh = (owner_LCG.unsqueeze(3) == owner_LCG.unsqueeze(2)) & (owner_LCG < E).unsqueeze(3)
    before_gh = torch.ones(G, G, dtype=torch.bool, device=speed_G.device).tril(-1)
    width_LCG = same_LCgh.sum(3).clamp_(min=1)
    first_LCG = (same_LCgh & before_gh).sum(3)
    quota_LCG = count_LCG // width_LCG + (first_LCG < count_LCG % width_LCG)
    steps = list(zip(count_LCG.unbind(1), same_LCgh.unbind(1), quota_LCG.unbind(1), strict=True))
    load_LG = alone_LGK.sum(2) + quota_LCG.sum(1)
    even_LCG, even_L = quota_LCG.clone(), _latest(load_LG, speed_G)
    for last in [False] * (rounds - 1) + [True]:
        for count_LG, same_Lgh, quota_LG in steps:
            base_LG = (load_LG if last else load_LG * 3 // 2) - quota_LG
            new_LG = _fill(count_LG, same_Lgh, base_LG, speed_G, before_gh)
            load_LG += new_LG - quota_LG
            quota_LG.copy_(new_LG)
    worse_L = _latest(load_LG, speed_G) > even_L
    quota_LCG = torch.where(worse_L.view(L, 1, 1), even_LCG, quota_LCG)
    write(out, alone_LGK, quota_LCG, tables)


def write(
    out: torch.Tensor, alone_LGK: torch.Tensor, quota_LCG: torch.Tensor, tables: Tables
) -> None:
    """Write to [L, E, X] the tokens of experts with one GPU, and the quotas of the others."""
    resident_LGK, _, place_LCG, _ = tables
    L, E, X = out.shape
    flat = out.new_zeros(L, E * X + 1)  # one more, for the places that are none
    flat.scatter_(1, resident_LGK.view(L, -1) * X, alone_LGK.view(L, -1).to(out.dtype))
    flat.scatter_(1, place_LCG.view(L, -1), quota_LCG.view(L, -1).to(out.dtype))
    out.copy_(flat[:, :-1].view(L, E, X))


def _latest(load_LG: torch.Tensor, speed_G: torch.Tensor) -> torch.Tensor:
    """Return when the last GPU of each layer is done, [L], in 1/1024 of a token's time."""
    return (load_LG * 1024 // speed_G).amax(1)


def _fill(
    count_LG: torch.Tensor,
    same_Lgh: torch.Tensor,
    base_LG: torch.Tensor,
    speed_G: torch.Tensor,
    before_gh: torch.Tensor,
) -> torch.Tensor:
    """Return what each GPU gets of the expert that fills it, if it bears `base_LG` of others."""
    over_Lgh = base_LG.unsqueeze(2) * speed_G - base_LG.unsqueeze(1) * speed_G.unsqueeze(1)
    need_LG = (over_Lgh.clamp_(min=0) * same_Lgh).sum(2)
    wet_LG = need_LG < count_LG * speed_G
    wet_Lgh = same_Lgh & wet_LG.unsqueeze(1)
    total_LG = count_LG + (wet_Lgh * base_LG.unsqueeze(1)).sum(2)
    width_LG = (wet_Lgh * speed_G).sum(2).clamp_(min=1)
    level_LG = total_LG * speed_G // width_LG
    left_LG = total_LG - (wet_Lgh * level_LG.unsqueeze(1)).sum(2)
    first_LG = (wet_Lgh & before_gh).sum(2)
    return (level_LG - base_LG + (first_LG < left_LG)) * wet_LG
