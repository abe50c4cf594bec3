"""``evenload convert``: loads or a placement from one format to another."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evenload.cli import inputs, options, output

if TYPE_CHECKING:
    from evenload.io import PlacementFile
    from evenload.layers import ModelLayers
    from evenload.trace import Trace

EXAMPLES = """
Examples:
  evenload convert placement.json init.pt
  evenload convert trace.npz trace.parquet
  evenload convert expert_map.json placement.json --gpus 16 --nodes 2 --layers 3-60
"""

_WRITE = {"write_load": "read_load", "write_placement": "read_placement"}
_DIGITS = 5  # of a layer's number

OPTIONS = {
    "arguments": {
        "IN": "Loads or a placement, in any format that evenload reads.",
        "OUT": "File to write. Loads: a .npz, .npy, .csv (one window) or .parquet file. "
        "Placements: .json or .npz (evenload's own), .pt (SGLang), .yaml (TensorRT-LLM), or what "
        "--to says.",
    },
    "formats": {
        "--from NAME": "Format of IN. Default: told by its content.",
        "--to NAME": "Format of OUT: sglang, tensorrt-llm, vllm-ascend, evenload or evenload-npz "
        "for placements; npz, npy, csv or parquet for loads. Default: by OUT's ending.",
    },
    "what the file may leave out": options.GPUS | {
        "--experts N": "Experts per layer, if IN does not say.",
        "--layers A-B,...": "The model's MoE layers, e.g. 3-60. Names the layers of a file that "
        "does not name them, or picks these from a file that has others too (SGLang's has dense "
        "layers).",
        "--fill": "Fill those of --layers that a placement lacks with experts in order, as "
        "engines start: layers of a draft model (MTP), which engines look up too.",
        **options.LAYOUT,
    },
    "numbers of the experts": options.ORDER,
    "reading": options.MAX_BYTES,
    "loads": options.PHASE | {
        "--window N": "Take only window N of loads (from 0, or from the end: -1). Default: all.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Convert loads or a placement from one format to another.

    Prints a note for dropped fields; fails if a required one cannot be stored. A trace is converted
    window by window.
    """
    from evenload.io import PlacementFile, PlacementShape, read_anything

    source, form = vars(args)["in"], vars(args)["from"]
    layers, able = _layers(args.layers), _writable(args.out, args.to)
    output.check_places(args.out)
    prefer = _WRITE[able[0]] if len(able) == 1 else None
    shape = PlacementShape(args.gpus, args.nodes, args.experts)
    how = inputs.layout_of(args) | {"format": form, "prefer": prefer}
    found = inputs.of_phase(read_anything(source, shape, **how)[1], args)
    if isinstance(found, PlacementFile):
        _convert_placement(found, layers, args)
    else:
        _convert_loads(found, layers, args)


def _convert_loads(loads: Trace, layers: ModelLayers | None, args: Namespace) -> None:
    from evenload.io import check_window, write_load
    from evenload.report.text import counted
    from evenload.trace import Trace

    output.say_notes(loads.notes)
    if args.fill:
        raise ValueError("--fill puts experts into a placement's layers, and these are loads")
    for order in inputs.orders_of(args):
        loads = order.renumbered_trace(loads)
    known = loads.layers
    if layers is not None:
        loads, known = _layers_of(loads, layers), layers
    if args.window is not None:
        number = check_window(args.window, len(loads), "the trace")
        loads = loads.only([number])
    loads = Trace.of(loads, layers=known, phases=loads.phases)
    output.say_notes(write_load(args.out, loads, format=args.to))
    words = map(counted, loads.shape, ("window", "layer", "expert"))
    output.say(f"wrote loads of {', '.join(words)} to {args.out}")


def _convert_placement(file: PlacementFile, layers: ModelLayers | None, args: Namespace) -> None:
    from evenload.io import for_layers, write_placement_file

    output.say_notes(file.notes)
    if args.window is not None:
        raise ValueError("--window takes one of the windows of loads, and this is a placement")
    options.both(args.fill or None, layers, "--fill is for the layers that --layers names")
    for order in inputs.orders_of(args):
        file = order.renumbered_placement(file)
    if layers is not None:
        file = replace(file, layers=_rows(file.layers, layers, file.placement.num_layers))
        known = len(file.notes)
        file = for_layers(file, layers, fill=args.fill)
        output.say_notes(file.notes[known:])
    output.say_notes(write_placement_file(args.out, file, format=args.to))
    output.say(f"wrote the placement to {args.out}")


def _rows(known: ModelLayers | None, wanted: ModelLayers, there: int) -> ModelLayers | None:
    """Return the layers of rows; some of more rows than are wanted can only be told by number."""
    from evenload.layers import ModelLayers

    if known is not None or not len(wanted) <= wanted.ids[-1] < there:
        return known
    output.say_notes([f"IN names no layers; its rows are taken as the model's 0 to {there - 1}"])
    return ModelLayers(range(there))


def _layers_of(loads: Trace, layers: ModelLayers) -> Trace:
    """Return the loads of these layers."""
    from functools import partial

    import numpy as np

    from evenload.io.recorded import RecordedWindows
    from evenload.trace import Trace

    known, there = _rows(loads.layers, layers, loads.num_layers), loads.num_layers
    if known is None and len(layers) != there:
        raise ValueError(
            f"--layers names {len(layers)} layers, and there are {there}; name {there}"
        )
    if known is None or known.ids == layers.ids:
        return loads
    lacking = [layer for layer in layers.ids if layer not in known.ids]
    if lacking:
        raise ValueError(
            f"--layers: the loads have no layer {lacking[0]}; they name {known.ids[0]} to "
            f"{known.ids[-1]}; name some of those, or leave --layers out"
        )
    rows = np.array([known.ids.index(layer) for layer in layers.ids])

    def of(trace: Trace) -> Trace:
        reads = [partial(trace.read, t) for t in range(len(trace))]
        windows = RecordedWindows(reads, rows, trace.num_experts)
        phases = {name: of(part) for name, part in trace.phases.items()}
        return Trace.of(windows, source=loads.source, over_time=loads.over_time, phases=phases)

    return of(loads)


def _layers(text: str | None) -> ModelLayers | None:
    """Read the model's layers from rising numbers and ranges with commas between, as ``3-60``."""
    from evenload.layers import ModelLayers

    if text is None:
        return None
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last if dash else first]
        if not all(end.isascii() and end.isdigit() and len(end) <= _DIGITS for end in ends):
            raise ValueError(
                f"--layers {text}: {part!r} is not a layer; use numbers and ranges, e.g. 3-60 or "
                "1,3,5"
            )
        ids += range(int(ends[0]), int(ends[1]) + 1)
    return ModelLayers(ids)


def _writable(target: Path, to_format: str | None) -> list[str]:
    """Return which of loads and a placement can be written; raise `ValueError` for neither."""
    from evenload.checks import unknown_ending
    from evenload.io import FORMATS

    def keys(ability: str) -> list[str]:
        able = [f for f in FORMATS if ability in f.can]
        if to_format is not None:
            return sorted(f.name for f in able)
        return sorted({ending for f in able for ending in f.written_to})

    wanted = target.suffix.lower() if to_format is None else to_format
    if able := [ability for ability in _WRITE if wanted in keys(ability)]:
        return able
    what = f"--to {to_format} is not a format that is written"
    if to_format is None:
        what = f"{target}: a file with {unknown_ending(target)} is of no format that is written"
    loads, placements = (", ".join(keys(ability)) for ability in _WRITE)
    raise ValueError(f"{what}; use {loads} for loads, {placements} for a placement")
