"""Our own placement files as text: one JSON object that says what it is.

They hold all that a placement has: the cluster with slots, speed and life of each GPU, the solver,
the loads' digest, the model's layers, and the version that wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import evenload
from evenload.cluster import Cluster
from evenload.io.base import FileFormatError, PlacementFile, PlacementShape, checking, model_layers
from evenload.io.json import MOST_TEXT, keys_found, lines_of, parse_json, to_array
from evenload.io.placements import check_experts, placement_file, settle

NAME = "evenload.placement"
EXPERTS = "physical_to_logical"
_VERSION = 1
_NEEDED = ("num_gpus", "num_nodes", "num_experts", EXPERTS)
_ORIGIN = ("solver", "load_digest")
_SLOTS = ("slots_per_gpu", "slots")


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    return file_of(parse_json(path, MOST_TEXT), str(path), shape)


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
    if file.layers is not None:
        about["num_model_layers"] = file.layers.num_model_layers
        about["layer_ids"] = list(file.layers.ids)
    return about


def file_of(value: Any, where: str, shape: PlacementShape) -> PlacementFile:
    """Return the placement in an object as `about_of` makes it, with the experts [L, S] beside."""
    _check_keys(value, where)
    array = value[EXPERTS]
    if not isinstance(array, np.ndarray):
        array = to_array(array, EXPERTS, where)
    check_experts(array, where)
    cluster = _cluster(value, array.shape[1], where)
    settle("num_gpus", cluster.num_gpus, shape, where)
    settle("num_nodes", cluster.num_nodes, shape, where)
    experts = settle("num_experts", value["num_experts"], shape, where)
    layers, ids = None, value.get("layer_ids")
    if ids is not None:
        if not isinstance(ids, list) or len(ids) != len(array):
            found = f"{len(ids)} numbers" if isinstance(ids, list) else repr(ids)
            raise FileFormatError(
                f"{where}: layer_ids has {found}, and there are {len(array)} layers; use one for "
                "each"
            )
        layers = model_layers(ids, value.get("num_model_layers"), where)
    origin = {key: value.get(key) for key in _ORIGIN}
    return placement_file(array, cluster, experts, where, layers, **origin)


def _check_keys(value: Any, where: str) -> None:
    if not isinstance(value, dict) or value.get("format") != NAME:
        raise FileFormatError(
            f'{where}: this is no placement file: no "format": "{NAME}"; keys found: '
            f"{keys_found(value)}"
        )
    if value.get("version") != _VERSION:
        raise FileFormatError(
            f"{where}: placement file of version {value.get('version')!r}, and this evenload reads "
            f"version {_VERSION}; use the evenload that wrote it, or a newer one"
        )
    missing = [key for key in _NEEDED if key not in value]
    if not any(key in value for key in _SLOTS):
        missing.append(" or ".join(_SLOTS))
    if missing:
        raise FileFormatError(f"{where}: the placement file has no key {', '.join(missing)}")
    for key in _ORIGIN:
        if not isinstance(value.get(key), str | None):
            raise FileFormatError(f"{where}: {key} is {value[key]!r}; use a text, or leave it out")


def _cluster(value: dict[str, Any], num_slots: int, where: str) -> Cluster:
    gpus = value["num_gpus"]
    if isinstance(gpus, int) and gpus > num_slots:
        raise FileFormatError(
            f"{where}: num_gpus={gpus} is more than the {num_slots} slots of a layer; use "
            f"{num_slots} or fewer"
        )
    optional = {key: value.get(key) for key in (*_SLOTS, "speed", "alive")}
    with checking(where):
        return Cluster(gpus, value["num_nodes"], **optional)
