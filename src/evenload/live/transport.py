"""How experts and numbers get from rank to rank: an abstract transport, and torch.distributed's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

BACKENDS = ("gloo", "nccl")


class BrokenError(RuntimeError):
    """A group of ranks can no longer be used: one has died, or did not come in time."""


class Message(NamedTuple):
    """A tensor on its way."""

    rank: int  #: it goes to, or comes from
    tag: int  #: the same on both sides
    tensor: Any  #: contiguous bytes, read or written in place


class Transport(Protocol):
    """What a transaction needs of a group of ranks. All raise `BrokenError` if a rank is gone."""

    def exchange(self, sent: Sequence[Message], received: Sequence[Message]) -> None:
        """Send and receive, all at once, and return when all of it is through."""

    def most(self, numbers: Sequence[int]) -> list[int]:
        """Return for each place the largest of the numbers of all ranks."""

    def close(self) -> None:
        """Leave the group, so that ranks which wait for this one fail at once."""


class TorchTransport:
    """A group of its own on torch.distributed, outside the default process group.

    Parameters
    ----------
    store : torch.distributed.Store
        Where ranks tell each other their addresses; for this group alone.
    rank : int
        This one's number.
    ranks : sequence of int
        Numbers of all, in the order of their places in the group.
    timeout : float
        Seconds after which an operation fails; with gloo, and all connections of this rank with it.
    backend : {"gloo", "nccl"}
        NCCL was never run with more than one rank.

    Raises
    ------
    BrokenError
        If not all come within `timeout`.

    Notes
    -----
    An exception that is kept keeps its frames, and with them works, the group and its connections,
    so that peers wait for their timeout and not .1 s. So errors leave as texts only.
    """

    def __init__(
        self, store: Any, rank: int, ranks: Sequence[int], timeout: float, backend: str = "gloo"
    ) -> None:
        self.ranks = tuple(ranks)
        self.group: Any = None
        self._nccl = backend == "nccl"
        failure = self._connect(store, self.ranks.index(rank), timeout)
        if failure:
            raise BrokenError(failure)
        self.most([0])  # none goes on, or away, before all are connected

    def _connect(self, store: Any, place: int, timeout: float) -> str:
        from torch import distributed

        try:
            if self._nccl:
                options = distributed.ProcessGroupNCCL.Options()
                options._timeout = timedelta(seconds=timeout)
                self.group = distributed.ProcessGroupNCCL(store, place, len(self.ranks), options)
            else:  # gloo waits for a peer that has gone five times as long as it is told
                short = timedelta(seconds=timeout / 2)
                self.group = distributed.ProcessGroupGloo(store, place, len(self.ranks), short)
                self.group.set_timeout(timedelta(seconds=timeout))
        except RuntimeError as error:
            return f"no group of ranks {self.ranks}: {error}"
        return ""

    def exchange(self, sent: Sequence[Message], received: Sequence[Message]) -> None:
        """Send and receive, all at once, and return when all of it is through."""
        failure = self._exchange(sent, received)
        if failure:
            self.close()
            raise BrokenError(failure)

    def _exchange(self, sent: Sequence[Message], received: Sequence[Message]) -> str:
        group, place, works = self.group, self.ranks.index, []
        if group is None:
            return "the group is closed"
        device = next((message.tensor.device for message in (*sent, *received)), None)
        try:
            if self._nccl and device is not None:
                group._start_coalescing(device)
            for message in received:  # first: a send over gloo waits for its receiver anyway
                works.append(group.recv([message.tensor], place(message.rank), message.tag))
            for message in sent:
                works.append(group.send([message.tensor], place(message.rank), message.tag))
            if self._nccl and device is not None:
                works = [group._end_coalescing(device)]
            for work in works:
                work.wait()
        except RuntimeError as error:
            return str(error)
        return ""

    def most(self, numbers: Sequence[int]) -> list[int]:
        """Return for each place the largest of the numbers of all ranks."""
        result, failure = self._most(numbers)
        if failure:
            self.close()
            raise BrokenError(failure)
        return result

    def _most(self, numbers: Sequence[int]) -> tuple[list[int], str]:
        import torch

        group = self.group
        if group is None:
            return [], "the group is closed"
        options = torch.distributed.AllreduceOptions()
        options.reduceOp = torch.distributed.ReduceOp.MAX
        tensor = torch.tensor(numbers, dtype=torch.int64, device="cuda" if self._nccl else "cpu")
        try:
            group.allreduce([tensor], options).wait()
        except RuntimeError as error:
            return [], str(error)
        return [int(number) for number in tensor.tolist()], ""

    def close(self) -> None:
        """Leave the group, so that ranks which wait for this one fail at once.

        Dropping the last reference closes gloo's connections. A thread that still waits in it has
        one of its own until its wait is over.
        """
        if self._nccl and self.group is not None:
            self.group.abort()
        self.group = None
