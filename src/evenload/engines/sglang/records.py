"""The records in one rank's dump."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.checks import whole_number
from evenload.engines.common.tensors import mapped_array
from evenload.engines.common.torch_archive import load_torch
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
    counts : integer ndarray, [L, S]
        Tokens in each slot of all ranks; over the mapped file.
    slots : Slots
        Which expert each of them holds.
    """

    path: Path
    number: int
    rank: int
    key: str
    counts: NDArray[Any]
    slots: Slots

    def check(self) -> None:
        """Raise `FileFormatError` if a count is negative."""
        least = int(self.counts.min())
        if least < 0:
            raise FileFormatError(
                f"{self.path}: forward pass {self.number} has {least} tokens in a slot; counts are "
                "0 or more"
            )


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
    slots = Slots(value[MAP], str(path))
    return RankFile(path, slots, [_record(r, i, path, slots) for i, r in enumerate(records)])


def _record(value: Any, index: int, path: Path, slots: Slots) -> Record:
    name = f"{RECORDS}[{index}]"
    wanted = ("forward_pass_id", "rank", _SLOT_COUNTS)
    missing = [key for key in wanted if not isinstance(value, dict) or key not in value]
    if missing:
        raise FileFormatError(f"{path}: {name} has no key {missing[0]!r}")
    try:
        number, rank = (whole_number(f"{name}.{key}", value[key]) for key in wanted[:2])
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
    counts = mapped_array(value[_SLOT_COUNTS], f"{name}.{_SLOT_COUNTS}", str(path))
    if counts.shape != slots.shape:
        raise FileFormatError(
            f"{path}: {name}.{_SLOT_COUNTS} has shape {counts.shape}, and {MAP} {slots.shape}; "
            "both are [layers, slots]"
        )
    return Record(path, number, rank, str(value.get("gatherer_key", "")), counts, slots)
