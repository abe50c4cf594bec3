"""One rank of a group whose experts vLLM moves: ``vllm_moves.py RANK RANKS STORE``.

The rounds are each way of moving, untouched and with one bit flipped in a tensor that a rank
received. After each it prints its log, and ``SAID``, whether all weights are right, and what
`on_mismatch` was told.

A PyTorch for the CPU has no streams and no events. So what is run of vLLM is all that moves bytes
and commits maps: `rearrange_expert_weights_inplace` (with `move_to_buffer`, `move_from_buffer` and
the communicator for tensors on the CPU), `transfer_layer` and `_move_to_workspace`. Not run are
`EplbState.rearrange`, which times itself by an event, and the thread of `async_worker`, whose loop
over the layers is done here instead.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import timedelta
from types import SimpleNamespace

import torch
import torch.distributed as dist

L, E, K = 5, 12, 5
SPOILT_LAYER, SPOILT_RANK = 3, 1
MAPS = torch.Generator().manual_seed(5)


def maps(ranks):
    """Return two maps, with every expert somewhere: the same on all ranks."""
    both = [
        torch.stack([(torch.randperm(ranks * K, generator=MAPS) % E) for _ in range(L)])
        for _ in range(2)
    ]
    both[1][2] = both[0][2]  # a layer that stays
    return both


def weights_of(old, rank):
    """Return each layer's tensors [K, ...] of this rank: bytes that depend on layer and expert."""
    layers = []
    for layer in range(L):
        rows: list[list[torch.Tensor]] = []
        for expert in old[layer, rank * K : (rank + 1) * K].tolist():
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

    def __init__(self, communicator, rank):
        self.communicator, self.rank = communicator, rank
        self.spoil, self.layer, self.received = False, -1, []

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
        if self.spoil and self.layer == SPOILT_LAYER and self.rank == SPOILT_RANK:
            self.received[0][1].view(torch.uint8)[17] ^= 4


def at_once(state, old, new, weights, buffer, communicator):
    """Move all layers as the synchronous `rearrange` does."""
    state.rearrange_expert_weights_inplace(
        old, new, weights, buffer, dist.group.WORLD, communicator, False, None
    )


def by_layer(state, old, new, weights, buffer, communicator):
    """Move a layer at a time as `async_worker` and `EplbState.step` do by turns."""
    from vllm.distributed.eplb.rebalance_execute import AsyncEplbLayerResult, transfer_layer

    slots = torch.full((L, E, 1024), -1)
    model_state = SimpleNamespace(
        model=SimpleNamespace(expert_weights=weights, num_moe_layers=L), expert_buffer=buffer,
        physical_to_logical_map=old.clone(), logical_to_physical_map=slots,
        logical_replica_count=torch.zeros(L, E, dtype=torch.long), rebalanced=True,
    )  # fmt: skip
    for layer in range(L):
        moved = transfer_layer(
            old[layer], new[layer], weights[layer], buffer, dist.group.WORLD, communicator,
            layer_idx=layer,
        )  # fmt: skip
        consumed = SimpleNamespace(record=lambda: None)  # in place of a `CpuGpuEvent`
        model_state.pending_result = AsyncEplbLayerResult(layer, new[layer], moved, consumed)
        state._move_to_workspace(model_state, dist.get_rank())
    assert torch.equal(model_state.physical_to_logical_map, new)
    assert not model_state.rebalanced


def main() -> None:
    """Join the group, let vLLM load its plug-ins in a process where nothing is, and move."""
    rank, ranks, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ.update(EVENLOAD_VLLM="1", EVENLOAD_VERIFY="all")
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    from vllm.distributed import parallel_state
    from vllm.distributed.eplb import eplb_state
    from vllm.distributed.eplb.eplb_communicator import TorchDistNcclEplbCommunicator

    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks,
        timeout=timedelta(seconds=300),
    )  # fmt: skip
    parallel_state._EP = SimpleNamespace(cpu_group=dist.group.WORLD)
    eplb_state.PIN_MEMORY = False  # what vLLM finds out itself where it was built for the CPU
    verifier = eplb_state._move_to_workspace.verifier
    communicator = Spoiling(TorchDistNcclEplbCommunicator(dist.group.WORLD), rank)
    log = logging.getLogger("vllm.evenload")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stdout))
    for move in (at_once, by_layer):
        for communicator.spoil in (False, True):
            old, new = maps(ranks)
            weights, told = weights_of(old, rank), []
            verifier.on_mismatch = told.append
            buffer = [torch.empty_like(tensor) for tensor in weights[0]]
            move(eplb_state, old, new, weights, buffer, communicator)
            verifier._thread.join(60)
            alike = all(
                torch.equal(a.view(torch.uint8), b.view(torch.uint8))
                for layers in zip(weights, weights_of(new, rank), strict=True)
                for a, b in zip(*layers, strict=True)
            )
            sys.stdout.write(f"\nSAID {alike} {told}\n")
            sys.stdout.flush()
    dist.barrier()


if __name__ == "__main__":
    main()
