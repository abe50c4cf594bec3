"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Loads = Annotated[
    Path,
    typer.Argument(
        metavar="LOADS",
        help="Tokens routed to each expert: a .npz, .npy, .csv or .json file. "
        "A .npz holds `load` [windows, layers, experts] or [layers, experts], or `topk` "
        "[tokens, layers, k]; a .csv has one row a layer and one column an expert.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Take window N of a trace (from 0, or from the end: -1), not the sum of all.",
    ),
]
Experts = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Experts of a layer, for a file of routed experts (`topk`) that does not say it.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw the load of each GPU in each layer, before and after, to a .png, .svg or .pdf.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, not a table.")]
