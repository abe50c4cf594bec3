"""vllm-ascend's placements: its ``expert_map_path``, and what ``expert_map_record_path`` writes.

JSON with the experts of each device of each layer. The number of GPUs is in it, the number of nodes
is not (1 where not said). ``layer_id`` counts the MoE layers from 0: the model's own numbers are
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
from evenload.engines.vllm_ascend.device_lists import read_devices
from evenload.formats.base import FileFormatError, Format, PlacementFile, PlacementShape
from evenload.formats.left_out import left_out, need_whole_gpus
from evenload.formats.peek import json_has
from evenload.formats.placed import build_placement, check_experts, settle
from evenload.formats.sizes import parse_placement
from evenload.placement import Placement


def read(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement.

    Raises
    ------
    FileFormatError
        If the file is none of vllm-ascend's, its layers differ in devices or slots, or it holds no
        placement or another than the caller says.
    """
    where = str(path)
    array, slots = read_devices(parse_placement(path), where)
    check_experts(array, where)
    gpus = settle("num_gpus", len(slots), shape, where)
    assert gpus is not None
    try:
        cluster = Cluster(gpus, shape.num_nodes or 1, slots=slots)
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}") from None
    placement, notes = build_placement(array, cluster, shape.num_experts, where)
    return PlacementFile(placement, where, notes=notes)


def _check_duplicates(placement: Placement) -> None:
    layers = np.flatnonzero(placement.duplicates)
    if layers.size:
        count = int(placement.duplicates.sum())
        raise ValueError(
            f"vllm-ascend refuses an expert twice on one device, and this placement has {count} "
            f"such slots, the first in layer {int(layers[0])}; plan with fewer slots, or with "
            "another solver"
        )


def _device_lists(row: NDArray[np.int64], slots: int) -> list[dict[str, Any]]:
    return [
        {"device_id": g, "device_expert": experts.tolist()}
        for g, experts in enumerate(row.reshape(-1, slots))
    ]


def write(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer.

    Raises
    ------
    ValueError
        If a device has an expert twice, or GPUs are gone or differ in slots.
    """
    need_whole_gpus(file, "vllm-ascend")
    placement, cluster = file.placement, file.placement.cluster
    _check_duplicates(placement)
    rows = np.array(placement.physical_to_logical)
    layers = [
        {
            "layer_id": i,
            "device_count": cluster.num_gpus,
            "device_list": _device_lists(row, cluster.slots_per_gpu),
        }
        for i, row in enumerate(rows)
    ]
    lines = ",\n".join(json.dumps(layer) for layer in layers)
    stream.write(f'{{"moe_layer_count": {len(layers)}, "layer_list": [\n{lines}\n]}}\n'.encode())
    return left_out(file, "vllm-ascend", "num_gpus")


FORMAT = Format(
    name="vllm-ascend",
    suffixes=(".json",),
    summary="vllm-ascend's expert map: the experts of each device of each MoE layer",
    recognises=lambda path: json_has(path, "moe_layer_count", "layer_list"),
    read_placement=read,
    write_placement=write,
)
