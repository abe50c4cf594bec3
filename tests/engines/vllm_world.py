"""A running vLLM as far as its balancing goes: groups, state, thread and small experts, on a CPU.

Of vLLM are the groups (`GroupCoordinator`, over gloo), `EplbState` with its `step` and `rearrange`,
the thread of `async_worker`, the communicator that stages through gloo, and all that moves weights
and commits maps. A PyTorch for the CPU lacks three things that those call; in their place are:

- ``torch.Event``, which the CPU cannot record: `Event`, which knows no time but 0. Nothing is lost
  by that, since work on a CPU is done when the call returns.
- ``torch.accelerator.set_device_index`` and ``set_stream``, which want a GPU: functions that do
  nothing; ``current_stream``: the CPU's.
- pinned memory: `PIN_MEMORY` is False, as vLLM finds out itself where it was built for the CPU.

The model is its numbers and its weights, `ParallelConfig` its fields, since the real one refuses
balancing without a GPU. NCCL, NIXL, streams beside each other and elastic groups did not run.
"""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace

import torch
import torch.distributed as dist

E, K = 12, 6
MODEL_CONFIG = SimpleNamespace(model="tiny", compute_hash=lambda: "tiny")
INTERVAL = 1 << 30  # steps between two rebalances: `serve` says when
SPOILT_LAYER, SPOILT_RANK = 3, 1


class Event:
    """In place of ``torch.Event``."""

    def __init__(self, enable_timing=False):
        pass

    def record(self, stream=None):
        """Do nothing: work on a CPU is done already."""

    wait = record

    def synchronize(self):
        """Do nothing, as `record`."""

    def elapsed_time(self, end):
        """Return no time at all."""
        return 0.0


def join(rank: int, ranks: int, store: str) -> None:
    """Meet the other processes, and put the stand-ins in place."""
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks,
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb import eplb_communicator, eplb_state

    torch.Event = Event
    torch.accelerator.set_device_index = torch.accelerator.set_stream = lambda *_: None
    torch.accelerator.current_stream = torch.Stream
    eplb_state.PIN_MEMORY = eplb_communicator.PIN_MEMORY = False
    parallel_state._NODE_COUNT = 1
    parallel_state._WORLD = group("world")


def group(name: str, stages: int = 1):
    """Return this rank's group of vLLM, one for each pipeline stage."""
    from vllm.distributed.parallel_state import init_model_parallel_group

    width = dist.get_world_size() // stages
    ranks = [list(range(stage * width, (stage + 1) * width)) for stage in range(stages)]
    return init_model_parallel_group(
        ranks, 0, "gloo", group_name=name, use_device_communicator=False
    )


def regroup(state) -> None:
    """Balance in a new group from now on, as vLLM does where ranks come or go."""
    from vllm.distributed import parallel_state

    parallel_state._EPLB = group("eplb")
    fresh = state.create_communicator(MODEL_CONFIG, parallel_state._EPLB)
    state.update_communicator(MODEL_CONFIG, fresh)


def start(layers: int, asynchronous: bool, stages: int):
    """Return vLLM's state of a stage that just started, experts in order, after profiling."""
    from vllm.config.parallel import EPLBConfig
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb.eplb_state import EplbState

    parallel_state._EP, parallel_state._EPLB = group("ep", stages), group("eplb", stages)
    slots = parallel_state._EP.world_size * K
    config = EPLBConfig(
        window_size=1, step_interval=INTERVAL, use_async=asynchronous, communicator="torch_gloo",
        num_redundant_experts=slots - E, enable_migration_batching=asynchronous,
    )  # fmt: skip
    parallel = SimpleNamespace(eplb_config=config, enable_elastic_ep=False, num_ubatches=0)
    initial = EplbState.build_initial_global_physical_to_logical_map(E, slots - E)
    weights = weights_of([initial] * layers, parallel_state._EP.rank_in_group)
    model = SimpleNamespace(
        num_moe_layers=layers, num_expert_groups=1, num_routed_experts=E, num_logical_experts=E,
        num_redundant_experts=slots - E, num_physical_experts=slots, num_local_physical_experts=K,
        expert_weights=weights, moe_layers=[], set_eplb_state=lambda *_: None,
    )  # fmt: skip
    state = EplbState(parallel, torch.device("cpu"))
    state.device_index = 0
    state.add_model(model, MODEL_CONFIG)
    state.step(is_profile=True)
    state.start_async_loop()
    return state


def model_of(state):
    """Return the state's only model."""
    return state.model_states["tiny"]


def serve(state, load) -> None:
    """Let a step come at which vLLM rebalances, and those until all layers have moved."""
    model = model_of(state)
    first = model.logical_to_physical_map[:, :, 0]
    mine = load[: len(first)] * (dist.get_rank() + 1)
    model.expert_load_pass.zero_().scatter_(1, first, mine.int())
    state.expert_rearrangement_step = INTERVAL - 1
    state.step()
    while model.rebalanced:
        time.sleep(0.001)
        if not state.async_worker.is_alive():
            raise RuntimeError("the thread that balances has ended")
        state.step()


def is_right(state) -> bool:
    """Whether weights and tables of this rank are what the map says."""
    from vllm.distributed.eplb.eplb_state import compute_logical_maps
    from vllm.distributed.parallel_state import get_ep_group

    model, rank = model_of(state), get_ep_group().rank_in_group
    slots, count = compute_logical_maps(model.physical_to_logical_map, E)
    tables = torch.equal(slots, model.logical_to_physical_map[..., : slots.shape[2]])
    return tables and torch.equal(count, model.logical_replica_count) and all(
        torch.equal(has.view(torch.uint8), wanted.view(torch.uint8))
        for layers in zip(
            model.model.expert_weights, weights_of(model.physical_to_logical_map.tolist(), rank),
            strict=True,
        )
        for has, wanted in zip(*layers, strict=True)
    )  # fmt: skip


def weights_of(placed, rank):
    """Return each layer's tensors [K, ...] of this rank: bytes that depend on layer and expert."""
    layers = []
    for layer, row in enumerate(placed):
        rows: list[list[torch.Tensor]] = []
        for expert in row[rank * K : (rank + 1) * K]:
            made = torch.Generator().manual_seed(100 * layer + expert)
            rows.append([
                torch.randn(24, generator=made).bfloat16(),
                torch.randint(0, 256, (33,), dtype=torch.uint8, generator=made),  # fp8
                torch.randn(7, generator=made),  # scales
                torch.randn(1, generator=made).bfloat16(),  # a bias
            ])  # fmt: skip
        layers.append([torch.stack(tensors) for tensors in zip(*rows, strict=True)])
    return layers


class Spoiling:
    """A communicator of vLLM that flips a bit of what one rank receives in one layer."""

    def __init__(self, communicator):
        self.communicator, self.layer, self.received = communicator, -1, []

    def __getattr__(self, name):
        return getattr(self.communicator, name)

    def set_transfer_context(self, old_indices, layer_idx):
        self.layer, self.received = layer_idx, []
        self.communicator.set_transfer_context(old_indices, layer_idx)

    def add_recv(self, tensors, src_rank, expert_id):
        self.received.append(tensors)
        self.communicator.add_recv(tensors, src_rank, expert_id=expert_id)

    def execute(self):
        self.communicator.execute()
        if self.layer == SPOILT_LAYER and dist.get_rank() == SPOILT_RANK and self.received:
            self.received[0][1].view(torch.uint8)[17] ^= 4
            self.received = []
