"""``evenload inspect``: what a file is, and what is odd in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenload.cli.options import AsJson, Gpus, Nodes


def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Loads or a placement, in any format that evenload reads."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Its format. Default: told by what is in it."),
    ] = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    experts: Annotated[
        int | None,
        typer.Option(metavar="N", help="Experts of a layer, where the file does not say it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a file is: loads or a placement, its shape, skew and drift, and what is odd in it.

    Loads are read window by window, so that a trace may be larger than memory.
    """
    import json
    import sys

    from evenload.cli.inspecting import facts_of
    from evenload.cli.screen import say_notes
    from evenload.io import PlacementShape
    from evenload.report.inspect import print_facts

    facts = facts_of(file, format, PlacementShape(gpus, nodes, experts))
    say_notes(facts.plain["notes"])
    if as_json:
        typer.echo(json.dumps(facts.plain))
    else:
        print_facts(facts, sys.stdout)
