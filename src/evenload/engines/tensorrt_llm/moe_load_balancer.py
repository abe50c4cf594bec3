"""TensorRT-LLM's placements: the YAML of its ``load_balancer`` option.

``num_slots``, ``initial_global_assignments`` with the experts of the slots of each MoE layer under
the layer's number in the model, and ``layer_updates_per_iter: 0``: the placement stays as it is.

**Layers**: where the model's numbers are not known rows become layers 0 to L-1, with a note.
**Not in the file**: the number of GPUs and nodes, which the reader has to be told (nodes are 1
where not said); the GPUs' speed, solver, digest and the model's number of layers, which are left
out with a note. Placements with GPUs that are gone or have different numbers of slots are refused.
The same expert twice on a GPU is allowed there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.engines.tensorrt_llm.plain_yaml import parse_yaml
from evenload.formats.base import FileFormatError, Format, PlacementFile, PlacementShape
from evenload.formats.left_out import left_out, need_whole_gpus
from evenload.formats.placed import build_placement, check_experts, equal_gpus
from evenload.formats.sizes import model_layers

_ROWS = "initial_global_assignments"
_KNOWN = {"num_slots", "layer_updates_per_iter", _ROWS}


def _rows_in(value: Any, where: str) -> dict[int, list[int]]:
    rows = value.get(_ROWS) if isinstance(value, dict) else None
    if not isinstance(rows, dict) or not rows:
        found = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise FileFormatError(
            f"{where}: no {_ROWS} with a list of experts for each layer; found: "
            f"{found[:200] or 'nothing'}"
        )
    for layer, row in rows.items():
        if not isinstance(layer, int):
            raise FileFormatError(f"{where}: {_ROWS} has the key {layer!r}; use a layer's number")
        _check_row(row, f"{where}: layer {layer}")
    return rows


def _check_row(row: Any, where: str) -> None:
    if not isinstance(row, list) or not row:
        raise FileFormatError(f"{where} is {str(row)[:40]!r}; use the experts of its slots")
    for expert in row:
        if not isinstance(expert, int):
            raise FileFormatError(f"{where} has {str(expert)[:40]!r}; use the number of an expert")


def _table(rows: dict[int, list[int]], num_slots: Any, where: str) -> NDArray[np.int64]:
    first = next(iter(rows))
    wanted = len(rows[first]) if num_slots is None else num_slots
    for layer, row in rows.items():
        if len(row) != wanted:
            said = f"layer {first} has {wanted}" if num_slots is None else f"num_slots={wanted}"
            raise FileFormatError(
                f"{where}: layer {layer} has {len(row)} slots, and {said}; use as many in each"
            )
    return np.array([rows[layer] for layer in sorted(rows)], np.int64)


def read(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement, its layers in the order of their numbers.

    Raises
    ------
    ClusterMissingError
        If the number of GPUs was not said.
    FileFormatError
        If the file is no such YAML, or holds no placement for that many GPUs.
    """
    where = str(path)
    value = parse_yaml(path)
    rows = _rows_in(value, where)
    layers = model_layers(sorted(rows), None, where)
    array = _table(rows, value.get("num_slots"), where)
    check_experts(array, where)
    cluster = equal_gpus(array.shape[1], shape.num_gpus, shape.num_nodes, where)
    placement, notes = build_placement(array, cluster, shape.num_experts, where)
    other = [str(key) for key in value if key not in _KNOWN]
    if other:
        notes += (f"{where}: not read: {', '.join(other)[:200]}",)
    return PlacementFile(placement, where, layers=layers, notes=notes)


def write(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer.

    Raises
    ------
    ValueError
        If GPUs are gone or differ in slots.
    """
    need_whole_gpus(file, "TensorRT-LLM")
    placement = file.placement
    L = placement.num_layers
    ids = tuple(range(L)) if file.layers is None else file.layers.ids
    lines = [f"num_slots: {placement.num_slots}", "layer_updates_per_iter: 0", f"{_ROWS}:"]
    rows = np.array(placement.physical_to_logical).tolist()
    lines += [f"  {layer}: {row}" for layer, row in zip(ids, rows, strict=True)]
    stream.write(("\n".join(lines) + "\n").encode())
    lost = left_out(file, "TensorRT-LLM", "layer numbers")
    if file.layers is not None:
        return lost
    return (
        f"which of the model's layers these are is not known: written as layers 0 to {L - 1}",
        *lost,
    )


FORMAT = Format(
    name="tensorrt-llm",
    suffixes=(".yaml", ".yml"),
    summary="TensorRT-LLM's load balancer YAML: `initial_global_assignments`, the experts of the "
    "slots of each MoE layer",
    read_placement=read,
    write_placement=write,
    written_to=(".yaml", ".yml"),
)
