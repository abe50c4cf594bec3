"""What a file format is, and what comes out of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.layers import ModelLayers
from evenload.placement import Placement
from evenload.trace import ArrayWindows, Trace, Windows

Float = NDArray[np.float64]

# 16 GiB as float64. A header may claim any size; past this we say so instead of swapping.
MAX_ELEMENTS = 2**31


class FileFormatError(ValueError):
    """A file that cannot be read as what it is meant to be; the message starts with its name.

    What is quoted from the file may be anything: what does not print is shown escaped, so that the
    message stays one line.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else _escaped(c) for c in message))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


class ClusterMissingError(FileFormatError):
    """A placement whose file does not say on how many GPUs it is, and nobody else said it."""


@dataclass(frozen=True)
class RawLoad:
    """What a load format reads, before it is checked and summed.

    Parameters
    ----------
    array : ndarray, [T, L, E], [L, E] or [E]
        Tokens routed to each expert, as the file has them.
    notes : tuple of str
        What the reader had to assume, one sentence each.
    layers : ModelLayers or None
        The model's numbers of the rows, where the file says them.
    """

    array: NDArray[Any]
    notes: tuple[str, ...] = ()
    layers: ModelLayers | None = None


@dataclass(frozen=True)
class RawTrace:
    """Windows that a format reads one at a time.

    Parameters
    ----------
    windows : Windows
        Where they come from.
    notes : tuple of str
        What the reader had to assume, one sentence each.
    layers : ModelLayers or None
        The model's numbers of the rows, where the file says them.
    """

    windows: Windows
    notes: tuple[str, ...] = ()
    layers: ModelLayers | None = None

    @classmethod
    def of(cls, raw: RawLoad) -> RawTrace:
        """Return the windows of a load that was read at once; one without windows is one."""
        array = raw.array
        windows = array if array.ndim == 3 else np.atleast_2d(array)[None]
        return cls(ArrayWindows(windows), raw.notes, raw.layers)


@dataclass(frozen=True, eq=False)
class LoadFile:
    """A load read from a file.

    Parameters
    ----------
    load : float64 ndarray, [L, E]
        Tokens routed to each expert: one window of the trace, or the sum over all of them.
    trace : float64 ndarray [T, L, E], Trace or None
        Loads over time, where the file has windows; a `Trace` where they are read as they are
        asked for.
    source : str
        The path as it was given.
    format : str
        Name of the format that read it.
    window : int or None
        The window that was picked, counted from 0; None for all of them together.
    notes : tuple of str
        What the reader had to assume, one sentence each.
    layers : ModelLayers or None
        The model's numbers of the L layers, where the file says them.
    """

    load: Float
    trace: Float | Trace | None
    source: str
    format: str
    window: int | None = None
    notes: tuple[str, ...] = ()
    layers: ModelLayers | None = None

    @property
    def num_windows(self) -> int:
        """Windows T of the file; 1 where it has no window axis."""
        return 1 if self.trace is None else self.trace.shape[0]


@dataclass(frozen=True, eq=False)
class PlacementFile:
    """A placement read from or written to a file, with what is known of its origin.

    Parameters
    ----------
    placement : Placement
    source : str
        The path it is read from or written to, as it was given.
    solver : str or None
        Name of the solver that made it.
    load_digest : str or None
        Digest of the load that it was made for, see `evenload.formats.digest.load_digest`.
    layers : ModelLayers or None
        The model's numbers of the placement's layers, where they are known.
    notes : tuple of str
        What the reader had to assume, one sentence each.
    """

    placement: Placement
    source: str = ""
    solver: str | None = None
    load_digest: str | None = None
    layers: ModelLayers | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlacementShape:
    """What a caller says of a placement, for files that do not have it; None is not said.

    Parameters
    ----------
    num_gpus, num_nodes, num_experts : int, optional
        GPUs G, nodes N and logical experts E.
    agree : bool
        Whether a file that says them too has to say the same; else the file is believed.
    """

    num_gpus: int | None = None
    num_nodes: int | None = None
    num_experts: int | None = None
    agree: bool = True


@dataclass(frozen=True)
class Format:
    """One file format: how to recognise it, and what can be done with it.

    A module of this package, or of an engine's package in `evenload.engines`, that has such an
    object named ``FORMAT`` is a known format.

    Parameters
    ----------
    name : str
        Short name, as shown to people.
    suffixes : tuple of str
        File name endings in lower case, with their dot.
    written_to : tuple of str
        Endings that mean this format when a file is written and no format is named.
    many : bool
        Whether a pattern of several files' names can be read.
    summary : str
        What a file of this format holds, in one line.
    recognises : callable, path -> bool, optional
        For formats told by more than the file's ending: a folder, or content. Asked before any
        ending is compared; a file that no format recognises goes by its ending.
    read_load : callable, (path, num_experts or None) -> RawLoad, optional
    read_trace : callable, (path, num_experts or None) -> RawTrace, optional
        For formats that can be read window by window; the others are read at once. A format that
        has only this one is never held whole: a load is the sum of its windows as they pass.
    read_topk : callable, path -> integer ndarray [tokens, L, k] or None, optional
        The experts that each token was routed to, where the file has them.
    read_placement : callable, (path, PlacementShape) -> PlacementFile, optional
        What the file does not have is taken from the shape; what both have must agree.
    write_placement : callable, (binary stream, PlacementFile) -> tuple of str, optional
        Returns what the format does not hold and was left out, one sentence each; what cannot be
        left out it refuses by a `ValueError`.
    write_load : callable, (binary stream, RawTrace) -> tuple of str, optional
        As `write_placement`. Asks for each window once, in order.
    """

    name: str
    suffixes: tuple[str, ...]
    summary: str
    recognises: Callable[[Path], bool] | None = None
    read_load: Callable[[Path, int | None], RawLoad] | None = None
    read_trace: Callable[[Path, int | None], RawTrace] | None = None
    read_topk: Callable[[Path], NDArray[Any] | None] | None = None
    read_placement: Callable[[Path, PlacementShape], PlacementFile] | None = None
    write_placement: Callable[[BinaryIO, PlacementFile], tuple[str, ...]] | None = None
    write_load: Callable[[BinaryIO, RawTrace], tuple[str, ...]] | None = None
    written_to: tuple[str, ...] = ()
    many: bool = False

    def ends(self, path: Path) -> bool:
        """Whether files of this format have the ending of `path`."""
        return path.suffix.lower() in self.suffixes

    def can(self, ability: str) -> bool:
        """Whether this format has the function of that name; windows can be read as a load too."""
        if ability == "read_load" and self.read_trace is not None:
            return True
        return getattr(self, ability) is not None
