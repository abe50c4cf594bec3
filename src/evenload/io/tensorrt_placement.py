"""TensorRT-LLM's placements: the YAML of its ``load_balancer`` option.

``num_slots``, ``initial_global_assignments`` with the experts of the slots of each MoE layer under
the layer's number in the model, and ``layer_updates_per_iter: 0``: the placement stays as it is.

**Layers**: where the model's numbers are not known rows become layers 0 to L-1, with a note.
**Not in the file**: the number of GPUs and nodes, which the reader has to be told (nodes are 1
where not said); the GPUs' speed, solver, digest and the model's number of layers, which are left
out with a note. Placements with GPUs that are gone or have different numbers of slots are refused.
The same expert twice on a GPU is allowed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.extras import needed
from evenload.io.base import FileFormatError, PlacementFile, PlacementShape, model_layers
from evenload.io.placements import (
    build_placement,
    check_experts,
    equal_gpus,
    left_out,
    need_whole_gpus,
)
from evenload.io.text import check_text, keys_found

MOST_TEXT = 2**24  # bytes; a second or two
_ROWS = "initial_global_assignments"
_KNOWN = {"num_slots", "layer_updates_per_iter", _ROWS}
_DEEPEST = 3
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z", re.ASCII)


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement, its layers in the order of their numbers."""
    where = str(path)
    value = parse_yaml(path)
    rows = _rows_in(value, where)
    layers = model_layers(sorted(rows), None, where)
    array = _table(rows, value.get("num_slots"), where)
    check_experts(array, where)
    cluster = equal_gpus(array.shape[1], shape, where)
    placement, notes = build_placement(array, cluster, shape.num_experts, where)
    other = [str(key) for key in value if key not in _KNOWN]
    if other:
        notes += (f"{where}: not read: {', '.join(other)[:200]}",)
    return PlacementFile(placement, where, layers=layers, notes=notes)


def _rows_in(value: Any, where: str) -> dict[int, list[int]]:
    rows = value.get(_ROWS) if isinstance(value, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise FileFormatError(
            f"{where}: no {_ROWS} with a list of experts for each layer; found: {keys_found(value)}"
        )
    for layer, row in rows.items():
        if not isinstance(layer, int):
            raise FileFormatError(f"{where}: {_ROWS} has the key {layer!r}; use a layer's number")
        place = f"{where}: layer {layer}"
        if not isinstance(row, list) or not row:
            raise FileFormatError(f"{place} is {str(row)[:40]!r}; use the experts of its slots")
        odd = next((expert for expert in row if not isinstance(expert, int)), 0)
        if not isinstance(odd, int):
            raise FileFormatError(f"{place} has {str(odd)[:40]!r}; use the number of an expert")
    return rows


def _table(rows: dict[int, list[int]], num_slots: Any, where: str) -> NDArray[np.int64]:
    first = next(iter(rows))
    wanted = len(rows[first]) if num_slots is None else num_slots
    for layer, row in rows.items():
        if len(row) != wanted:
            said = f"layer {first} has {wanted}" if num_slots is None else f"num_slots={wanted}"
            raise FileFormatError(
                f"{where}: layer {layer} has {len(row)} slots, and {said}; use as many in each"
            )
    return np.array([rows[layer] for layer in sorted(rows)], np.int64)


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer."""
    need_whole_gpus(file, "TensorRT-LLM")
    placement = file.placement
    L = placement.num_layers
    ids = tuple(range(L)) if file.layers is None else file.layers.ids
    lines = [f"num_slots: {placement.num_slots}", "layer_updates_per_iter: 0", f"{_ROWS}:"]
    rows = np.array(placement.physical_to_logical).tolist()
    lines += [f"  {layer}: {row}" for layer, row in zip(ids, rows, strict=True)]
    stream.write(("\n".join(lines) + "\n").encode())
    lost = left_out(file, "TensorRT-LLM", "layer numbers")
    if file.layers is not None:
        return lost
    return (
        f"which of the model's layers these are is not known: written as layers 0 to {L - 1}",
        *lost,
    )


# ---- the little of YAML that a placement needs ---------------------------------------------------


def parse_yaml(path: Path) -> Any:
    """Return the value in a YAML file: dicts, lists, ints, None, and texts for all else.

    PyYAML's safe loader reads the text; its events are followed here instead of built by it, since
    a few bytes can name one list a million times over (aliases), nest without end, or say a key
    twice. Plain mappings and lists are taken, three deep; all else is refused with its line.
    """
    check_text(path, MOST_TEXT)
    yaml = needed("yaml", "PyYAML", "tensorrt-llm", f"{path}: a YAML file", error=FileFormatError)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8-sig")
        events = ((type(e).__name__, e) for e in yaml.parse(text, Loader=loader))
        next(events)  # the stream's start
        if next(events)[0] != "DocumentStartEvent":
            raise FileFormatError(f"{path}: the file holds no value")
        value = _value(*next(events), events, 0, str(path))
        next(events)  # the document's end
        kind, event = next(events)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise FileFormatError(f"{path}{line}: this is no YAML ({what})") from None
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: this is no YAML ({error})") from None
    if kind != "StreamEndEvent":
        raise _refused(event, "a second document starts; use one", str(path))
    return value


def _refused(event: Any, what: str, where: str) -> FileFormatError:
    return FileFormatError(f"{where}, line {event.start_mark.line + 1}: {what}")


def _value(kind: str, event: Any, events: Iterator[tuple[str, Any]], depth: int, where: str) -> Any:
    if kind == "AliasEvent":
        raise _refused(event, "an alias (*name) is not followed; write the value out", where)
    if event.anchor is not None or (event.tag is not None and kind != "ScalarEvent"):
        raise _refused(event, "anchors (&name) and tags (!name) are not read", where)
    if kind == "ScalarEvent":
        text, plain = event.value, event.implicit[0] and event.tag is None  # not quoted
        if plain and _WHOLE.match(text):
            return int(text)
        return None if plain and text in ("", "~", "null") else text
    if depth == _DEEPEST:
        raise _refused(event, f"it is nested deeper than {_DEEPEST}", where)
    if kind == "MappingStartEvent":
        return _mapping(events, depth, where)
    items = []
    for part, start in events:
        if part == "SequenceEndEvent":
            break
        items.append(_value(part, start, events, depth + 1, where))
    return items


def _mapping(events: Iterator[tuple[str, Any]], depth: int, where: str) -> dict[Any, Any]:
    items: dict[Any, Any] = {}
    for kind, event in events:
        if kind == "MappingEndEvent":
            break
        if kind != "ScalarEvent":
            raise _refused(event, "a key is no plain word or number", where)
        key = _value(kind, event, events, depth + 1, where)
        if key in items:
            raise _refused(event, f"the key {key} is there twice", where)
        items[key] = _value(*next(events), events, depth + 1, where)
    return items
