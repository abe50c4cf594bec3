"""``evenload convert``: loads or a placement from one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import Gpus, Layers, Nodes


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Loads or a placement, in any format that evenload reads."
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Where it goes. Loads: a .npz, .npy, .csv (one window) or .parquet file. "
            "Placements: .json or .npz (evenload's own), .pt (SGLang), .yaml (TensorRT-LLM), or "
            "what --to says.",
        ),
    ],
    from_format: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME", help="Format of IN. Default: told by what is in it."
        ),
    ] = None,
    to_format: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="NAME",
            help="Format of OUT: sglang, tensorrt-llm, vllm-ascend, evenload or evenload-npz for "
            "placements; npz, npy, csv or parquet for loads. Default: by OUT's ending.",
        ),
    ] = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    experts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Experts of a layer, where IN does not say it."),
    ] = None,
    layers: Layers = None,
    window: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Take window N of loads alone (from 0, or from the end: -1). Default: all.",
        ),
    ] = None,
) -> None:
    """Convert loads or a placement from one format to another.

    What OUT has no place for is said on stderr, and what cannot be left out is refused. A trace is
    converted window by window.
    """
    from evenload.cli.converting import convert_loads, convert_placement, named_layers, wanted_kind
    from evenload.cli.screen import say_notes
    from evenload.io import PlacementShape, read_anything

    shape = PlacementShape(gpus, nodes, experts)
    model = named_layers(layers)
    prefer = wanted_kind(target, to_format)
    found = read_anything(source, shape, format=from_format, prefer=prefer)
    if found.loads is not None:
        say_notes(found.loads.notes)
        convert_loads(found.loads, model, window, target, to_format)
    elif found.placement is not None:
        say_notes(found.placement.notes)
        convert_placement(found.placement, model, window, target, to_format)
