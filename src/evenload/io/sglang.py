"""What SGLang's ``--init-expert-location`` takes: loads as JSON, and placements.

**Loads**: ``logical_count``, one table [model layers, experts] or one for each step. Dense layers
have rows of zeros there; they are left out, and the others named by their number in the model.

**Placements**: a .json or .pt file with the one key ``physical_to_logical_map`` [model layers,
slots]; a second key is an error there. Read also from the dumps of its recorder
(``last_physical_to_logical_map``).

**Layers.** SGLang has a row for every layer of the model, dense ones too, and never looks at those
of dense layers; they are written as SGLang's own start, slot s with expert ``s % E``. Reading, a
dense layer looks like any other, and a caller who knows the MoE layers says them (``layers=``) to
get back what was written. Where only their numbers are known the model is taken to end with the
last of them. The numbers of GPUs and nodes are not in the file.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io.base import FileFormatError, PlacementFile, PlacementShape, trace_of, trace_shape
from evenload.io.json import MOST_TEXT, key_in, lines_of, parse_json, to_array
from evenload.io.placements import check_slots, for_engine, map_of, placement_file
from evenload.io.torch_file import load_torch, stored
from evenload.layers import ModelLayers
from evenload.trace import Trace

_COUNT = "logical_count"
_KEY = "physical_to_logical_map"
_RECORDED = "last_physical_to_logical_map"


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read a load or a trace, without layers that never had a token."""
    array = to_array(key_in(parse_json(path), _COUNT)[1], _COUNT)
    if array.ndim < 2:
        raise ValueError(
            f"{_COUNT} has shape {list(array.shape)}; use [layers][experts] or "
            "[steps][layers][experts]"
        )
    _, L, E = trace_shape(array.shape)
    used = np.flatnonzero(array.reshape(-1, L, E).any(axis=(0, 2)))
    if used.size == 0:
        raise ValueError(f"{_COUNT} is all zero; no token was counted")
    note = f"{path}: {L - used.size} of {L} layers have no tokens, as dense layers have; they are "
    notes = (f"{note}left out",) if used.size < L else ()
    layers = ModelLayers(used.tolist(), L)
    return trace_of(array[..., used, :], str(path), notes, layers)


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement: one layer for each layer of the model, dense ones included."""
    tensors = path.suffix.lower() == ".pt"
    value = load_torch(path) if tensors else parse_json(path, MOST_TEXT)
    recorded = isinstance(value, dict) and _KEY not in value and _RECORDED in value
    key, value = key_in(value, _RECORDED if recorded else _KEY)
    if tensors:  # alone: a list in a pickle may name one list many times over
        tensor = stored(value, key, path)
        check_slots(1, math.prod(tensor.shape))
        array = tensor.whole()
    else:
        array = map_of(value, key)
    file = placement_file(array, path, shape)
    L = file.placement.num_layers
    return replace(file, layers=ModelLayers(range(L), L))


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement as .json or .pt, which SGLang reads, by the ending of ``file.source``."""
    lost = for_engine(file, "SGLang", "layer numbers", "number of layers")
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
    return (*notes, *lost)


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
    check_slots(number, S)
    every = np.tile(np.arange(S) % placement.num_experts, (number, 1))
    every[list(layers.ids)] = rows
    note = f"the model's number of layers is not known: written as {number}, up to the last with "
    return every, (f"{note}experts",) if layers.num_model_layers is None else ()
