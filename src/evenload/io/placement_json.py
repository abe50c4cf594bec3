"""Our own placement files as text: one JSON object that says what it is.

They hold all that a placement has: the cluster with slots, speed and life of each GPU, the solver,
the loads' digest, the dispatch that it is for, the model's layers, and the version that wrote it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import evenload
from evenload.io.base import PlacementFile, PlacementShape, model_layers
from evenload.io.json import MOST_TEXT, check_ours, lines_of, parse_json
from evenload.io.placements import map_of, placement_file

NAME = "evenload.placement"
EXPERTS = "physical_to_logical"
_VERSION = 1
_NEEDED = ("num_gpus", "num_nodes", "num_experts", EXPERTS)
_SLOTS = ("slots_per_gpu", "slots")


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    return file_of(parse_json(path, MOST_TEXT), path, shape)


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer, so that two files can be compared by eye."""
    about = about_of(file)
    layers = {key: about.pop(key) for key in ("num_model_layers", "layer_ids") if key in about}
    parts = [json.dumps(about, indent=2).removesuffix("\n}")]
    parts += [f'"{key}": {json.dumps(value)}' for key, value in layers.items()]
    rows = lines_of(file.placement.physical_to_logical, "    ")
    parts.append(f'"{EXPERTS}": [\n{rows}\n  ]')
    stream.write((",\n  ".join(parts) + "\n}\n").encode())
    return ()


def about_of(file: PlacementFile) -> dict[str, Any]:
    """Return all of a placement file but the experts: plain numbers, words, lists."""
    about = {
        "format": NAME,
        "version": _VERSION,
        "evenload": evenload.__version__,
        **file.placement.cluster.arguments,
        "num_experts": file.placement.num_experts,
        "solver": file.solver,
        "load_digest": file.load_digest,
    }
    if file.dispatch is not None:
        about["dispatch"] = file.dispatch
    if file.layers is not None:
        about["num_model_layers"] = file.layers.num_model_layers
        about["layer_ids"] = list(file.layers.ids)
    return about


def file_of(value: Any, path: Path, shape: PlacementShape) -> PlacementFile:
    """Return the placement in an object as `about_of` makes it, with the experts [L, S] beside."""
    check_ours(value, NAME, _VERSION, "a placement file")
    missing = [key for key in _NEEDED if value.get(key) is None]
    if all(value.get(key) is None for key in _SLOTS):
        missing.append(" or ".join(_SLOTS))
    if missing:
        raise ValueError(f"the placement file has no key {', '.join(missing)}")
    origin: dict[str, Any] = {key: value.get(key) for key in ("solver", "load_digest", "dispatch")}
    for key, text in origin.items():
        if not isinstance(text, str | None):
            raise ValueError(f"{key} is {text!r}; use a text, or leave it out")
    array, ids, layers = value[EXPERTS], value.get("layer_ids"), None
    if not isinstance(array, np.ndarray):
        array = map_of(array, EXPERTS)
    file = placement_file(array, path, shape, value)
    if ids is not None:
        if not isinstance(ids, list) or len(ids) != len(array):
            found = f"{len(ids)} numbers" if isinstance(ids, list) else repr(ids)
            raise ValueError(
                f"layer_ids has {found}, and there are {len(array)} layers; use one for each"
            )
        layers = model_layers(ids, value.get("num_model_layers"))
    return replace(file, layers=layers, **origin)
