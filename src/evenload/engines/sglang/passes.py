"""SGLang's recorder in modes per_pass and per_token: each rank's counts of each forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenload.engines.archives.kept import used_cells, without_dense
from evenload.engines.sglang.records import RECORDS, RankFile, Record, read_rank_file
from evenload.engines.sglang.slots import MAP, Slots
from evenload.formats.base import FileFormatError, RawTrace

__all__ = ["RECORDS", "PassWindows", "read_passes"]


def read_passes(files: list[Path], where: str) -> RawTrace:
    """Read the forward passes of one or more ranks' dumps, summed over the ranks.

    Parameters
    ----------
    files : list of Path
    where : str
        What was asked for, for messages.

    Raises
    ------
    FileFormatError
        If a file has no such records, a rank is missing between others, a record is there twice, or
        they do not fit each other.
    """
    recorded = PassWindows(files)
    used = used_cells(recorded)
    passes = np.flatnonzero(used.any(axis=1))
    notes = [*_rank_notes(recorded, where), *_map_notes(recorded, where)]
    if passes.size < len(used):
        notes.append(
            f"{where}: {len(used) - passes.size} of {len(used)} forward passes have no token and "
            "are left out"
        )
    return without_dense(recorded, passes, used, where, notes=notes)


def _rank_notes(recorded: PassWindows, where: str) -> list[str]:
    ranks = recorded.ranks
    if len(recorded.files) == 1:
        return [
            f"{where}: this is what rank {ranks[0]} counted; where there are more ranks, give "
            "the folder with all their files, or a pattern"
        ]
    for rank in range(max(ranks)):
        if rank not in ranks:
            raise FileFormatError(
                f"{where}: no file of rank {rank}, and there is one of rank {max(ranks)}; give the "
                "files of all ranks"
            )
    partial = [n for n, records in recorded.passes if len({r.rank for r in records}) < len(ranks)]
    if not partial:
        return []
    return [
        f"{where}: {len(partial)} of {len(recorded.passes)} forward passes are not in the files of "
        f"all {len(ranks)} ranks (the first is {partial[0]}); they have the tokens of those that "
        "have them"
    ]


def _map_notes(recorded: PassWindows, where: str) -> list[str]:
    if all(slots.trivial for slots in recorded.slots):
        return []
    return [
        f"{where}: slots are taken for the experts of {MAP}, the last map; passes before a "
        "rebalance, if there was one while recording, are counted wrong"
    ]


class PassWindows:
    """Forward passes of several ranks' files, summed as they are asked for.

    Parameters
    ----------
    paths : list of Path
    """

    def __init__(self, paths: list[Path]) -> None:
        self.files: list[RankFile] = [read_rank_file(path) for path in paths]
        self.slots = [file.slots for file in self.files]
        _check_models(self.files)
        self.ranks = sorted({record.rank for file in self.files for record in file.records})
        self.passes = _by_pass(self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts."""
        slots = self.slots[0]
        return len(self.passes), slots.shape[0], slots.num_experts

    def read(self, number: int) -> NDArray[np.float64]:
        """Return the tokens of one forward pass, [L, E]."""
        records = self.passes[number][1]
        counts = np.zeros(records[0].slots.shape)
        for record in records:
            counts += record.read()
        return records[0].slots.sum(counts)


def _check_models(files: list[RankFile]) -> None:
    first = files[0]
    for file in files:
        ours, theirs = _model(file.slots), _model(first.slots)
        if ours != theirs:
            raise FileFormatError(
                f"{file.path}: {MAP} is of {ours[0]} layers and {ours[1]} experts, and that of "
                f"{first.path.name} of {theirs[0]} and {theirs[1]}; give dumps of one model"
            )


def _model(slots: Slots) -> tuple[int, int]:
    return slots.shape[0], slots.num_experts


def _by_pass(files: list[RankFile]) -> list[tuple[int, list[Record]]]:
    """Return (number, records) of each forward pass, by number; each record once."""
    passes: dict[int, dict[tuple[int, str], Record]] = {}
    for file in files:
        for record in file.records:
            there = passes.setdefault(record.number, {})
            other = there.get((record.rank, record.key))
            if other is not None:
                raise FileFormatError(
                    f"{record.path}: rank {record.rank} has forward pass {record.number} here and "
                    f"in {other.path.name}; give each recording once"
                )
            first = next(iter(there.values()), record)
            if first.slots.content != record.slots.content:
                raise FileFormatError(
                    f"{record.path}: {MAP} differs from that of {first.path.name}, and both have "
                    f"forward pass {record.number}; give the files of one recording"
                )
            there[record.rank, record.key] = record
    return [(number, list(passes[number].values())) for number in sorted(passes)]
