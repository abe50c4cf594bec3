"""What a report is about: which load, on which cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenload.cluster import Cluster
from evenload.io import LoadFile


@dataclass(frozen=True)
class Context:
    """The load and the cluster that all placements of one report share.

    Parameters
    ----------
    source : str
        Where the load is from: a path, or a few words.
    num_layers, num_experts : int
    cluster : Cluster
    num_groups : int
        Groups of experts that share a node; 1 where there are none.
    num_windows : int
        Windows of the trace.
    window : int or None
        The window that was picked; None where they were summed.
    forecast : bool
        Whether it is the load that is expected after the windows.
    """

    source: str
    num_layers: int
    num_experts: int
    cluster: Cluster
    num_groups: int = 1
    num_windows: int = 1
    window: int | None = None
    forecast: bool = False

    @classmethod
    def of(
        cls, file: LoadFile, cluster: Cluster, num_groups: int = 1, *, forecast: bool = False
    ) -> Context:
        """Return the context of loads that were read from a file."""
        L, E = file.load.shape
        windows = file.num_windows, file.window
        return cls(file.source, L, E, cluster, num_groups, *windows, forecast)

    def title(self) -> str:
        """Say it in one line."""
        c = self.cluster
        return (
            f"{Path(self.source).name}{self._windows()}: {self.num_layers} layers x "
            f"{self.num_experts} experts, {c.num_slots} slots on {c.num_gpus} "
            f"GPU{'s' if c.num_gpus > 1 else ''}{self._gone()}{self._nodes()}"
        )

    def _gone(self) -> str:
        gone = self.cluster.num_gpus - len(self.cluster.living_gpus)
        return f" ({gone} gone)" if gone else ""

    def _windows(self) -> str:
        if self.forecast:
            return f" (forecast after {self.num_windows} windows)"
        if self.window is not None:
            return f" (window {self.window} of {self.num_windows})"
        return f" (sum of {self.num_windows} windows)" if self.num_windows > 1 else ""

    def _nodes(self) -> str:
        nodes = f", {self.cluster.num_nodes} nodes" if self.cluster.num_nodes > 1 else ""
        return nodes + (f", {self.num_groups} groups" if self.num_groups > 1 else "")

    def to_plain(self) -> dict[str, Any]:
        """Return it as nested dicts of plain numbers and strings, for JSON."""
        c = self.cluster
        return {
            "load": {
                "source": self.source,
                "num_layers": self.num_layers,
                "num_experts": self.num_experts,
                "num_windows": self.num_windows,
                "window": self.window,
                "forecast": self.forecast,
            },
            "cluster": c.arguments | {"num_slots": c.num_slots},
            "num_groups": self.num_groups,
        }
