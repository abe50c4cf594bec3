"""Steps that come before planning: outputs that can work, loads read, a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.cli.screen import say_notes
from evenload.cluster import Cluster
from evenload.io import (
    LoadFile,
    find_output,
    read_load,
    read_placement_file,
    read_topk,
)
from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.report.figures import check_plot_path
from evenload.trace import Trace


def check_outputs(
    output: Path | None, *plots: Path | None, output_format: str | None = None
) -> None:
    """Raise `ValueError` for an output that could not be written, before any work is done."""
    if output is not None:
        find_output(output, output_format)
    elif output_format is not None:
        raise ValueError("--output-format is of --output; give both, or neither")
    for plot in plots:
        if plot is not None:
            check_plot_path(plot)


def open_loads(
    path: Path, window: int | None, experts: int | None, form: str | None = None
) -> LoadFile:
    """Read loads and tell on stderr what had to be assumed."""
    file = read_load(path, window, num_experts=experts, format=form)
    say_notes(file.notes)
    return file


def open_placement(
    option: str,
    path: Path | None,
    name: str | None,
    gpus: int,
    nodes: int,
    num_experts: int,
    layers: ModelLayers | None,
) -> Placement | None:
    """Read what an option gives, and tell on stderr what had to be assumed; None without it.

    GPUs, nodes and experts are for a file that does not say them, as those of engines; one that
    does may be of other GPUs.

    Raises
    ------
    ValueError
        For a format without a file, or a file that is no placement of these layers.
    """
    if path is None:
        if name is not None:
            raise ValueError(f"{option}-format is of {option}; give both, or neither")
        return None
    file = read_placement_file(
        path,
        num_gpus=gpus,
        num_nodes=nodes,
        num_experts=num_experts,
        agree=False,
        layers=layers,
        format=name,
    )
    say_notes(file.notes)
    return file.placement


def windows_of(file: LoadFile, window: int | None) -> NDArray[Any] | Trace:
    """Return the windows of a trace, for planning what comes after them: [T, L, E].

    Raises
    ------
    ValueError
        If the file has no windows, or one of them was picked.
    """
    if window is not None:
        raise ValueError(
            "--window and --next are two ways to look at a trace; give one of them, or neither"
        )
    if file.trace is None:
        raise ValueError(
            f"--next: {file.source} has one load and no windows; leave --next out, or use a trace "
            "[windows, layers, experts]"
        )
    return file.trace


def routed_experts(
    path: Path, cluster: Cluster, window: int | None, form: str | None = None
) -> NDArray[Any] | None:
    """Read the experts of each token, where the file has them and they may be on several nodes.

    None for one window: a file does not say which of its tokens are in it.
    """
    return read_topk(path, format=form) if cluster.num_nodes > 1 and window is None else None


def speeds(text: str | None) -> list[float] | None:
    """Read the speed of each GPU from a list with commas.

    Raises
    ------
    ValueError
        For an entry that is no number.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--speed {text}: not numbers with commas between; use one for each GPU, e.g. 1,1,2,2"
        ) from None


def living(gpus: int, dead: list[int] | None) -> list[bool] | None:
    """Say of each GPU whether it is alive.

    Raises
    ------
    ValueError
        For the number of a dead GPU that is none, or no GPU left.
    """
    for gpu in dead or []:
        if not 0 <= gpu < gpus:
            raise ValueError(f"--dead {gpu} is no GPU; use 0 to {gpus - 1}")
    if not dead:
        return None
    alive = [gpu not in dead for gpu in range(gpus)]
    if not any(alive):
        raise ValueError(f"--dead: all {gpus} GPUs are gone; leave 1 or more")
    return alive


def slots_for(slots: int | None, redundant: str | None, num_experts: int) -> int | None:
    """Return the slots of a layer, from either way of giving them; None for neither.

    Raises
    ------
    ValueError
        For both at once, or a number of redundant experts that is none.
    """
    if redundant is None:
        return slots
    if slots is not None:
        raise ValueError("--slots and --redundant are two ways to say one thing; give one of them")
    if not redundant.isascii() or not redundant.isdigit():
        raise ValueError(f"--redundant {redundant} is no number; use one of at least 0, or auto")
    return num_experts + int(redundant)


def cluster_for(
    gpus: int,
    nodes: int,
    slots: int | None,
    num_experts: int,
    speed: list[float] | None = None,
    alive: list[bool] | None = None,
) -> Cluster:
    """Return the cluster; without `slots` as few on each GPU as hold every expert once."""
    if slots is not None:
        return Cluster(gpus, nodes, num_slots=slots, speed=speed, alive=alive)
    count = gpus if alive is None else sum(alive)
    smallest = Cluster.smallest_for(num_experts, max(count, 1))
    cluster = Cluster(gpus, nodes, smallest.slots_per_gpu, speed=speed, alive=alive)
    more = cluster.num_slots + cluster.num_gpus
    say_notes(
        [
            f"no --slots: {cluster.num_slots} for {num_experts} experts; one more on each GPU for "
            f"replicas of busy experts would be --slots {more}"
        ]
    )
    return cluster
