"""The experts of each device in vllm-ascend's JSON, as one table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.formats.base import FileFormatError


def _listed(value: Any, key: str, where: str) -> list[Any]:
    """Return the list under a key of a JSON object."""
    if not isinstance(value, dict) or not isinstance(value.get(key), list) or not value[key]:
        found = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise FileFormatError(f"{where}: no list {key!r}; found: {found[:200] or 'nothing'}")
    return list(value[key])


def _in_order(items: list[Any], key: str, where: str) -> list[Any]:
    """Return JSON objects by their number, which has to be each of 0, 1, 2, ... once."""
    numbers = [item.get(key) if isinstance(item, dict) else None for item in items]
    whole = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]
    if sorted(whole) != list(range(len(items))):
        shown = str(numbers[:8])[:-1] + (", ...]" if len(numbers) > 8 else "]")
        raise FileFormatError(
            f"{where}: {key} is {shown[:200]}; use each of 0 to {len(items) - 1} once"
        )
    return sorted(items, key=lambda item: int(item[key]))


def _check_count(value: Any, key: str, found: int, where: str) -> None:
    said = value.get(key, found)
    if said != found:
        raise FileFormatError(f"{where}: {key} is {str(said)[:40]}, and there are {found}")


def _check_row(row: list[Any], where: str) -> None:
    for expert in row:
        if not isinstance(expert, int) or isinstance(expert, bool) or not -1 <= expert < 2**31:
            raise FileFormatError(f"{where}: device_expert has {str(expert)[:40]}; use experts")


def _layer(value: Any, number: int, where: str) -> tuple[list[int], tuple[int, ...]]:
    """Return the experts of a layer's slots, and how many slots each device has."""
    place = f"{where}, layer {number}"
    devices = _in_order(_listed(value, "device_list", place), "device_id", place)
    _check_count(value, "device_count", len(devices), place)
    rows = [_listed(device, "device_expert", place) for device in devices]
    experts = [expert for row in rows for expert in row]
    _check_row(experts, place)
    return experts, tuple(map(len, rows))


def read_devices(value: Any, where: str) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Return the expert of each slot, int64 [L, S], and the slots of each device.

    Parameters
    ----------
    value : JSON value
    where : str
        The file's name, for messages.

    Raises
    ------
    FileFormatError
        If a list is missing, numbers have gaps, or layers differ in devices or slots.
    """
    layers = _in_order(_listed(value, "layer_list", where), "layer_id", where)
    _check_count(value, "moe_layer_count", len(layers), where)
    read = [_layer(layer, number, where) for number, layer in enumerate(layers)]
    slots = read[0][1]
    for number, (_, other) in enumerate(read):
        if other != slots:
            g = next((g for g, (a, b) in enumerate(zip(slots, other, strict=False)) if a != b), 0)
            what = f"{len(other)} devices, and layer 0 {len(slots)}"
            if len(other) == len(slots):
                what = f"{other[g]} slots on device {g}, and layer 0 {slots[g]}"
            raise FileFormatError(f"{where}: layer {number} has {what}; use as many in each layer")
    return np.array([experts for experts, _ in read], np.int64), slots
