"""Placements as plain arrays and tables, where a caller says that it is one.

- an array [ranks, layers, experts] of 0 and 1: whether a rank has an expert. omni-infer ships its
  placement patterns so, as .npy
- an array [layers, slots]: the expert in each slot
- columns ``expert`` and ``gpu`` (or ``rank``, ``device``; ``node``, ``host``: each is taken as one
  GPU; or ``slot``), and ``layer`` where there are several

in a .npy, text, .json, .parquet, or a tensor that torch saved. Each GPU has as many slots as
experts are on it, in rising order, alike in all layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import MOST_EXPERTS, PlacementFile, PlacementShape, model_layers
from evenload.io.columns import Columns, meaning_of, place_of
from evenload.io.csv import TextTable
from evenload.io.files import ending_of
from evenload.io.json import parse_json, to_array
from evenload.io.npy import stored_array
from evenload.io.parquet import ParquetTable
from evenload.io.placements import check_slots, placement_file
from evenload.io.torch_file import load_torch, stored

_PLACES = ("gpu", "rank", "device", "node", "host", "slot")


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    ending = ending_of(path)
    if ending in (".npy", ".pt", ".pth"):
        numpy = ending == ".npy"
        array = stored_array(path) if numpy else stored(load_torch(path), "the tensor", path)
        check_slots(1, math.prod(array.shape))
        return _of_array(array.whole(), path, shape)
    if ending == ".json":
        value = parse_json(path)
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            return _of_array(to_array(value, "the placement"), path, shape)
        names = list(value[0])
        used = _columns(names).used
        rows = to_array([[item.get(names[i]) for i in used] for item in value], "the placement")
        return _of_rows(rows, [names[i] for i in used], path, shape)
    if ending == ".parquet":
        table = ParquetTable(path, meant=_columns)
        groups = [np.stack(values, axis=1) for values in table.groups()]
        names = [table.names[i] for i in table.columns.used]
        return _of_rows(np.concatenate(groups), names, path, shape)
    text = TextTable(path, "loads")
    if not text.header or not any(meaning_of(name) or place_of(name) for name in text.names):
        return _of_array(text.whole(), path, shape)
    text.columns = _columns(text.names)
    used = text.columns.used
    return _of_rows(text.whole()[:, used], [text.names[i] for i in used], path, shape)


def _columns(names: Sequence[str]) -> Columns:
    """Return the columns of the layer, if there is one, of the expert and of its place."""
    found = {meaning_of(n) or place_of(n): i for i, n in enumerate(names)}
    place = next((word for word in _PLACES if word in found), None)
    if "expert" not in found or place is None:
        raise ValueError(
            f"the columns are {', '.join(names)[:120]}; use expert and gpu, and layer where there "
            "are several"
        )
    used = (found[word] for word in ("layer", "expert", place) if word in found)
    return Columns(None, -1, None, tuple(used))


def _whole(array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind not in "iuf" or not (np.abs(array) < MOST_EXPERTS).all():
        raise ValueError(f"the numbers are not experts; use 0 to {MOST_EXPERTS - 1}")
    if not (array == np.floor(array)).all():
        raise ValueError("the numbers are not whole; use those of experts")
    return array.astype(np.int64)


def _of_array(array: NDArray[Any], path: Path, shape: PlacementShape) -> PlacementFile:
    if array.ndim == 2:
        return placement_file(_whole(array), path, shape)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"the array has shape {list(array.shape)}; use [ranks, layers, experts] of 0 and 1, or "
            "[layers, slots]"
        )
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(
            "the array [ranks, layers, experts] has other numbers than 0 and 1; use 1 where a rank "
            "has an expert"
        )
    rows = [np.nonzero(array[:, i]) for i in range(array.shape[1])]
    return _of_ranks(rows, array.shape[0], path, shape, array.shape[2])


def _of_ranks(
    layers: Sequence[tuple[NDArray[Any], ...]],
    num_gpus: int,
    path: Path,
    shape: PlacementShape,
    num_experts: int | None = None,
) -> PlacementFile:
    """Return the placement of (rank, expert) pairs of each layer."""
    rows, slots = [], np.zeros(0, np.int64)
    for number, (rank, expert) in enumerate(layers):
        here = np.bincount(rank, minlength=num_gpus)
        if number and not np.array_equal(here, slots):
            gpu = int(np.flatnonzero(here != slots)[0])
            raise ValueError(
                f"layer {number} has {here[gpu]} experts on GPU {gpu}, and layer 0 {slots[gpu]}; "
                "use as many in each layer"
            )
        if not here.all():
            raise ValueError(f"layer {number} has no expert on GPU {int(here.argmin())}; use 1")
        rows.append(expert[np.lexsort((expert, rank))])
        slots = here
    said: dict[str, Any] = {"num_gpus": num_gpus, "slots": slots.tolist()}
    if num_experts is not None:
        said["num_experts"] = num_experts
    return placement_file(np.stack(rows).astype(np.int64), path, shape, said)


def _of_rows(
    rows: NDArray[Any], names: Sequence[str], path: Path, shape: PlacementShape
) -> PlacementFile:
    """Return the placement of a table of the layer, the expert and its place, or the last two."""
    rows, place = _whole(rows), place_of(names[-1])
    check_slots(1, len(rows))
    if rows.min(initial=0) < 0 or not len(rows):
        raise ValueError(
            f"the columns {', '.join(names)} have {rows.min(initial=0)}; use 0 or more"
        )
    layer = rows[:, 0] if len(names) == 3 else np.zeros(len(rows), np.int64)
    ids = np.unique(layer)
    parts = [(rows[layer == i, -1], rows[layer == i, -2]) for i in ids]
    if place == "slot":
        file = placement_file(np.stack(_by_slot(parts)), path, shape)
    else:
        file = _of_ranks(parts, int(rows[:, -1].max()) + 1, path, shape)
    notes = file.notes
    if place in ("node", "host"):
        notes += (f"{path}: each {place} is taken as one GPU",)
    layers = model_layers(ids.tolist(), None) if len(names) == 3 else None
    return replace(file, notes=notes, layers=layers)


def _by_slot(layers: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> list[NDArray[Any]]:
    """Return the experts of each layer by their slots."""
    every = np.arange(len(layers[0][0]))
    for number, (slot, _) in enumerate(layers):
        if not np.array_equal(np.sort(slot), every):
            raise ValueError(
                f"layer {number} has not each slot from 0 to {every[-1]} once; write one row each"
            )
    return [expert[np.argsort(slot)] for slot, expert in layers]
