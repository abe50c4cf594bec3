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

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.engines.archives.torch_archive import load_torch, pickle_has
from evenload.extras import needed
from evenload.formats.base import FileFormatError, Format, PlacementFile, PlacementShape
from evenload.formats.json_text import lines_of, to_array
from evenload.formats.left_out import left_out, need_whole_gpus
from evenload.formats.peek import json_has
from evenload.formats.placed import build_placement, check_experts, equal_gpus
from evenload.formats.sizes import MOST_SLOTS, check_slots, parse_placement
from evenload.layers import ModelLayers

_KEY = "physical_to_logical_map"
_RECORDED = "last_physical_to_logical_map"


def recognises(path: Path) -> bool:
    """Whether a .json or .pt file has a map of experts."""
    if path.suffix.lower() == ".pt" and path.is_file():
        return pickle_has(path, _KEY)
    return json_has(path, _KEY)


def _map_in(path: Path) -> NDArray[Any]:
    value = load_torch(path) if path.suffix.lower() == ".pt" else parse_placement(path)
    found = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
    key = next((k for k in (_KEY, _RECORDED) if isinstance(value, dict) and k in value), None)
    if key is None:
        raise FileFormatError(f"{path}: no key {_KEY!r}; keys found: {found[:200] or 'none'}")
    # A list in a pickle may name one list many times over; JSON has as much as it shows.
    read = _of_tensor if path.suffix.lower() == ".pt" else to_array
    return read(value[key], key, str(path))


def _of_tensor(value: Any, key: str, where: str) -> NDArray[Any]:
    if not hasattr(value, "numel"):
        raise FileFormatError(f"{where}: {key} is a {type(value).__name__}; use a tensor")
    if value.layout is not _strided() or value.numel() > MOST_SLOTS:
        raise FileFormatError(
            f"{where}: {key} is a tensor of {value.numel()} elements, {value.layout}; use a dense "
            f"one of at most {MOST_SLOTS}"
        )
    try:
        return np.array(value.numpy())
    except (TypeError, RuntimeError) as error:
        raise FileFormatError(f"{where}: {key} is no table of numbers ({error})") from None


def _strided() -> Any:
    import torch

    return torch.strided


def read(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement: one layer for each layer of the model, dense ones included.

    Raises
    ------
    ClusterMissingError
        If the number of GPUs was not said.
    FileFormatError
        If the file is none of SGLang's, or holds no placement for that many GPUs.
    """
    where = str(path)
    array = _map_in(path)
    check_experts(array, where)
    L, S = array.shape
    cluster = equal_gpus(S, shape.num_gpus, shape.num_nodes, where)
    placement, notes = build_placement(array, cluster, shape.num_experts, where)
    return PlacementFile(placement, where, layers=ModelLayers(range(L), L), notes=notes)


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


def write(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement as .json or .pt, by the ending of ``file.source``.

    Raises
    ------
    FileFormatError
        For another ending: SGLang reads no other.
    ValueError
        If GPUs are gone or differ in slots.
    """
    need_whole_gpus(file, "SGLang")
    rows, notes = _rows_for(file)
    suffix = Path(file.source).suffix.lower()
    if suffix not in (".json", ".pt"):
        raise FileFormatError(
            f"{file.source}: SGLang reads a placement from .json and .pt files; use one of these"
        )
    if suffix == ".pt":
        _write_tensor(stream, rows)
    else:
        stream.write(f'{{"{_KEY}": [\n{lines_of(rows)}\n]}}\n'.encode())
    return (*notes, *left_out(file, "SGLang", "layer numbers", "number of layers"))


def _write_tensor(stream: BinaryIO, rows: NDArray[np.int64]) -> None:
    torch = needed("torch", "torch", "torch", "a .pt file", instead="a .json file")
    torch.save({_KEY: torch.from_numpy(rows)}, stream)


FORMAT = Format(
    name="sglang",
    suffixes=(".pt", ".json"),
    summary="SGLang's --init-expert-location: `physical_to_logical_map`, a row for each layer of "
    "the model",
    recognises=recognises,
    read_placement=read,
    write_placement=write,
    written_to=(".pt",),
)
