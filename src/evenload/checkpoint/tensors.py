"""Files of tensors, .safetensors.

Eight bytes say how long the header is, which is JSON; the tensors' bytes follow. Only headers are
parsed here.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.checks import printable
from evenload.io.base import FileFormatError
from evenload.io.files import kind_of
from evenload.io.json import once

ENDING = ".safetensors"
_LENGTH = struct.Struct("<Q")
_LONGEST = 100_000_000  # bytes of a header, as the safetensors library has it
_METADATA = "__metadata__"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip


class Tensor(NamedTuple):
    """A tensor as the header tells of it; its bytes start at `begin` behind the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Shard:
    """A file of tensors, in the order of its header."""

    path: Path
    header: dict[str, Any]
    tensors: dict[str, Tensor]
    start: int  #: of the tensors' bytes in the file

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return max((tensor.end for tensor in self.tensors.values()), default=0)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor."""
        tensor = self.tensors[name]
        with self.path.open("rb") as stream:
            stream.seek(self.start + tensor.begin)
            return np.frombuffer(stream.read(tensor.end - tensor.begin), np.uint8)


def read_shard(path: Path) -> Shard:
    """Read the header of a file, and check that the file is whole."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else size
        if length > min(size - _LENGTH.size, _LONGEST):
            raise FileFormatError(
                f"{path}: this is not a .safetensors file, or it is cut off in its header "
                f"({kind_of(path)}); fetch it again"
            )
        text = stream.read(length)
    try:
        pairs = partial(once, str(path))
        header = json.loads(text.decode(), object_pairs_hook=pairs)
        tensors = {name: _tensor(v) for name, v in header.items() if name != _METADATA}
    except FileFormatError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileFormatError(
            f"{path}: its header is none of a .safetensors file ({str(error)[:80]}); fetch it again"
        ) from None
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        bits = math.prod(tensor.shape) * _BITS.get(tensor.dtype, 0)
        if tensor.begin != end or (tensor.dtype in _BITS and bits != 8 * (tensor.end - end)):
            raise FileFormatError(f"{path}: {printable(name)} is not where its header says")
        end = tensor.end
    shard = Shard(path, header, tensors, _LENGTH.size + length)
    if size != shard.start + end:
        raise FileFormatError(
            f"{path}: it has {size} bytes, and its header tells of {shard.start + end}: it was cut "
            "off, or changed; fetch it again"
        )
    return shard


def _tensor(value: Mapping[str, Any]) -> Tensor:
    (begin, end), shape, dtype = value["data_offsets"], value["shape"], value["dtype"]
    numbers = [begin, end, *shape]
    if not (isinstance(dtype, str) and all(type(n) is int and n >= 0 for n in numbers)):
        raise ValueError(f"{value} is not a tensor")
    if end < begin:
        raise ValueError(f"{value} ends before it begins")
    return Tensor(dtype, tuple(shape), begin, end)


def header_bytes(shard: Shard, names: Mapping[str, str]) -> bytes:
    """Return the start of a file with the same tensors in the same places under new names."""
    header = {names.get(name, name): entry for name, entry in shard.header.items()}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH.size)
    return _LENGTH.pack(len(text)) + text
