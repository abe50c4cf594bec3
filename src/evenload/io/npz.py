"""NumPy .npz archives: ``load``, or ``topk`` with the experts that each token was routed to.

``layer_ids`` [L] and ``num_model_layers`` say which of the model's layers the rows are.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.checks import positive_int
from evenload.io.arrays import (
    keys_of,
    member_trace,
    open_archive,
    read_member,
    write_member,
    write_windows,
)
from evenload.io.base import FileFormatError, RawTrace, model_layers
from evenload.io.recorded import check_routed, count_topk
from evenload.layers import ModelLayers

_MOST_IDS = 2**20  # bytes of an array that names layers


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read ``load`` [T, L, E] or [L, E]; where there is none, count ``topk`` [tokens, L, k].

    A stored array is read from its place in the file and a compressed one unpacked, window by
    window; only one that lies column by column and compressed is read at once.
    """
    with open_archive(path) as archive:
        keys = keys_of(archive)
        layers = _layers(archive, keys, path)
        if "load" in keys:
            return member_trace(archive, "load", path, layers)
        if "topk" in keys:
            experts = num_experts or _num_experts(archive, keys, path)
            counted, notes = count_topk(read_member(archive, "topk", path), experts, str(path))
            return RawTrace.of(counted, str(path), notes, layers)
    raise FileFormatError(
        f"{path}: no key 'load' or 'topk' in the archive; keys found: {', '.join(keys) or 'none'}"
    )


def _num_experts(archive: zipfile.ZipFile, keys: list[str], path: Path) -> int | None:
    if "num_experts" not in keys:
        return None
    array = read_member(archive, "num_experts", path)
    if array.size != 1:
        raise FileFormatError(f"{path}: num_experts has shape {array.shape}; use one number")
    return positive_int(f"{path}: num_experts", array.reshape(-1)[0].item())


def _layers(archive: zipfile.ZipFile, keys: list[str], path: Path) -> ModelLayers | None:
    if "layer_ids" not in keys:
        return None
    ids = read_member(archive, "layer_ids", path, _MOST_IDS).ravel().tolist()
    number = None
    if "num_model_layers" in keys:
        number = read_member(archive, "num_model_layers", path, _MOST_IDS).ravel().tolist()
    return model_layers(ids, number[0] if number else None, str(path))


def read_topk(path: Path) -> NDArray[Any] | None:
    """Read ``topk`` [tokens, L, k], or return None where the archive has none."""
    with open_archive(path) as archive:
        if "topk" not in keys_of(archive):
            return None
        topk = read_member(archive, "topk", path)
    check_routed(topk, str(path))
    return topk


def write_load(stream: BinaryIO, trace: RawTrace) -> tuple[str, ...]:
    """Write a trace as ``load`` [T, L, E], and the model's layers where they are known."""
    with zipfile.ZipFile(stream, "w", allowZip64=True) as archive:
        with archive.open("load.npy", "w", force_zip64=True) as member:
            write_windows(member, trace)
        if trace.layers is not None:
            write_member(archive, "layer_ids", np.array(trace.layers.ids, np.int64))
            if trace.layers.num_model_layers is not None:
                number = np.array(trace.layers.num_model_layers, np.int64)
                write_member(archive, "num_model_layers", number)
    return ()
