"""Steps that come before planning: outputs that can work, loads read, a cluster."""

from __future__ import annotations

from pathlib import Path

from evenload.cli.screen import say_notes
from evenload.cluster import Cluster
from evenload.formats import LoadFile, check_placement_path, read_load
from evenload.report.heatmap import check_plot_path


def check_outputs(output: Path | None, plot: Path | None) -> None:
    """Raise `ValueError` for an output that could not be written, before any work is done."""
    if output is not None:
        check_placement_path(output)
    if plot is not None:
        check_plot_path(plot)


def open_loads(path: Path, window: int | None, experts: int | None) -> LoadFile:
    """Read loads and tell on stderr what had to be assumed."""
    file = read_load(path, window, num_experts=experts)
    say_notes(file.notes)
    return file


def cluster_for(gpus: int, nodes: int, slots: int | None, num_experts: int) -> Cluster:
    """Return the cluster; without `slots` as few on each GPU as hold every expert once."""
    if slots is not None:
        return Cluster(gpus, nodes, num_slots=slots)
    cluster = Cluster.smallest_for(num_experts, gpus, nodes)
    more = cluster.num_slots + cluster.num_gpus
    say_notes(
        [
            f"no --slots: {cluster.num_slots} for {num_experts} experts; one more on each GPU for "
            f"replicas of busy experts would be --slots {more}"
        ]
    )
    return cluster
