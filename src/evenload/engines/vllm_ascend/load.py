"""vllm-ascend's loads: one tensor saved by torch, and nothing around it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evenload.engines.common.tensors import mapped_array
from evenload.engines.common.torch_archive import is_bare_tensor, load_torch
from evenload.formats.base import Format, RawTrace
from evenload.formats.windows import trace_shape
from evenload.trace import ArrayWindows

_SUFFIXES = (".pt", ".pth")


def recognises(path: Path) -> bool:
    """Whether a .pt file holds a tensor, not a dict as SGLang's do."""
    return path.suffix.lower() in _SUFFIXES and path.is_file() and is_bare_tensor(path)


def read_trace(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load [L, E] or a trace [T, L, E]; windows stay in the file until they are asked for.

    Raises
    ------
    FileFormatError
        If the file is damaged, or holds no dense tensor of that many dimensions.
    """
    array = mapped_array(load_torch(path), "the tensor", str(path), whole=False)
    shape = trace_shape(array.shape, str(path))
    return RawTrace(ArrayWindows(np.asarray(array).reshape(shape)))


FORMAT = Format(
    name="vllm-ascend-load",
    suffixes=(".pth",),
    summary="a tensor that torch saved: a load [layers, experts] or a trace [windows, layers, "
    "experts]",
    recognises=recognises,
    read_trace=read_trace,
)
