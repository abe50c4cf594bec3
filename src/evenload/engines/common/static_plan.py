"""A placement that was planned ahead, for engines that have no file for one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from evenload.engines.common.agree import digest

if TYPE_CHECKING:
    from evenload.placement import Placement


@dataclass(frozen=True, eq=False)
class StaticPlan:
    """What a file says is to run.

    Parameters
    ----------
    source : str
        The file.
    placement : Placement
    """

    source: str
    placement: Placement

    @property
    def digest(self) -> str:
        """Tells it from other placements, on every machine alike."""
        placed = np.ascontiguousarray(self.placement.physical_to_logical, "<i8")
        shape = (*placed.shape, self.placement.num_experts, self.placement.cluster.num_gpus)
        return digest(repr(shape).encode(), placed.tobytes()).hex()

    def check(self, num_layers: int, num_experts: int, num_slots: int, num_ranks: int) -> None:
        """Raise `ValueError` unless it is a placement of such a model on such ranks."""
        placement = self.placement
        has = (*placement.physical_to_logical.shape, placement.num_experts,
               placement.cluster.num_gpus)  # fmt: skip
        wanted = (num_layers, num_slots, num_experts, num_ranks)
        if has != wanted:
            raise ValueError(
                f"{self.source} is for (layers, slots, experts, GPUs) = {has}, and the engine runs "
                f"{wanted}; plan for those"
            )


@cache
def static_plan(path: str) -> StaticPlan:
    """Read a placement, once in a process: at registration, so that no later change counts.

    Raises
    ------
    OSError, ValueError
        If there is no such file, it holds no placement, or one with dead GPUs or GPUs of different
        numbers of slots, which these engines do not have.
    """
    from evenload.io import read_placement_file

    placement = read_placement_file(path).placement
    cluster = placement.cluster
    if not cluster.all_alive or len(set(cluster.slots)) > 1:
        raise ValueError(
            f"{path} is for GPUs that are gone, or have different numbers of slots; plan for GPUs "
            "that are all alive and alike"
        )
    return StaticPlan(path, placement)
