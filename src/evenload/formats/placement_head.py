"""What our own placement files say beside the experts; the same in each of them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

import evenload
from evenload.cluster import Cluster
from evenload.formats.base import FileFormatError, PlacementFile, PlacementShape
from evenload.formats.placed import build_placement, check_experts, settle
from evenload.formats.sizes import model_layers

NAME = "evenload.placement"
_VERSION = 1
_NEEDED = ("num_gpus", "num_nodes", "num_experts", "physical_to_logical")
_SLOTS = ("slots_per_gpu", "slots")


def head_of(file: PlacementFile) -> dict[str, Any]:
    """Return all of a placement file but the experts and layers: plain numbers, words, lists."""
    cluster = file.placement.cluster
    return {
        "format": NAME,
        "version": _VERSION,
        "evenload": evenload.__version__,
        **cluster.arguments,
        "num_experts": file.placement.num_experts,
        "solver": file.solver,
        "load_digest": file.load_digest,
    }


def layers_of(file: PlacementFile) -> dict[str, Any]:
    """Return which of the model's layers the rows are, where that is known."""
    if file.layers is None:
        return {}
    return {
        "num_model_layers": file.layers.num_model_layers,
        "layer_ids": list(file.layers.ids),
    }


def check_keys(value: Any, where: str) -> dict[str, Any]:
    """Return `value` if it has what a placement file has.

    Raises
    ------
    FileFormatError
        If it is of something else or of another version, or lacks a key.
    """
    if not isinstance(value, dict) or value.get("format") != NAME:
        found = ", ".join(value) or "none" if isinstance(value, dict) else type(value).__name__
        raise FileFormatError(
            f'{where}: this is no placement file: no "format": "{NAME}"; keys found: {found}'
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
    for key in ("solver", "load_digest"):
        if not isinstance(value.get(key), str | None):
            raise FileFormatError(f"{where}: {key} is {value[key]!r}; use a text, or leave it out")
    return value


def _cluster(value: dict[str, Any], num_slots: int, where: str) -> Cluster:
    gpus = value["num_gpus"]
    if isinstance(gpus, int) and gpus > num_slots:
        raise FileFormatError(
            f"{where}: num_gpus={gpus} is more than the {num_slots} slots of a layer; use "
            f"{num_slots} or fewer"
        )
    optional = {key: value.get(key) for key in (*_SLOTS, "speed", "alive")}
    try:
        return Cluster(gpus, value["num_nodes"], **optional)
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}") from None


def file_of(
    value: dict[str, Any], array: NDArray[Any], where: str, shape: PlacementShape
) -> PlacementFile:
    """Return the placement that a head, as `check_keys` returns it, and the experts make.

    Raises
    ------
    FileFormatError
        If they make none, or say something else than the caller.
    """
    check_experts(array, where)
    cluster = _cluster(value, array.shape[1], where)
    settle("num_gpus", cluster.num_gpus, shape, where)
    settle("num_nodes", cluster.num_nodes, shape, where)
    experts = settle("num_experts", value["num_experts"], shape, where)
    layers = None
    if value.get("layer_ids") is not None:
        layers = _layers(value, len(array), where)
    placement, notes = build_placement(array, cluster, experts, where)
    solver, digest = value.get("solver"), value.get("load_digest")
    return PlacementFile(placement, where, solver, digest, layers, notes)


def _layers(value: dict[str, Any], num_layers: int, where: str) -> Any:
    ids = value["layer_ids"]
    if not isinstance(ids, list) or len(ids) != num_layers:
        found = f"{len(ids)} numbers" if isinstance(ids, list) else repr(ids)
        raise FileFormatError(
            f"{where}: layer_ids has {found}, and there are {num_layers} layers; use one for each"
        )
    return model_layers(ids, value.get("num_model_layers"), where)
