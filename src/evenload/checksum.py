"""Checksums of experts' weights: of many rows on their device, and of one on its way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

WORD = 4  # bytes
CHUNK = 1 << 22  # numbers of 8 bytes that are on the device at a time
SCRATCH = 4  # rows that the weights of the words and their powers take


def checksums(tensors: Sequence[Any]) -> Any:
    """Return a number for each row, over its bytes in all torch tensors: int64 [K] on their device.

    The words of a row, each tensor padded to whole ones with zeros, are weighted by the third
    powers of the odd numbers and summed modulo 2^64. In up to 2^31 words another value of one, or
    two that change places, always show.
    """
    import torch

    rows, place = len(tensors[0]), 0
    total = torch.zeros(rows, dtype=torch.int64, device=tensors[0].device)
    for tensor in tensors:
        if not tensor.numel():
            continue
        row_bytes = tensor.detach().reshape(rows, -1).contiguous().view(torch.uint8)
        aligned = not (row_bytes.shape[1] % WORD or row_bytes.storage_offset() % WORD)
        for part in row_bytes.split(WORD * max(1, CHUNK // (rows + SCRATCH)), dim=1):
            gap = (0, -part.shape[1] % WORD)
            whole = part if aligned else torch.nn.functional.pad(part, gap)
            words = whole.view(torch.int32)
            odd = 2 * torch.arange(place, place + words.shape[1], device=total.device) + 1
            total += (words * (odd * odd * odd)).sum(dim=1)
            place += words.shape[1]
    return total


def of_row(parts: Sequence[Any]) -> Any:
    """Return the checksum of one row, whose bytes are in flat torch tensors, as 8 bytes of one.

    On a CPU it is a CRC-32, which took a twentieth of the time of `checksums` there; elsewhere that
    is what it is. Both find every change of a single word, so of a single bit.
    """
    import torch

    if parts[0].device.type != "cpu":
        return checksums([part[None] for part in parts]).view(torch.uint8)
    value = 0
    for part in parts:
        value = crc32(part.numpy(), value)
    return torch.tensor([value]).view(torch.uint8)
