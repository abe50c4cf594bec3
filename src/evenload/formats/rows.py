"""The rows of a placement that are certain layers of the model."""

from __future__ import annotations

from dataclasses import replace

from evenload.formats.base import FileFormatError, PlacementFile
from evenload.layers import ModelLayers
from evenload.placement import Placement


def _picked(file: PlacementFile, known: ModelLayers, wanted: ModelLayers) -> PlacementFile:
    row = {layer: i for i, layer in enumerate(known.ids)}
    missing = [layer for layer in wanted.ids if layer not in row]
    if missing:
        raise FileFormatError(
            f"{file.source}: the placement has no layer {missing[0]} of the model; it has "
            f"{known.ids[0]} to {known.ids[-1]}"
        )
    number = known.num_model_layers
    layers = ModelLayers(wanted.ids, wanted.num_model_layers if number is None else number)
    if wanted.ids == known.ids:
        return replace(file, layers=layers)
    old = file.placement
    rows = old.physical_to_logical[[row[layer] for layer in wanted.ids]]
    left = [layer for layer in known.ids if layer not in set(wanted.ids)]
    note = (
        f"{file.source}: {len(left)} of {len(known)} layers are left out (model layers "
        f"{', '.join(map(str, left[:5]))}{', ...' if len(left) > 5 else ''}): the others are asked "
        "for"
    )
    placement = Placement(rows, old.cluster, old.num_experts)
    return replace(file, placement=placement, layers=layers, notes=(*file.notes, note))


def for_layers(file: PlacementFile, wanted: ModelLayers) -> PlacementFile:
    """Return the rows that are the layers wanted; where the file names none, name them.

    Parameters
    ----------
    file : PlacementFile
    wanted : ModelLayers
        The model's MoE layers.

    Raises
    ------
    FileFormatError
        If a layer is not in the file, or it names none and has another number of them.
    """
    if file.layers is not None:
        return _picked(file, file.layers, wanted)
    if len(wanted) != file.placement.num_layers:
        raise FileFormatError(
            f"{file.source}: the placement has {file.placement.num_layers} layers, and "
            f"{len(wanted)} are named ({wanted.ids[0]} to {wanted.ids[-1]}); name "
            f"{file.placement.num_layers}"
        )
    return replace(file, layers=wanted)
