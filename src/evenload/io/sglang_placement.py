"""SGLang's placements: what its ``--init-expert-location`` takes.

A .json or .pt file with the one key ``physical_to_logical_map`` [model layers, slots]; a second key
is an error there. Read also from the dumps of its recorder (``last_physical_to_logical_map``).

**Layers.** SGLang has a row for every layer of the model, dense ones too, and never looks at those
of dense layers; they are written as SGLang's own start, slot s with expert ``s % E``. Reading, a
dense layer looks like any other: the rows are layers 0 to L-1 of the model, and a caller who knows
the MoE layers says them (``layers=``) to get back what was written. Where only their numbers are
known the model is taken to end with the last of them; where not even these are, rows become layers
0 to L-1. Both are said in a note.

**Not in the file**: the number of GPUs and nodes, which the reader has to be told (nodes are 1
where not said); the GPUs' speed, solver and digest, which are left out with a note. Placements with
GPUs that are gone or have different numbers of slots are refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io.base import FileFormatError, PlacementFile, PlacementShape
from evenload.io.placements import (
    build_placement,
    check_experts,
    check_slots,
    equal_gpus,
    left_out,
    need_whole_gpus,
)
from evenload.io.text import check_text, json_has, keys_found, lines_of, parse_json, to_array
from evenload.io.torch_file import load_torch, pickle_has, stored
from evenload.layers import ModelLayers

_KEY = "physical_to_logical_map"
_RECORDED = "last_physical_to_logical_map"


def recognises(path: Path) -> bool:
    """Whether a .json or .pt file has a map of experts."""
    return pickle_has(path, _KEY) if path.suffix.lower() == ".pt" else json_has(path, _KEY)


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement: one layer for each layer of the model, dense ones included."""
    where = str(path)
    array = _map_in(path)
    check_experts(array, where)
    L, S = array.shape
    cluster = equal_gpus(S, shape, where)
    placement, notes = build_placement(array, cluster, shape.num_experts, where)
    return PlacementFile(placement, where, layers=ModelLayers(range(L), L), notes=notes)


def _map_in(path: Path) -> NDArray[Any]:
    pickled = path.suffix.lower() == ".pt"
    if not pickled:
        check_text(path)
    value = load_torch(path) if pickled else parse_json(path)
    key = next((k for k in (_KEY, _RECORDED) if isinstance(value, dict) and k in value), None)
    if key is None:
        raise FileFormatError(f"{path}: no key {_KEY!r}; keys found: {keys_found(value)}")
    if not pickled:
        return to_array(value[key], key, str(path))
    # Tensors alone: a list in a pickle may name one list many times over.
    tensor = stored(value[key], key, path)
    check_slots(1, math.prod(tensor.shape), str(path))
    return tensor.whole()


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement as .json or .pt, which SGLang reads, by the ending of ``file.source``."""
    need_whole_gpus(file, "SGLang")
    rows, notes = _rows_for(file)
    suffix = Path(file.source).suffix.lower()
    if suffix == ".pt":
        torch = needed("torch", "torch", "torch", "a .pt file", instead="a .json file")
        torch.save({_KEY: torch.from_numpy(rows)}, stream)
    elif suffix == ".json":
        stream.write(f'{{"{_KEY}": [\n{lines_of(rows)}\n]}}\n'.encode())
    else:
        raise FileFormatError(
            f"{file.source}: SGLang reads a placement from .json and .pt files; use one of these"
        )
    return (*notes, *left_out(file, "SGLang", "layer numbers", "number of layers"))


def _rows_for(file: PlacementFile) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return a row for each layer of the model: [model layers, S]."""
    placement, layers = file.placement, file.layers
    rows = np.array(placement.physical_to_logical, np.int64)
    L, S = rows.shape
    if layers is None:
        return rows, (
            f"which of the model's layers these are is not known: written as layers 0 to {L - 1}",
        )
    number = layers.num_model_layers or layers.ids[-1] + 1
    check_slots(number, S, "this placement")
    every = np.tile(np.arange(S) % placement.num_experts, (number, 1))
    every[list(layers.ids)] = rows
    if layers.num_model_layers is not None:
        return every, ()
    return every, (
        f"the model's number of layers is not known: written as {number}, up to the last with "
        "experts",
    )
