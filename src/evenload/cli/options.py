"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Loads = Annotated[
    Path,
    typer.Argument(
        metavar="LOADS",
        help="Tokens routed to each expert: a .npz, .npy, .csv, .json or .parquet file, or what an "
        "engine recorded (a file, a folder, or a pattern in quotes: 'dump/*.pt'); see --format. "
        "A .npz holds `load` [windows, layers, experts] or [layers, experts], or `topk` "
        "[tokens, layers, k]; a .csv has one row a layer and one column an expert.",
    ),
]
LoadsFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="What the file of loads is: npz, npy, csv, json, parquet, sglang-recorder, "
        "sglang-logical-count, tensorrt-llm-statistics, vllm-routed-experts or vllm-ascend-load. "
        "Default: told by its ending and what is in it. A .npy or .npz or folder of routed experts "
        "[tokens, layers, k] of vLLM's requests has to be named.",
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
GroupGpus = Annotated[int, typer.Option(metavar="G", help="GPUs of the expert-parallel group.")]
GroupNodes = Annotated[
    int, typer.Option(metavar="N", help="Nodes that the GPUs are in, equally many in each.")
]
Gpus = Annotated[
    int | None,
    typer.Option(metavar="G", help="GPUs that a placement is for, where its file does not say it."),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Nodes that these GPUs are in, where the file does not say it. Default: 1.",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="A-B,...",
        help="The model's MoE layers, e.g. 3-60: names those of a file that does not, and takes "
        "these alone of a placement that has others too (SGLang's has dense ones).",
    ),
]
OutputFormat = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Format of --output: evenload, evenload-npz, sglang, tensorrt-llm or vllm-ascend. "
        "Default: by its ending.",
    ),
]
PlacementFormat = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Format of the placement's file, see `evenload convert --to`. Default: told by what "
        "is in it.",
    ),
]
