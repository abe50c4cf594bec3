"""vllm-ascend's files: loads as one tensor that torch saved, and placements.

Placements are its ``expert_map_path``, and what ``expert_map_record_path`` writes: JSON with the
experts of each device of each layer. The number of nodes is not in it. ``layer_id`` counts the MoE
layers from 0. vllm-ascend refuses the same expert twice on a device, and needs as many slots on
each; devices of a file that is read may differ in slots, alike in every layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import PlacementFile, PlacementShape, checking, trace_of
from evenload.io.doubts import PlacementFoundError
from evenload.io.json import MOST_TEXT, keys_found, parse_json, to_array
from evenload.io.keyed import find
from evenload.io.placements import for_engine, placement_file
from evenload.io.torch_file import Tensor, load_torch, stored
from evenload.trace import Trace


def read_load(
    path: Path, num_experts: int | None, *, layout: str | None = None, key: str | None = None
) -> Trace:
    """Read a load [L, E] or a trace [T, L, E], or one of the tensors of a dict, or one a layer.

    Windows of one tensor are read as they are asked for.
    """
    tree = load_torch(path)
    if not isinstance(tree, dict) and key is None:
        array = stored(tree, "the tensor", path, whole=False)
        if layout != "loads" and len(array.shape) == 3 and array.read(0).min() == -1:
            raise PlacementFoundError(
                f"{path}: the numbers are -1 or a place, as in a map [layers, ranks, experts]: "
                "this is a placement (evenload evaluate LOADS MAP, evenload convert MAP "
                "placement.json)"
            )
        return array.unnamed_trace(layout, num_experts)

    def read(tensor: Any, name: str = "a layer's tensor") -> NDArray[Any]:
        return stored(tensor, name, path, whole=False).whole()

    found = find(tree, path, key, num_experts, read)
    if isinstance(found, Trace):
        return found
    if isinstance(found.value, Tensor):
        return stored(found.value, found.name, path, whole=False).trace()
    return trace_of(to_array(found.value, found.name), str(path), found.notes, found.layers)


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    value, layers = parse_json(path, MOST_TEXT), list[list[NDArray[Any]]]()
    for layer in _numbered(value, "layer_list", "layer_id", "moe_layer_count"):
        with checking(f"{path}, layer {len(layers)}"):
            devices = _numbered(layer, "device_list", "device_id", "device_count")
            layers.append([_slots(device) for device in devices])
    slots = [len(row) for row in layers[0]]
    for number, rows in enumerate(layers):
        other = [len(row) for row in rows]
        if len(other) != len(slots):
            raise ValueError(
                f"layer {number} has {len(other)} devices, and layer 0 {len(slots)}; use as many "
                "in each layer"
            )
        for device, (here, first) in enumerate(zip(other, slots, strict=True)):
            if here != first:
                raise ValueError(
                    f"layer {number} has {here} slots on device {device}, and layer 0 {first}; use "
                    "as many in each layer"
                )
    array = np.stack([np.concatenate(rows) for rows in layers])
    return placement_file(array, path, shape, {"num_gpus": len(slots), "slots": slots})


def _slots(device: Any) -> NDArray[Any]:
    """Return the experts in the slots of a device."""
    experts = to_array(_listed(device, "device_expert"), "device_expert")
    if experts.ndim != 1:
        raise ValueError("device_expert is nested; use the experts of its slots")
    return experts


def _listed(value: Any, key: str) -> list[Any]:
    """Return the list under a key of a JSON object."""
    if not isinstance(value, dict) or not isinstance(value.get(key), list) or not value[key]:
        raise ValueError(f"no list {key!r}; found: {keys_found(value)}")
    return list(value[key])


def _numbered(value: Any, key: str, number: str, count: str) -> list[Any]:
    """Return the objects of a list by their `number`: 0, 1, ... once each, `count` of them."""
    items = _listed(value, key)
    numbers = [item.get(number) if isinstance(item, dict) else None for item in items]
    if sorted(n for n in numbers if type(n) is int) != list(range(len(items))):
        shown = str(numbers[:8])[:-1] + (", ...]" if len(numbers) > 8 else "]")
        raise ValueError(f"{number} is {shown[:200]}; use each of 0 to {len(items) - 1} once")
    said = value.get(count, len(items))
    if said != len(items):
        raise ValueError(f"{count} is {str(said)[:40]}, and there are {len(items)}")
    return sorted(items, key=lambda item: int(item[number]))


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer."""
    lost = for_engine(file, "vllm-ascend", "num_gpus")
    placement, cluster = file.placement, file.placement.cluster
    twice = np.flatnonzero(placement.duplicates)
    if twice.size:
        raise ValueError(
            "vllm-ascend refuses an expert twice on one device, and this placement has "
            f"{int(placement.duplicates.sum())} such slots, the first in layer {int(twice[0])}; "
            "plan with fewer slots, or with another solver"
        )
    rows = placement.physical_to_logical.reshape(placement.num_layers, cluster.num_gpus, -1)
    lines = []
    for i, row in enumerate(rows.tolist()):
        devices = [{"device_id": g, "device_expert": experts} for g, experts in enumerate(row)]
        layer = {"layer_id": i, "device_count": cluster.num_gpus, "device_list": devices}
        lines.append(json.dumps(layer))
    text = ",\n".join(lines)
    stream.write(f'{{"moe_layer_count": {len(rows)}, "layer_list": [\n{text}\n]}}\n'.encode())
    return lost
