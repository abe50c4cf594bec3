"""Options of the commands that replay a trace, and what they come to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evenload.cost import CostModel
    from evenload.trace import Trace

TraceFile = Annotated[
    Path,
    typer.Argument(
        metavar="TRACE",
        help="Tokens routed to each expert, window by window: a .npz with `load`, a .npy or a "
        ".json, [windows, layers, experts], a .parquet, or what an engine recorded; see --format.",
    ),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="never, once, every-N (each also with a solver: every-4:joint), deepseek, vllm or "
        "evenload; options of the solver after commas: every-4:joint,effort=fast. May be given "
        "repeatedly. Default: never, once, deepseek, evenload.",
    ),
]
WarmStart = Annotated[
    int, typer.Option(metavar="N", help="Windows that are seen before the first is served.")
]
Groups = Annotated[
    int,
    typer.Option(metavar="N", help="Groups of experts that routing keeps on one node."),
]
Hardware = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What a second is: h100-ib, h200-ib, h800-ib, ascend-910c, ascend-910b, l40s-pcie "
        "or h100-pcie.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Whose experts move: deepseek-v3, deepseek-r1, deepseek-v2-lite, qwen3-235b-a22b, "
        "qwen3-30b-a3b, gpt-oss-20b, gpt-oss-120b, kimi-k2, glm-4.5, mixtral-8x7b or "
        "mixtral-8x22b.",
    ),
]
Costs = Annotated[
    list[str] | None,
    typer.Option(
        "--cost",
        metavar="NAME=X",
        help="Another number of the cost model: tokens_per_second, expert_bytes, "
        "bandwidth_in_node, bandwidth_between_nodes (bytes a second), latency (seconds) or "
        "overlap (0 to 1). May be given repeatedly.",
    ),
]
Sample = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Part of the served tokens that the trace has recorded: 0.01 for one in a hundred.",
    ),
]
OracleName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Who plans each window on itself, for the regret: fast, a solver, auto, or none.",
    ),
]
NoDelay = Annotated[
    bool,
    typer.Option(
        "--no-delay", help="Let moves take effect at once; they still cost what they cost."
    ),
]


DEFAULT_POLICIES = ["never", "once", "deepseek", "evenload"]


def cost_of(hardware: str, model: str, costs: list[str] | None) -> CostModel:
    """Return the cost model that the options describe.

    Raises
    ------
    ValueError
        For an unknown name, or what is no number.
    """
    from evenload.cost import CostModel

    numbers = {}
    for text in costs or []:
        name, _, value = text.partition("=")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ValueError(f"--cost {text}: no number; write it as overlap=0.9") from None
    return CostModel.preset(hardware, model, **numbers)


def oracle_of(name: str) -> str | None:
    """Return the oracle's name as `evenload.replay` takes it."""
    return None if name == "none" else name


def open_trace(path: Path, experts: int | None, form: str | None = None) -> Trace:
    """Open a trace and tell on stderr what had to be assumed."""
    from evenload.cli.screen import say_notes
    from evenload.io import read_trace

    trace = read_trace(path, num_experts=experts, format=form)
    say_notes(trace.notes)
    return trace


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar where stderr is a terminal; yields a function of done and all."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*shown, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
