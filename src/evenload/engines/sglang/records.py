"""The records in one rank's dump."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.checks import whole_number
from evenload.engines.archives.mapped_file import MappedFile
from evenload.engines.archives.tensors import Stored, stored
from evenload.engines.archives.torch_archive import load_torch
from evenload.engines.sglang.slots import MAP, Slots
from evenload.formats.base import FileFormatError

RECORDS = "records"
_SLOT_COUNTS = "global_physical_count"


@dataclass(frozen=True, eq=False)
class Record:
    """What one rank counted in one forward pass.

    Parameters
    ----------
    path : Path
        The file it is in.
    number, rank : int
        Of the forward pass, and of the rank.
    key : str
        SGLang's ``gatherer_key``: which part of the pass it is, where there are several.
    counts : Stored, [L, S]
        Tokens in each slot of all ranks.
    slots : Slots
        Which expert each of them holds.
    """

    path: Path
    number: int
    rank: int
    key: str
    counts: Stored
    slots: Slots

    def read(self) -> NDArray[Any]:
        """Return the counts; raise `FileFormatError` if one is negative."""
        counts = self.counts.read()
        if counts.min() < 0:
            raise FileFormatError(
                f"{self.path}: forward pass {self.number} has {counts.min()} tokens in a slot; "
                "counts are 0 or more"
            )
        return counts


@dataclass(frozen=True, eq=False)
class RankFile:
    """One rank's dump.

    Parameters
    ----------
    path : Path
    slots : Slots
    records : list of Record
    """

    path: Path
    slots: Slots
    records: list[Record]


def read_rank_file(path: Path) -> RankFile:
    """Read where the records of a dump are; their counts stay in the file.

    Raises
    ------
    FileFormatError
        If the file is damaged, or has no such records.
    """
    value = load_torch(path)
    if not isinstance(value, dict) or MAP not in value or RECORDS not in value:
        raise FileFormatError(f"{path}: no keys {RECORDS!r} and {MAP!r}, or one of them")
    records = value[RECORDS]
    if not isinstance(records, list) or not records:
        raise FileFormatError(f"{path}: {RECORDS} is an empty list, or none; nothing was recorded")
    file = MappedFile(path)
    slots = Slots(value[MAP], file)
    return RankFile(path, slots, [_record(r, i, file, slots) for i, r in enumerate(records)])


def _record(value: Any, index: int, file: MappedFile, slots: Slots) -> Record:
    path = file.path
    name = f"{RECORDS}[{index}]"
    wanted = ("forward_pass_id", "rank", _SLOT_COUNTS)
    missing = [key for key in wanted if not isinstance(value, dict) or key not in value]
    if missing:
        raise FileFormatError(f"{path}: {name} has no key {missing[0]!r}")
    try:
        number, rank = (whole_number(f"{name}.{key}", value[key]) for key in wanted[:2])
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
    counts = stored(value[_SLOT_COUNTS], f"{name}.{_SLOT_COUNTS}", file, "layers", "slots")
    if counts.shape != slots.shape:
        raise FileFormatError(
            f"{path}: {name}.{_SLOT_COUNTS} has shape {counts.shape}, and {MAP} {slots.shape}; "
            "both are [layers, slots]"
        )
    return Record(path, number, rank, str(value.get("gatherer_key", "")), counts, slots)
