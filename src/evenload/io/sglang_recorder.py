"""What SGLang's expert distribution recorder dumps, in each of its modes.

**stat** (and stat_approx): one file, ``logical_count`` [steps, model layers, experts], summed over
the ranks by SGLang itself. Each step is a window. Steps lie in a ring of rows that a new recording
goes on filling where the last one stopped; rows never written are zero.

**per_pass** and **per_token**: a file a rank, with what that rank alone counted in each slot in
each forward pass. They are summed over the ranks, and each forward pass is a window, in the order
of their numbers. Slots are taken for the experts of the file's ``last_physical_to_logical_map``.
``topk_ids_of_layer`` of per_token says the same, token by token, and is not read.

**Several files** are given as a folder or as a pattern. Dumps of one after the other are put
together: stat dumps by the time in their names, the others by their passes' numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.checks import whole_number
from evenload.io.base import FileFormatError, RawTrace, checking
from evenload.io.files import files_of, has_mark
from evenload.io.json import keys_found
from evenload.io.npy import StoredArray
from evenload.io.recorded import used_cells, without_dense
from evenload.io.torch_file import load_torch, stored

_COUNTS = "logical_count"
_RECORDS = "records"
_MAP = "last_physical_to_logical_map"
_SLOT_COUNTS = "global_physical_count"
_NAMED = "*expert_distribution_recorder*.pt"
_TIME = re.compile(r"recorder_(\d+(?:\.\d+)?)")


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read a file, folder or pattern; windows are read from the files as they are asked for."""
    files = files_of(path, ".pt")
    if path.is_dir():
        files = [f for f in files if f.match(_NAMED)] or files
    if not files:
        raise FileFormatError(f"{path}: no .pt file in this folder; give the recorder's")
    modes = {_mode(file): file for file in files}
    if len(modes) > 1:
        stat, other = modes[_COUNTS], modes[_RECORDS]
        raise FileFormatError(
            f"{path}: {stat.name} is a dump of mode stat, and {other.name} of another mode; give "
            "the files of one recording"
        )
    return (_read_steps if _COUNTS in modes else _read_passes)(files, str(path))


def _mode(file: Path) -> str:
    """Return the key that a dump has, looking at its pickle's ends only."""
    for key in (_COUNTS, _RECORDS):
        if has_mark(file, f"X{chr(len(key))}\0\0\0{key}"):  # as pickles write a text
            return key
    keys = keys_found(load_torch(file))
    raise FileFormatError(f"{file}: no key {_COUNTS!r} or {_RECORDS!r}; found: {keys}")


def _counted(counts: NDArray[Any], where: str, what: str = "") -> NDArray[Any]:
    if counts.min() < 0:
        raise FileFormatError(f"{where} has {counts.min()}{what}; counts are 0 or more")
    return counts


# ---- stat ----------------------------------------------------------------------------------------


def _read_steps(files: list[Path], where: str) -> RawTrace:
    """Read the counts of one or more dumps, the rows of each in the order of their ring."""
    recorded = StepWindows(sorted(files, key=_time))
    used, kept, notes = used_cells(recorded), [], list[str]()
    for file, end, rows in zip(recorded.files, recorded.ends, recorded.rows, strict=True):
        order, assumed = _written_rows(np.any(used[end - rows : end], axis=1), str(file))
        kept.append(order + end - rows)
        notes += assumed
    return without_dense(recorded, np.concatenate(kept), used, where, notes=notes)


def _time(file: Path) -> tuple[float, str]:
    found = _TIME.search(file.name)
    return (float(found[1]) if found else 0.0), file.name


def _written_rows(used: NDArray[np.bool_], where: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return the rows of a ring that have tokens, oldest first, and what that had to assume."""
    rows = np.flatnonzero(used)
    empty = used.size - rows.size
    if rows.size == 0 or used.size == 1:
        return rows, []
    if empty == 0:
        return rows, [
            f"{where}: every one of its {used.size} rows is used; where the recording was longer, "
            "the oldest step may be in any of them, and the order of windows is the file's"
        ]
    notes = [f"{where}: {empty} of {used.size} rows are all zero and left out, as never written"]
    gaps = np.flatnonzero(np.diff(rows) > 1)
    if gaps.size == 1 and used[0] and used[-1]:
        # The recorder goes on behind its last dump, and round the end of its buffer.
        notes.append(
            f"{where}: the unused rows are in the middle, so that the recording began at row "
            f"{rows[gaps[0] + 1]} and went on at row 0; its windows are put in that order"
        )
        rows = np.roll(rows, -int(gaps[0]) - 1)
    return rows, notes


class StepWindows:
    """Rows of the counts of several dumps, one after the other."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self._counts = [_step_counts(file).windows for file in files]
        first = self._counts[0].shape
        for file, counts in zip(files, self._counts, strict=True):
            if counts.shape[1:] != first[1:]:
                raise FileFormatError(
                    f"{file}: {_COUNTS} has shape {counts.shape}, and that of {files[0].name} "
                    f"{first}; give dumps of one model"
                )
        self.rows = [counts.shape[0] for counts in self._counts]
        self.ends = np.cumsum(self.rows).tolist()
        self.shape = self.ends[-1], *first[1:]

    def read(self, number: int) -> NDArray[Any]:
        """Return one row, [L, E]."""
        index = int(np.searchsorted(self.ends, number, "right"))
        step = number - self.ends[index] + self.rows[index]
        return _counted(self._counts[index].read(step), f"{self.files[index]}: {_COUNTS}[{step}]")


def _step_counts(path: Path) -> RawTrace:
    value = load_torch(path)
    counts = value.get(_COUNTS) if isinstance(value, dict) else None
    axes = ["steps", "layers", "experts"]
    if len(getattr(counts, "shape", axes)) == 2:  # SGLang's dump of one step
        del axes[0]
    return stored(counts, _COUNTS, path, *axes).trace()


# ---- per_pass and per_token ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Record:
    """What one rank counted in one forward pass: tokens in each slot of all ranks, [L, S].

    `key` is SGLang's ``gatherer_key``: which part of the pass it is, where there are several.
    `experts` [L, S] are those of the slots, one array for all records of a file.
    """

    path: Path
    number: int
    rank: int
    key: str
    counts: StoredArray
    experts: NDArray[Any]


def _read_records(path: Path) -> list[Record]:
    """Read where the records of one rank's dump are; their counts stay in the file."""
    value = load_torch(path)
    if not isinstance(value, dict) or _MAP not in value or _RECORDS not in value:
        raise FileFormatError(f"{path}: no keys {_RECORDS!r} and {_MAP!r}, or one of them")
    records = value[_RECORDS]
    if not isinstance(records, list) or not records:
        raise FileFormatError(f"{path}: {_RECORDS} is an empty list, or none; nothing was recorded")
    experts = stored(value[_MAP], _MAP, path, "layers", "slots").whole()
    _check_map(experts, path)
    return [_record(record, f"{_RECORDS}[{i}]", path, experts) for i, record in enumerate(records)]


def _check_map(experts: NDArray[Any], path: Path) -> None:
    S, least, most = experts.shape[1], int(experts.min()), int(experts.max())
    if least < 0 or most >= S:
        bad = least if least < 0 else most
        raise FileFormatError(
            f"{path}: {_MAP} has expert {bad} among {S} slots; use 0 to {S - 1} at most"
        )
    for layer, row in enumerate(experts):
        there = np.bincount(row.astype(np.int64), minlength=most + 1)
        if not there.all():
            raise FileFormatError(
                f"{path}: {_MAP} has no slot of expert {int(there.argmin())} in layer {layer}; "
                f"every expert from 0 to {most} needs one"
            )


def _record(value: Any, name: str, path: Path, experts: NDArray[Any]) -> Record:
    numbers = []
    for key in ("forward_pass_id", "rank", _SLOT_COUNTS):
        if not isinstance(value, dict) or key not in value:
            raise FileFormatError(f"{path}: {name} has no key {key!r}")
    for key in ("forward_pass_id", "rank"):
        # A list in a pickle may name itself, or one list a million times over: never shown.
        number = value[key] if isinstance(value[key], int | float) else type(value[key])
        with checking(str(path)):
            numbers.append(whole_number(f"{name}.{key}", number))
    counts = stored(value[_SLOT_COUNTS], f"{name}.{_SLOT_COUNTS}", path, "layers", "slots")
    if counts.shape != experts.shape:
        raise FileFormatError(
            f"{path}: {name}.{_SLOT_COUNTS} has shape {counts.shape}, and {_MAP} {experts.shape}; "
            "both are [layers, slots]"
        )
    part = value.get("gatherer_key")
    part = part if isinstance(part, str) else ""
    return Record(path, numbers[0], numbers[1], part, counts, experts)


def _read_passes(files: list[Path], where: str) -> RawTrace:
    """Read the forward passes of one or more ranks' dumps, summed over the ranks."""
    recorded = PassWindows([_read_records(file) for file in files])
    used = used_cells(recorded)
    passes = np.flatnonzero(used.any(axis=1))
    notes = _rank_notes(recorded, len(files), where)
    if not recorded.trivial:
        notes.append(
            f"{where}: slots are taken for the experts of {_MAP}, the last map; passes before a "
            "rebalance, if there was one while recording, are counted wrong"
        )
    if passes.size < len(used):
        notes.append(
            f"{where}: {len(used) - passes.size} of {len(used)} forward passes have no token and "
            "are left out"
        )
    return without_dense(recorded, passes, used, where, notes=notes)


def _rank_notes(recorded: PassWindows, num_files: int, where: str) -> list[str]:
    ranks = recorded.ranks
    if num_files == 1:
        return [
            f"{where}: this is what rank {ranks[0]} counted; where there are more ranks, give "
            "the folder with all their files, or a pattern"
        ]
    gone = next((rank for rank, there in enumerate(ranks) if rank != there), None)
    if gone is not None:
        raise FileFormatError(
            f"{where}: no file of rank {gone}, and there is one of rank {ranks[-1]}; give the "
            "files of all ranks"
        )
    every = recorded.passes
    partial = [part[0].number for part in every if len({r.rank for r in part}) < len(ranks)]
    if not partial:
        return []
    return [
        f"{where}: {len(partial)} of {len(every)} forward passes are not in the files of "
        f"all {len(ranks)} ranks (the first is {partial[0]}); they have the tokens of those that "
        "have them"
    ]


class PassWindows:
    """Forward passes of several ranks' files, summed as they are asked for."""

    def __init__(self, files: list[list[Record]]) -> None:
        first = files[0][0]
        E = int(first.experts.max()) + 1
        wanted = len(first.experts), E
        for record in (records[0] for records in files):
            here = len(record.experts), int(record.experts.max()) + 1
            if here != wanted:
                raise FileFormatError(
                    f"{record.path}: {_MAP} is of {here[0]} layers and {here[1]} experts, and that "
                    f"of {first.path.name} of {wanted[0]} and {E}; give dumps of one model"
                )
        maps = [records[0].experts for records in files]
        self.trivial = all((m == np.arange(m.shape[1]) % E).all() for m in maps)
        every = [record for records in files for record in records]
        self.ranks = sorted({record.rank for record in every})
        self.passes = _by_pass(every)
        self.shape = len(self.passes), *wanted

    def read(self, number: int) -> NDArray[np.float64]:
        """Return the tokens of one forward pass, [L, E]."""
        records = self.passes[number]
        experts, (_, L, E) = records[0].experts, self.shape
        counts = np.zeros(experts.shape)
        for record in records:
            where = f"{record.path}: forward pass {record.number}"
            counts += _counted(record.counts.whole(), where, " tokens in a slot")
        cells = experts + np.arange(L)[:, None] * E
        total = np.bincount(cells.ravel(), counts.ravel(), L * E).astype(np.float64)
        return total.reshape(L, E)


def _by_pass(every: list[Record]) -> list[list[Record]]:
    """Return the records of each forward pass, by its number; each record once."""
    passes: dict[int, dict[tuple[int, str], Record]] = {}
    for record in every:
        there = passes.setdefault(record.number, {})
        other = there.get((record.rank, record.key))
        if other is not None:
            raise FileFormatError(
                f"{record.path}: rank {record.rank} has forward pass {record.number} here and "
                f"in {other.path.name}; give each recording once"
            )
        first = next(iter(there.values()), record)
        if not np.array_equal(first.experts, record.experts):
            raise FileFormatError(
                f"{record.path}: {_MAP} differs from that of {first.path.name}, and both have "
                f"forward pass {record.number}; give the files of one recording"
            )
        there[record.rank, record.key] = record
    return [list(passes[number].values()) for number in sorted(passes)]
