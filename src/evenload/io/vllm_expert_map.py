"""vLLM's expert maps: where each expert is on each rank, as one tensor that torch saved.

``[layers, ranks, experts]`` holds the slot of an expert on a rank, counted from 0, and -1 where the
rank lacks it: what `determine_expert_map` of vLLM 0.33 (``expert_map_manager.py``) returns for each
rank. Ranks may differ in slots, alike in every layer. The number of nodes is not in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evenload.io.base import PlacementFile, PlacementShape
from evenload.io.placements import check_slots, placement_file
from evenload.io.torch_file import load_torch, stored


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement."""
    places = stored(load_torch(path), "the map", path, "layers", "ranks", "experts").whole()
    L, R, E = places.shape
    held = places >= 0
    slots = held.sum(axis=2)  # [L, R]
    if (slots != slots[0]).any():
        layer, rank = np.argwhere(slots != slots[0])[0].tolist()
        raise ValueError(
            f"layer {layer} has {slots[layer, rank]} experts on rank {rank}, and layer 0 "
            f"{slots[0, rank]}; use as many in each layer"
        )
    S = int(slots[0].sum())
    check_slots(L, S)
    # In the order of layer, rank and place, each rank's places have to be 0, 1, 2, ...
    layer, rank, expert = np.nonzero(held)
    place = places[held]
    order = np.lexsort((place, rank, layer))
    right = np.tile(np.concatenate([np.arange(n) for n in slots[0]]), L)
    if (place[order] != right).any() or places.min() < -1:
        raise ValueError(
            "a rank's places are not 0, 1, 2, ... each once, with -1 for the experts it lacks; "
            "give a map [layers, ranks, experts] of those"
        )
    array = expert[order].reshape(L, S)
    said = {"num_gpus": R, "num_experts": E, "slots": slots[0].tolist()}
    return placement_file(array, path, shape, said)
