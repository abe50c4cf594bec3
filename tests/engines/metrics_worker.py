"""A worker that rebalances by an engine's real objects: ``metrics_worker.py vllm|sglang``.

Prints the bytes that crossed from rank to rank, counted expert by expert.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torch.distributed as dist
from sglang_world import MODEL, RANKS, configured, join, loads

L, E, S = 3, 16, 24
K = S // RANKS


def weights(layer: int) -> list[torch.Tensor]:
    """Return the tensors [K, ...] of a layer; no two layers have experts of one size."""
    return [
        torch.zeros(K, 8, 3 + layer, dtype=torch.bfloat16),
        torch.zeros(K, 5, dtype=torch.float8_e4m3fn),
        torch.zeros(K, 2, 1),
    ]


def size(layer: int) -> int:
    return 2 * 8 * (3 + layer) + 5 + 4 * 2


def crossed(old: list[list[int]], new: list[list[int]], first_layer: int = 0) -> int:
    """Count the bytes of experts that are new to their rank."""
    number = 0
    for layer, (before, after) in enumerate(zip(old, new, strict=True), first_layer):
        for slot in range(0, S, K):
            arrived = set(after[slot : slot + K]) - set(before[slot : slot + K])
            number += len(arrived) * size(layer)
    return number


def vllm() -> int:
    """Let a model join vLLM's `EplbState`, and its worker ask for maps."""
    os.environ["EVENLOAD_VLLM"] = "1"
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    from vllm.config.parallel import EPLBConfig
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb import async_worker, eplb_state
    from vllm.model_executor.models.interfaces import MixtureOfExperts

    class Layer:
        def __init__(self, number):
            self.get_expert_weights = lambda: weights(number)
            self.set_eplb_state = lambda **_: None

    class Moe(MixtureOfExperts):
        def __init__(self):
            self.num_moe_layers, self.num_expert_groups = L, 1
            self.num_logical_experts = self.num_routed_experts = E
            self.num_physical_experts, self.num_local_physical_experts = S, K
            self.num_shared_experts, self.num_redundant_experts = 0, S - E
            self.moe_layers = [Layer(number) for number in range(L)]

    group = SimpleNamespace(cpu_group=dist.group.WORLD, device_group=dist.group.WORLD)
    parallel_state._EPLB = group
    said = EPLBConfig(window_size=2, step_interval=4, num_redundant_experts=S - E, use_async=False)
    said.communicator = "torch_gloo"
    config = SimpleNamespace(eplb_config=said, enable_elastic_ep=False, num_ubatches=0)
    state = eplb_state.EplbState(config, torch.device("cpu"))
    state.add_model(Moe(), SimpleNamespace(model="tiny/moe", compute_hash=lambda: "a hash"))
    (model_state,) = state.model_states.values()
    number, runs = 0, model_state.physical_to_logical_map.clone()
    load = (torch.arange(L * E) ** 2 % 37 + 1).reshape(L, E)
    for window in (load * 0, load, load.flip(1)):  # the profiling run, and two rebalances
        model_state.eplb_stats = eplb_state.EplbStats(window, S, 1, 1, RANKS)
        placed = async_worker.run_rebalance_experts(model_state, state, runs, None)
        number += crossed(runs.tolist(), placed.tolist())
        runs = placed
    return number


def sglang() -> int:
    """Let SGLang's updater take over maps, but for the transfer, which needs all ranks."""
    sys.path.insert(0, str(Path(__file__).with_name("stubs")))
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.srt.eplb import expert_location as location
    from sglang.srt.eplb import expert_location_updater as updater

    number = 0
    with (
        configured(eplb_algorithm="evenload", served_model_name="tiny", model_path="a/b"),
        patch.object(updater, "_update_expert_weights", lambda **_: {}),
    ):
        metadata = location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=0)
        location.set_global_expert_location_metadata(metadata)
        mover = updater.ExpertLocationUpdater()
        mover._first_execution = False  # it would empty a cache that a PyTorch for the CPU lacks
        held = {layer: weights(layer) for layer in range(1, metadata.num_layers)}  # 0 is dense
        for seed in (0, 1):
            new = location.ExpertLocationMetadata.init_by_eplb(MODEL, loads(seed=seed))
            old = metadata.physical_to_logical_map_cpu.clone().tolist()
            for chunk in ([1, 2], [3, 4]):
                mover.update(held, new, update_layer_ids=chunk, nnodes=2, rank=0)
            placed = new.physical_to_logical_map_cpu.tolist()
            number += crossed(old[1:], placed[1:], 1)
    return number


if __name__ == "__main__":
    join()
    said = {"vllm": vllm, "sglang": sglang}[sys.argv[1]]()
    sys.stdout.write(f"\nSAID {said}\n")
    sys.stdout.flush()
    os._exit(0)  # gloo's threads abort the process at times
