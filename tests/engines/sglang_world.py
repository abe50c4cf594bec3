"""A running SGLang as far as expert location goes: configuration and one gloo group, on a CPU."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from types import SimpleNamespace

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")

import torch

LAYERS, EXPERTS, RANKS, SLOTS = 5, 16, 4, 24
MODEL = SimpleNamespace(hf_config=None)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def join(rank: int = 0, world: int = 1, port: int | None = None) -> None:
    """Make the group that SGLang adds loads up over."""
    if not torch.distributed.is_initialized():
        address = f"tcp://127.0.0.1:{port or free_port()}"
        torch.distributed.init_process_group("gloo", address, rank=rank, world_size=world)


def leave() -> None:
    """End this process once all ranks are done.

    Without Python's own teardown: gloo's threads run until then, and abort the process at times.
    """
    torch.distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def configured(groups: int | None = 4, layers: int = LAYERS, experts: int = EXPERTS, **fields):
    """Publish SGLang's configuration; only what its model says of itself is put in its place."""
    from sglang.srt.eplb import expert_location
    from sglang.srt.runtime_context import get_context, get_resources

    said = {
        "device": "cpu",
        "tp_size": RANKS,
        "ep_size": RANKS,
        "nnodes": 2,
        "enable_eplb": True,
        "ep_num_redundant_experts": SLOTS - EXPERTS,
        **fields,
    }
    config = expert_location.ModelConfigForExpertLocation
    found = config.__dict__["from_model_config"]
    config.from_model_config = staticmethod(lambda _: config(layers, experts, groups))
    resources = get_resources()
    before = resources.expert_location_metadata
    resources.expert_location_metadata = None
    try:
        with get_context().override_server_args(**said):
            yield
    finally:
        resources.expert_location_metadata = before
        config.from_model_config = found


def loads(steps: int = 20, seed: int = 0) -> torch.Tensor:
    """Return counts as the recorder has them: layer 0 is dense, and rows are left unused."""
    generator = torch.Generator().manual_seed(seed)
    popular = torch.rand(1, LAYERS, EXPERTS, generator=generator) ** 4 * 400
    tokens = torch.poisson(popular.expand(steps, -1, -1), generator=generator).int()
    tokens[:, 0] = 0
    tokens[-3:] = 0
    return tokens
