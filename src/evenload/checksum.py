"""Checksums of experts' weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
