"""SGLang's loads as JSON: ``logical_count``, which its ``--init-expert-location`` takes too.

One table [model layers, experts] or one for each step [steps, model layers, experts]. Dense layers
have rows of zeros there; they are left out, and the others named by their number in the model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evenload.io.base import FileFormatError, RawTrace, trace_shape
from evenload.io.text import json_has, keys_found, parse_json, to_array
from evenload.layers import ModelLayers

_KEY = "logical_count"


def recognises(path: Path) -> bool:
    """Whether a .json file has such counts."""
    return json_has(path, _KEY)


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a load or a trace, without layers that never had a token."""
    value = parse_json(path)
    if not isinstance(value, dict) or _KEY not in value:
        raise FileFormatError(f"{path}: no key {_KEY!r}; keys found: {keys_found(value)}")
    array = to_array(value[_KEY], _KEY, str(path))
    if array.ndim < 2:
        raise FileFormatError(
            f"{path}: {_KEY} has shape {list(array.shape)}; use [layers][experts] or "
            "[steps][layers][experts]"
        )
    _, L, _ = trace_shape(array.shape, str(path))
    used = np.flatnonzero(array.any(axis=-1).reshape(-1, L).any(axis=0))
    if used.size == 0:
        raise FileFormatError(f"{path}: {_KEY} is all zero; no token was counted")
    notes: tuple[str, ...] = ()
    if used.size < L:
        notes = (
            f"{path}: {L - used.size} of {L} layers have no tokens, as dense layers have; they "
            "are left out",
        )
    layers = ModelLayers(used.tolist(), L)
    return RawTrace.of(array[..., used, :], str(path), notes, layers)
