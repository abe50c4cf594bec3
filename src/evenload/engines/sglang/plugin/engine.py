"""What is asked of SGLang itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evenload.engines.common.carried import Int


def running_map(num_layers: int, num_experts: int, slots_per_rank: int) -> Int | None:
    """Return the map that runs, int64 [L, S'], or None: before the first, or for another model."""
    from sglang.srt.eplb.expert_location import get_global_expert_location_metadata

    metadata = get_global_expert_location_metadata()
    if metadata is None:
        return None
    old: Int = metadata.physical_to_logical_map_cpu.numpy().astype(np.int64)
    shape = (len(old), metadata.num_logical_experts, old.shape[1] % slots_per_rank)
    return old if shape == (num_layers, num_experts, 0) else None


def living_ranks(num_ranks: int) -> tuple[bool, ...] | None:
    """Return which ranks are there, or None where SGLang is not elastic.

    SGLang counts ranks up to the most that there may be; those beyond `num_ranks` have no slots.
    """
    from sglang.srt.elastic_ep.elastic_ep import ElasticEPStateManager

    state = ElasticEPStateManager.instance()
    if state is None or state.active_ranks is None:
        return None
    return tuple(bool(active) for active in state.active_ranks.tolist()[:num_ranks])


def compares() -> bool:
    """Whether all ranks come here together, so that they can compare their maps.

    Elastic ones do not: they join at different times, and after a scale-up rank 0 plans alone.
    """
    from sglang.srt.runtime_context import get_exec

    return get_exec().moe.elastic_ep_backend is None


def gather(said: bytes) -> Sequence[bytes]:
    """Collect as many bytes of each rank, over the group that SGLang adds loads up over."""
    import torch
    from sglang.srt.runtime_context import get_device

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [said]
    mine: Any = torch.tensor(list(said), dtype=torch.uint8, device=get_device().device)
    everyone = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(everyone, mine)
    return [bytes(theirs.tolist()) for theirs in everyone]


def is_first() -> bool:
    """Whether this rank speaks for all."""
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return True
    return bool(torch.distributed.get_rank() == 0)
