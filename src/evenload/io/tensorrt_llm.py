"""TensorRT-LLM's files: a folder of expert statistics, and placements in YAML.

**Statistics**: ``meta_info.json`` has the number of experts; ``rank{r}.safetensors`` has what that
rank counted, under ``{iteration}_{model layer}`` an integer for each expert. They are summed over
the ranks; each iteration is a window. Ranks are those of all pipeline stages, and each has the
layers of its own, a rank without work has none: together they have to be complete. Only the last
iteration may be cut short.

**Placements** are the YAML of its ``load_balancer`` option: ``num_slots``,
``initial_global_assignments`` with the experts of the slots of each MoE layer under the layer's
number in the model, and ``layer_updates_per_iter: 0``: the placement stays as it is. The numbers
of GPUs and nodes are not in it. The same expert twice on a GPU is allowed there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.checks import positive_int
from evenload.extras import needed
from evenload.io.base import (
    MOST_EXPERTS,
    FileFormatError,
    PlacementFile,
    PlacementShape,
    checking,
    model_layers,
    refusing,
)
from evenload.io.files import check_bytes, natural, some
from evenload.io.json import keys_found, parse_json
from evenload.io.placements import check_equal_slots, for_engine, placement_file
from evenload.io.recorded import RecordedWindows
from evenload.layers import ModelLayers
from evenload.trace import Trace

_META = "meta_info.json"
_RANKS = "rank*.safetensors"
_MOST_META = 2**20  # bytes; it has two numbers
_KEY = re.compile(r"(0|[1-9]\d{0,17})_(0|[1-9]\d{0,17})", re.ASCII)
_INTEGERS = {"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"}

MOST_TEXT = 2**24  # bytes; a second or two
_ROWS = "initial_global_assignments"
_KNOWN = {"num_slots", "layer_updates_per_iter", _ROWS}
_DEEPEST = 3
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})\Z", re.ASCII)


# ---- statistics ----------------------------------------------------------------------------------


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read statistics; the counts of an iteration are read as they are asked for."""
    if not path.is_dir():
        raise ValueError(f"this is a file; give the folder with {_META} and {_RANKS}")
    E = _num_experts(path)
    ranks = [RankCounts(file, E) for file in _rank_files(path)]
    keys = set[tuple[int, int]]().union(*(rank.keys for rank in ranks))
    if not keys:
        raise ValueError("nothing is in the files of its ranks; nothing was recorded")
    iterations, layers = (sorted(set(numbers)) for numbers in zip(*keys, strict=True))
    notes = list[str]()
    lacking = next((key for key in product(iterations, layers) if key not in keys), None)
    if lacking is not None and len(iterations) > 1 and lacking[0] == iterations[-1]:
        notes.append(
            f"{path}: the last iteration, {lacking[0]}, has no layer {lacking[1]} and is left out"
        )
        del iterations[-1]
    elif lacking is not None:
        raise ValueError(
            f"iteration {lacking[0]} has no layer {lacking[1]} on any rank, and others have; give "
            "the files of all ranks, with whole iterations"
        )
    notes += _part_notes(path, ranks, iterations)
    reads = [partial(_counts, ranks, E, iteration, layers) for iteration in iterations]
    windows, model = RecordedWindows(reads, np.arange(len(layers)), E), ModelLayers(layers)
    return Trace.of(windows, source=str(path), layers=model, notes=tuple(notes))


def _part_notes(path: Path, ranks: list[RankCounts], iterations: list[int]) -> list[str]:
    """Say where a rank lacks an iteration of a layer that it has in others."""
    short = []
    for number, rank in enumerate(ranks):
        own = {layer for _, layer in rank.keys}
        short += [number] * any(key not in rank.keys for key in product(iterations, own))
    if not short:
        return []
    return [
        f"{path}: {len(short)} of {len(ranks)} ranks lack some iterations of their layers (rank "
        f"{some(short)}); the sums are of the ranks that have them"
    ]


def _num_experts(path: Path) -> int:
    file = path / _META
    if not file.is_file():
        raise ValueError(f"no {_META} in this folder; give the one that has it")
    if file.stat().st_size > _MOST_META:
        raise FileFormatError(f"{file}: the file has more than {_MOST_META} bytes; is it one?")
    with checking(str(file)):
        value = parse_json(file)
        if not isinstance(value, dict) or "num_experts" not in value:
            raise ValueError("no key 'num_experts'")
        number = positive_int("num_experts", value["num_experts"])
        if number > MOST_EXPERTS:
            raise ValueError(f"num_experts={number} is past {MOST_EXPERTS}")
    return number


def _rank_files(path: Path) -> list[Path]:
    files = sorted((f for f in path.glob(_RANKS) if f.is_file()), key=natural)
    if not files:
        raise ValueError(f"no {_RANKS} in this folder; give the one that has them")
    for rank in range(len(files)):
        if path / (name := f"rank{rank}.safetensors") not in files:
            raise ValueError(
                f"no {name}, and there is {files[-1].name}; give the files of all ranks"
            )
    return files


class RankCounts:
    """What one rank counted: integers [E] under ``{iteration}_{layer}``; the header is held."""

    def __init__(self, path: Path, num_experts: int) -> None:
        self.path, self._experts, self.keys = path, num_experts, set[tuple[int, int]]()
        with checking(str(path)):
            library = needed("safetensors", "safetensors", "tensorrt-llm", "reading it")
            damaged = "this is not a .safetensors file, or it is cut off"
            with refusing(damaged, library.SafetensorError, OSError, ValueError):
                self._file = library.safe_open(path, framework="np")
                parts = [(name, self._file.get_slice(name)) for name in self._file.keys()]  # noqa: SIM118
                kinds = [(name, p.get_dtype(), tuple(p.get_shape())) for name, p in parts]
            for name, dtype, shape in kinds:
                match = _KEY.fullmatch(name)
                if match is None:
                    raise ValueError(
                        f"the key {name[:60]!r} is not an iteration and layer, as '100_3' would be"
                    )
                if dtype not in _INTEGERS or shape != (num_experts,):
                    raise ValueError(
                        f"{name!r} is {dtype} of shape {shape}; it has to be integers of shape "
                        f"({num_experts},), one an expert"
                    )
                self.keys.add((int(match[1]), int(match[2])))

    def counts(self, iteration: int, layer: int) -> NDArray[Any]:
        """Return the tokens of each expert, [E]; a negative one is a `FileFormatError`."""
        counts: NDArray[Any] = self._file.get_tensor(f"{iteration}_{layer}")
        if counts.min() < 0:
            raise FileFormatError(
                f"{self.path}: iteration {iteration} of layer {layer} has {counts.min()} tokens; "
                "counts are 0 or more"
            )
        return counts

    def __reduce__(self) -> tuple[Any, ...]:
        return RankCounts, (self.path, self._experts)


def _counts(
    ranks: list[RankCounts], num_experts: int, iteration: int, layers: list[int]
) -> NDArray[np.float64]:
    """Return the tokens of one iteration, [L, E], summed over the ranks."""
    total = np.zeros((len(layers), num_experts))
    for rank in ranks:
        for row, layer in enumerate(layers):
            if (iteration, layer) in rank.keys:
                total[row] += rank.counts(iteration, layer)
    return total


# ---- placements ----------------------------------------------------------------------------------


def read_placement(path: Path, shape: PlacementShape) -> PlacementFile:
    """Read a placement, its layers in the order of their numbers."""
    value = _parse_yaml(path)
    rows = _rows_in(value)
    layers = model_layers(sorted(rows), None)
    file = placement_file(np.array([rows[i] for i in layers.ids], np.int64), path, shape)
    other = ", ".join(str(key) for key in value if key not in _KNOWN)
    notes = (*file.notes, f"{path}: not read: {other[:200]}") if other else file.notes
    return replace(file, layers=layers, notes=notes)


def _rows_in(value: Any) -> dict[int, list[int]]:
    """Return the experts in each layer's slots, as many in each."""
    rows = value.get(_ROWS) if isinstance(value, dict) else None
    if not isinstance(rows, dict) or not rows:
        raise ValueError(
            f"no {_ROWS} with a list of experts for each layer; found: {keys_found(value)}"
        )
    wanted = value.get("num_slots")
    for layer, row in rows.items():
        if not isinstance(layer, int):
            raise ValueError(f"{_ROWS} has the key {layer!r}; use a layer's number")
        place = f"layer {layer}"
        if not isinstance(row, list) or not row:
            raise ValueError(f"{place} is {str(row)[:40]!r}; use the experts of its slots")
        for odd in (expert for expert in row if not isinstance(expert, int)):
            raise ValueError(f"{place} has {str(odd)[:40]!r}; use the number of an expert")
    slots = {layer: len(row) for layer, row in rows.items()}
    check_equal_slots(slots)
    if wanted is not None and wanted != next(iter(slots.values())):
        raise ValueError(
            f"the layers have {next(iter(slots.values()))} slots, and num_slots={wanted}; use that "
            "for num_slots"
        )
    return rows


def write_placement(stream: BinaryIO, file: PlacementFile) -> tuple[str, ...]:
    """Write a placement with one line a layer."""
    lost = for_engine(file, "TensorRT-LLM", "layer numbers")
    placement = file.placement
    L = placement.num_layers
    ids = range(L) if file.layers is None else file.layers.ids
    lines = [f"num_slots: {placement.num_slots}", "layer_updates_per_iter: 0", f"{_ROWS}:"]
    rows = placement.physical_to_logical.tolist()
    lines += [f"  {layer}: {row}" for layer, row in zip(ids, rows, strict=True)]
    stream.write(("\n".join(lines) + "\n").encode())
    if file.layers is not None:
        return lost
    note = f"which of the model's layers these are is not known: written as layers 0 to {L - 1}"
    return (note, *lost)


# ---- the little of YAML that a placement needs ---------------------------------------------------


def _parse_yaml(path: Path) -> Any:
    """Return the value in a YAML file: dicts, lists, ints, None, and texts for all else.

    PyYAML's events are followed here, since a few bytes can name one list a million times over
    (aliases), nest without end, or say a key twice: all but plain values is refused with its line.
    """
    check_bytes("the text", path.stat().st_size, MOST_TEXT)
    yaml = needed("yaml", "PyYAML", "tensorrt-llm", "a YAML file")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with refusing("this is not YAML", UnicodeDecodeError):
            text = path.read_text(encoding="utf-8-sig")
        events = yaml.parse(text, Loader=loader)
        next(events)  # the stream's start
        if not isinstance(next(events), yaml.DocumentStartEvent):
            raise ValueError("the file holds no value")
        value = _value(next(events), events, 0)
        next(events)  # the document's end
        last = next(events)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise FileFormatError(f"{path}{line}: this is not YAML ({what})") from None
    if not isinstance(last, yaml.StreamEndEvent):
        raise _refused(last, "a second document starts; use one")
    return value


def _refused(event: Any, what: str) -> ValueError:
    return ValueError(f"line {event.start_mark.line + 1}: {what}")


def _value(event: Any, events: Iterator[Any], depth: int) -> Any:
    kind = type(event).__name__
    if kind == "AliasEvent":
        raise _refused(event, "an alias (*name) is not followed; write the value out")
    if event.anchor is not None or (event.tag is not None and kind != "ScalarEvent"):
        raise _refused(event, "anchors (&name) and tags (!name) are not read")
    if kind == "ScalarEvent":
        text, plain = event.value, event.implicit[0] and event.tag is None  # not quoted
        if plain and _WHOLE.match(text):
            return int(text)
        return None if plain and text in ("", "~", "null") else text
    if depth == _DEEPEST:
        raise _refused(event, f"it is nested deeper than {_DEEPEST}")
    items, pairs = list[Any](), dict[Any, Any]()
    while not type(part := next(events)).__name__.endswith("EndEvent"):
        if kind == "SequenceStartEvent":
            items.append(_value(part, events, depth + 1))
            continue
        if type(part).__name__ != "ScalarEvent":
            raise _refused(part, "a key is not a plain word or number")
        key = _value(part, events, depth + 1)
        if key in pairs:
            raise _refused(part, f"the key {key} is there twice")
        pairs[key] = _value(next(events), events, depth + 1)
    return items if kind == "SequenceStartEvent" else pairs
