"""vllm-ascend's loads: one tensor saved by torch, and nothing around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.engines.archives.mapped_file import MappedFile
from evenload.engines.archives.tensors import Stored, stored
from evenload.engines.archives.torch_archive import is_bare_tensor, load_torch
from evenload.formats.base import Format, RawTrace
from evenload.formats.windows import trace_shape

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
    value = load_torch(path)
    tensor = stored(value, "the tensor", MappedFile(path), whole=False)
    return RawTrace(_Windows(tensor.split(*trace_shape(tensor.shape, str(path)))))


@dataclass(frozen=True, eq=False)
class _Windows:
    loads: Stored

    @property
    def shape(self) -> tuple[int, int, int]:
        T, L, E = self.loads.shape
        return T, L, E

    def read(self, number: int) -> NDArray[Any]:
        return self.loads.row(number)


FORMAT = Format(
    name="vllm-ascend-load",
    suffixes=(".pth",),
    summary="a tensor that torch saved: a load [layers, experts] or a trace [windows, layers, "
    "experts]",
    recognises=recognises,
    read_trace=read_trace,
)
