"""The other ranks of an expert-parallel group, reached over a group on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from evenload.engines.common.options import Options


@dataclass(frozen=True, eq=False)
class Ranks:
    """A group whose members compare what they plan.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup
        A group on the CPU.
    timeout : float
        Seconds that a rank waits for the others.
    """

    group: Any
    timeout: float

    @property
    def rank(self) -> int:
        """Number of this process in the group."""
        return int(self.group.rank())

    def gather(self, mine: bytes) -> list[bytes]:
        """Collect what every rank hands in, equally many bytes each.

        Raises
        ------
        RuntimeError
            If a rank hands in nothing in time. Nothing has moved by then.
        """
        import torch
        import torch.distributed as dist

        sent = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        received = [torch.empty_like(sent) for _ in range(self.group.size())]
        try:
            work = dist.all_gather(received, sent, group=self.group, async_op=True)
            work.wait(timedelta(seconds=self.timeout))
        except RuntimeError as error:
            raise RuntimeError(
                f"not every rank compared its plan within {self.timeout:g} s; install evenload on "
                "every node, with the same EVENLOAD_* settings"
            ) from error
        return [bytes(part.numpy().tobytes()) for part in received]


def reachable(group: Any, options: Options) -> Ranks | None:
    """Return the members of a group that are to compare; None for one rank or no group."""
    if group is None or group.size() == 1:
        return None
    return Ranks(group, options.agree_timeout)
