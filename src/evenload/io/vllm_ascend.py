"""vllm-ascend's files: loads as one tensor that torch saved, and placements.

Placements are its ``expert_map_path``, and what ``expert_map_record_path`` writes: JSON with the
experts of each device of each layer. The number of GPUs is in it, the number of nodes is not (1
where not said). ``layer_id`` counts the MoE layers from 0: the model's own numbers are
left out with a note, as are speed, solver and digest.

vllm-ascend refuses the same expert twice on a device, and needs as many slots on each; placements
with either, or with GPUs that are gone, are not written. Read is all that a cluster can have:
devices may differ in slots, alike in every layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.cluster import Cluster
from evenload.io.base import FileFormatError, PlacementFile, PlacementShape, RawTrace, checking
from evenload.io.json import MOST_TEXT, keys_found, parse_json
from evenload.io.placements import check_experts, left_out, need_whole_gpus, placement_file, settle
from evenload.io.torch_file import load_torch, stored


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load [L, E] or a trace [T, L, E]; windows are read as they are asked for."""
    return stored(load_torch(path), "the tensor", path, whole=False).trace()


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    where = str(path)
    array, slots = _read_devices(parse_json(path, MOST_TEXT), where)
    check_experts(array, where)
    settle("num_gpus", len(slots), shape, where)
    with checking(where):
        cluster = Cluster(len(slots), shape.num_nodes or 1, slots=slots)
    return placement_file(array, cluster, shape.num_experts, where)


def _read_devices(value: Any, where: str) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Return the expert of each slot, int64 [L, S], and the slots of each device."""
    layers = _numbered(value, "layer_list", "layer_id", "moe_layer_count", where)
    read = [_layer(layer, f"{where}, layer {number}") for number, layer in enumerate(layers)]
    slots = read[0][1]
    for number, (_, other) in enumerate(read):
        if other != slots:
            g = next((g for g, (a, b) in enumerate(zip(slots, other, strict=False)) if a != b), 0)
            what = f"{len(other)} devices, and layer 0 {len(slots)}"
            if len(other) == len(slots):
                what = f"{other[g]} slots on device {g}, and layer 0 {slots[g]}"
            raise FileFormatError(f"{where}: layer {number} has {what}; use as many in each layer")
    return np.array([experts for experts, _ in read], np.int64), slots


def _layer(value: Any, where: str) -> tuple[list[int], tuple[int, ...]]:
    """Return the experts of a layer's slots, and how many slots each device has."""
    devices = _numbered(value, "device_list", "device_id", "device_count", where)
    rows = [_listed(device, "device_expert", where) for device in devices]
    experts = [expert for row in rows for expert in row]
    for expert in experts:
        if type(expert) is not int or not -1 <= expert < 2**31:
            raise FileFormatError(f"{where}: device_expert has {str(expert)[:40]}; use experts")
    return experts, tuple(map(len, rows))


def _listed(value: Any, key: str, where: str) -> list[Any]:
    """Return the list under a key of a JSON object."""
    if not isinstance(value, dict) or not isinstance(value.get(key), list) or not value[key]:
        raise FileFormatError(f"{where}: no list {key!r}; found: {keys_found(value)}")
    return list(value[key])


def _numbered(value: Any, key: str, number: str, count: str, where: str) -> list[Any]:
    """Return the objects of a list by their `number`: 0, 1, ... once each, `count` of them."""
    items = _listed(value, key, where)
    numbers = [item.get(number) if isinstance(item, dict) else None for item in items]
    if sorted(n for n in numbers if type(n) is int) != list(range(len(items))):
        shown = str(numbers[:8])[:-1] + (", ...]" if len(numbers) > 8 else "]")
        raise FileFormatError(
            f"{where}: {number} is {shown[:200]}; use each of 0 to {len(items) - 1} once"
        )
    said = value.get(count, len(items))
    if said != len(items):
        raise FileFormatError(f"{where}: {count} is {str(said)[:40]}, and there are {len(items)}")
    return sorted(items, key=lambda item: int(item[number]))


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer."""
    need_whole_gpus(file, "vllm-ascend")
    placement, cluster = file.placement, file.placement.cluster
    twice = np.flatnonzero(placement.duplicates)
    if twice.size:
        raise ValueError(
            "vllm-ascend refuses an expert twice on one device, and this placement has "
            f"{int(placement.duplicates.sum())} such slots, the first in layer {int(twice[0])}; "
            "plan with fewer slots, or with another solver"
        )
    rows = np.array(placement.physical_to_logical).reshape(
        placement.num_layers, cluster.num_gpus, -1
    )
    lines = []
    for i, row in enumerate(rows.tolist()):
        devices = [{"device_id": g, "device_expert": experts} for g, experts in enumerate(row)]
        layer = {"layer_id": i, "device_count": cluster.num_gpus, "device_list": devices}
        lines.append(json.dumps(layer))
    text = ",\n".join(lines)
    stream.write(f'{{"moe_layer_count": {len(rows)}, "layer_list": [\n{text}\n]}}\n'.encode())
    return left_out(file, "vllm-ascend", "num_gpus")
