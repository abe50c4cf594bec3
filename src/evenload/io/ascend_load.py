"""vllm-ascend's loads: one tensor saved by torch, and nothing around it."""

from __future__ import annotations

from pathlib import Path

from evenload.io.base import RawTrace
from evenload.io.torch_file import is_bare_tensor, load_torch, stored


def recognises(path: Path) -> bool:
    """Whether a .pt or .pth file holds a tensor, not a dict as SGLang's do."""
    return is_bare_tensor(path)


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load [L, E] or a trace [T, L, E]; windows are read as they are asked for."""
    return stored(load_torch(path), "the tensor", path, whole=False).trace()
