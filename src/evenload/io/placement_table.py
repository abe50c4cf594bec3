"""Placements as plain tables, where a caller says that a table is one.

- ``.npy`` [ranks, layers, experts] of 0 and 1: whether a rank has an expert. omni-infer ships its
  placement patterns so.
- ``.npy`` or rows of text [layers, slots]: the expert in each slot.
- columns of text ``expert`` and ``gpu`` (or ``rank``, ``device``, ``node``), and ``layer`` where
  there are several. Where it says nodes, each is taken as one GPU.

Each GPU has as many slots as experts are on it, in rising order, alike in all layers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import MOST_EXPERTS, PlacementFile, PlacementShape, checking, model_layers
from evenload.io.csv import TextTable
from evenload.io.npy import stored_array
from evenload.io.placements import check_slots, placement_file
from evenload.io.table import Columns, meaning_of, place_of


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    if path.suffix.lower() != ".npy":
        return _of_text(path, shape)
    layout = stored_array(path)
    if len(layout.shape) not in (2, 3):
        raise ValueError(
            f"the array has shape {list(layout.shape)}; use [ranks, layers, experts] of 0 and 1, "
            "or [layers, slots]"
        )
    check_slots(int(np.prod(layout.shape[:-1])), layout.shape[-1])
    array = layout.whole()
    if array.ndim == 2:
        return placement_file(_whole(array), path, shape)
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(
            "the array [ranks, layers, experts] has other numbers than 0 and 1; use 1 where a rank "
            "has an expert"
        )
    layer, rank, expert = np.nonzero(array.transpose(1, 0, 2))
    rows = [(rank[layer == i], expert[layer == i]) for i in range(array.shape[1])]
    return _of_ranks(rows, array.shape[0], path, shape, array.shape[2])


def _whole(array: NDArray[Any]) -> NDArray[np.int64]:
    if array.size and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise ValueError("the numbers are not whole; use the expert of each slot")
    return array.astype(np.int64)


def _of_ranks(
    layers: list[tuple[NDArray[Any], NDArray[Any]]],
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


def _of_text(path: Path, shape: PlacementShape) -> PlacementFile:
    table = TextTable(path, "loads")
    names = table.names if table.header else []
    if not any(meaning_of(name) or place_of(name) for name in names):
        return placement_file(_whole(table.whole()), path, shape)
    found = {meaning_of(n) or place_of(n) or n: i for i, n in enumerate(names)}
    place = next((w for w in ("gpu", "rank", "device", "node") if w in found), None)
    if "expert" not in found or place is None:
        raise ValueError(
            f"the columns are {', '.join(names)[:120]}; use expert and gpu, and layer where there "
            "are several"
        )
    used = [found[word] for word in ("layer", "expert", place) if word in found]
    table.columns = Columns(None, -1, None, tuple(used))
    with checking(str(path)):
        rows = _whole(table.whole()[:, used])
    if rows.min() < 0 or rows.max() >= MOST_EXPERTS:
        raise ValueError(f"the columns have {rows.min()} to {rows.max()}; use 0 or more, in range")
    expert, gpu = rows[:, -2], rows[:, -1]
    layer = rows[:, 0] if len(used) == 3 else np.zeros(len(rows), np.int64)
    ids = np.unique(layer)
    parts = [(gpu[layer == i], expert[layer == i]) for i in ids]
    file = _of_ranks(parts, int(gpu.max()) + 1, path, shape)
    notes = file.notes
    if place == "node":
        notes += (f"{path}: each node is taken as one GPU",)
    layers = model_layers(ids.tolist(), None) if len(used) == 3 else None
    return replace(file, notes=notes, layers=layers)
