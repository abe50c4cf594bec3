"""What SGLang's expert distribution recorder dumps, in each of its modes.

**stat** (and stat_approx): one file, ``logical_count`` [steps, model layers, experts] of all ranks;
each step is a window. Steps lie in a ring of rows that a new recording goes on filling where the
last one stopped; rows never written are zero.

**per_pass** and **per_token**: a file a rank, with what that rank counted in each slot in each
forward pass. They are summed over the ranks; each pass is a window, in the order of their numbers.
Slots are taken for the experts of the file's ``last_physical_to_logical_map``.

**Phases** are in files of mode per_token alone, which say each pass's ``forward_mode`` on its rank.
What SGLang calls mixed, chunks of prompts and decoding in one batch, counts as prefill; to verify
drafted tokens is decoding. The other modes do not say it.

**Several files** are given as a folder or as a pattern. Dumps of one after the other are put
together: stat dumps by the time in their names, the others by their passes' numbers.

**Pipeline stages** number their ranks alike and have the layers of their own: records of one rank
that share no layer are summed. The stages' stat dumps are equal, and one of them counts; those of
other layers are summed step by step.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.checks import whole_number
from evenload.io.base import FileFormatError, checking
from evenload.io.files import files_of
from evenload.io.json import keys_found
from evenload.io.npy import StoredArray
from evenload.io.recorded import used_cells, without_dense
from evenload.io.torch_file import load_torch, stored
from evenload.trace import Trace

_COUNTS = "logical_count"
_RECORDS = "records"
_MAP = "last_physical_to_logical_map"
_SLOT_COUNTS = "global_physical_count"
_NAMED = "*expert_distribution_recorder*.pt"
_PHASES = {
    "prefill": (1, 3, 8),  # of SGLang's ForwardMode: EXTEND, MIXED, SPLIT_PREFILL
    "decode": (2, 5, 6),  # DECODE, TARGET_VERIFY, DRAFT_EXTEND_V2
}
_MIXED = 3
_TIME = re.compile(r"recorder_(\d+(?:\.\d+)?)")


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read a file, folder or pattern; windows are read from the files as they are asked for."""
    files = files_of(path, ".pt")
    if path.is_dir():
        files = [f for f in files if f.match(_NAMED)] or files
    if not files:
        raise ValueError("no .pt file in this folder; give the recorder's")
    dumps = [_read_dump(file) for file in files]
    steps = [dump for dump in dumps if isinstance(dump, StoredArray)]
    ranks = [dump for dump in dumps if not isinstance(dump, StoredArray)]
    if steps and ranks:
        raise ValueError(
            f"{steps[-1].path.name} is a dump of mode stat, and {ranks[-1][0].path.name} of "
            "another mode; give the files of one recording"
        )
    return _read_steps(steps, str(path)) if steps else _read_passes(ranks, str(path))


def _read_dump(path: Path) -> StoredArray | list[Record]:
    """Return where the counts [steps, layers, experts] of a dump are, or those of one rank."""
    with checking(str(path)):
        value = load_torch(path)
        if not isinstance(value, dict) or not {_COUNTS, _RECORDS} & value.keys():
            raise ValueError(f"no key {_COUNTS!r} or {_RECORDS!r}; found: {keys_found(value)}")
        if _COUNTS in value:
            axes = ["steps", "layers", "experts"]
            if len(getattr(value[_COUNTS], "shape", axes)) == 2:  # SGLang's dump of one step
                del axes[0]
            return stored(value[_COUNTS], _COUNTS, path, *axes).windows()
        if _MAP not in value:
            raise ValueError(f"no keys {_RECORDS!r} and {_MAP!r}, or one of them")
        records = value[_RECORDS]
        if not isinstance(records, list) or not records:
            raise ValueError(f"{_RECORDS} is an empty list, or none; nothing was recorded")
        experts = stored(value[_MAP], _MAP, path, "layers", "slots").whole()
        _check_map(experts)
        return [_record(item, f"{_RECORDS}[{i}]", path, experts) for i, item in enumerate(records)]


def _counted(counts: NDArray[Any], where: str, what: str = "") -> NDArray[Any]:
    if counts.min() < 0:
        raise FileFormatError(f"{where} has {counts.min()}{what}; counts are 0 or more")
    return counts


# ---- stat ----------------------------------------------------------------------------------------


def _read_steps(dumps: list[StoredArray], where: str) -> Trace:
    """Read the counts of one or more dumps, the rows of each in the order of their ring."""
    for counts in dumps:
        if counts.shape[1:] != dumps[0].shape[1:]:
            raise FileFormatError(
                f"{counts.path}: {_COUNTS} has shape {counts.shape}, and that of "
                f"{dumps[0].path.name} {dumps[0].shape}; give dumps of one model"
            )
    notes = list[str]()
    reads, used = [], []
    for stages in _stages(dumps, notes):
        steps = [partial(_read_step, stages, row) for row in range(stages[0].shape[0])]
        used.append(used_cells(steps))
        order, assumed = _written_rows(np.any(used[-1], axis=1), str(stages[0].path))
        reads += [steps[row] for row in order]
        notes += assumed
    return without_dense(reads, np.concatenate(used), dumps[0].shape[2], where, notes)


def _stages(dumps: list[StoredArray], notes: list[str]) -> list[list[StoredArray]]:
    """Return dumps by time, together those of pipeline stages: equal ones once, or other layers."""
    groups, seen = list[list[StoredArray]](), dict[bytes, Path]()
    rows: NDArray[Any] = np.zeros(0, np.bool_)  # with tokens in the last group
    layers: NDArray[Any] = rows
    for counts in sorted(dumps, key=lambda dump: _time(dump.path)):
        if (first := seen.setdefault(_digest(counts), counts.path)) != counts.path:
            notes.append(
                f"{counts.path}: the same numbers as in {first.name}, as each pipeline stage "
                "writes them; counted once"
            )
            continue
        used = used_cells([partial(_read_step, [counts], row) for row in range(counts.shape[0])])
        own = np.any(used, axis=0)
        if not groups or not own.any() or not layers.any() or (own & layers).any():
            groups.append([counts])
            rows, layers = np.any(used, axis=1), own
            continue
        before = groups[-1][0].path.name
        if not np.array_equal(np.any(used, axis=1), rows):
            raise FileFormatError(
                f"{counts.path}: it has other layers than {before}, as a pipeline stage has, and "
                "other steps; give the stages' dumps of one recording"
            )
        notes.append(
            f"{counts.path}: it has other layers than {before}, as a pipeline stage has; the two "
            "are summed step by step"
        )
        groups[-1].append(counts)
        layers = layers | own
    return groups


def _time(file: Path) -> tuple[float, str]:
    found = _TIME.search(file.name)
    return (float(found[1]) if found else 0.0), file.name


def _digest(counts: StoredArray) -> bytes:
    digest = hashlib.sha256(str(counts.shape).encode())
    for row in range(counts.shape[0]):
        digest.update(np.ascontiguousarray(counts.read(row), "<i8").tobytes())
    return digest.digest()


def _read_step(stages: list[StoredArray], row: int) -> NDArray[Any]:
    """Return one step, summed over dumps of stages; those share no layer."""
    steps = (_counted(dump.read(row), f"{dump.path}: {_COUNTS}[{row}]") for dump in stages)
    return reduce(np.add, steps)


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


# ---- per_pass and per_token ----------------------------------------------------------------------


class Record(NamedTuple):
    """What one rank counted in one forward pass."""

    path: Path
    number: int
    rank: int
    key: str  # SGLang's ``gatherer_key``: which part of the pass it is, where there are several
    counts: StoredArray  # [L, S], tokens in each slot of all ranks
    experts: NDArray[Any]  # [L, S], those of the slots: one array for all records of a file
    mode: int | None = None  # SGLang's ForwardMode, where the record says it


def _check_map(experts: NDArray[Any]) -> None:
    S, most = experts.shape[1], int(experts.max())
    bad = experts[(experts < 0) | (experts >= S)]
    if bad.size:
        raise ValueError(f"{_MAP} has expert {bad.max()} among {S} slots; use 0 to {S - 1} at most")
    for layer, row in enumerate(experts):
        there = np.bincount(row.astype(np.int64), minlength=most + 1)
        if not there.all():
            raise ValueError(
                f"{_MAP} has no slot of expert {int(there.argmin())} in layer {layer}; every "
                f"expert from 0 to {most} needs one"
            )


def _record(value: Any, name: str, path: Path, experts: NDArray[Any]) -> Record:
    for key in ("forward_pass_id", "rank", _SLOT_COUNTS):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{name} has no key {key!r}")
    # A list in a pickle may name itself, or one list a million times over: never shown.
    number, rank = (
        whole_number(f"{name}.{key}", n if isinstance(n, int | float) else type(n))
        for key, n in (("forward_pass_id", value["forward_pass_id"]), ("rank", value["rank"]))
    )
    counts = stored(value[_SLOT_COUNTS], f"{name}.{_SLOT_COUNTS}", path, "layers", "slots")
    if counts.shape != experts.shape:
        raise ValueError(
            f"{name}.{_SLOT_COUNTS} has shape {counts.shape}, and {_MAP} {experts.shape}; both are "
            "[layers, slots]"
        )
    part, mode = value.get("gatherer_key"), value.get("forward_mode")
    part, mode = part if isinstance(part, str) else "", mode if type(mode) is int else None
    return Record(path, number, rank, part, counts, experts, mode)


def _read_passes(dumps: list[list[Record]], where: str) -> Trace:
    """Read the forward passes of one or more ranks' dumps, summed over the ranks."""
    maps = [records[0].experts for records in dumps]
    sizes = [(len(experts), int(experts.max()) + 1) for experts in maps]
    L, E = sizes[0]
    for records, size in zip(dumps, sizes, strict=True):
        if size != (L, E):
            raise FileFormatError(
                f"{records[0].path}: {_MAP} is of {size[0]} layers and {size[1]} experts, and that "
                f"of {dumps[0][0].path.name} of {L} and {E}; give dumps of one model"
            )
    passes = _by_pass([record for records in dumps for record in records])
    reads = [partial(_read_pass, records, L, E) for records in passes]
    used = used_cells(reads)
    there = np.any(used, axis=1)
    notes = _rank_notes(passes, len(dumps), where)
    if any((experts != np.arange(experts.shape[1]) % E).any() for experts in maps):
        notes.append(
            f"{where}: slots are taken for the experts of {_MAP}, the last map; passes before a "
            "rebalance, if there was one while recording, are counted wrong"
        )
    if not there.all():
        notes.append(
            f"{where}: {int((~there).sum())} of {len(there)} forward passes have no token and are "
            "left out"
        )
    passes = [records for records, some in zip(passes, there, strict=True) if some]
    parts = _by_phase(passes, notes, where)
    phases = {name: [partial(_read_pass, p, L, E) for p in part] for name, part in parts.items()}
    kept = [read for read, some in zip(reads, there, strict=True) if some]
    return without_dense(kept, used, E, where, notes, phases=phases)


def _by_phase(
    passes: list[list[Record]], notes: list[str], where: str
) -> dict[str, list[list[Record]]]:
    """Return of each pass the records of each phase; nothing where some record is of none.

    Ranks may be in different phases in one pass, where attention is data-parallel.
    """
    every = [record for records in passes for record in records]
    idle = [r for r in every if r.mode is not None and not _in_phase(r) and not _tokens_in(r)]
    if not all(_in_phase(record) or record in idle for record in every):
        return {}
    if mixed := sum(record.mode == _MIXED for record in every):
        notes.append(
            f"{where}: {mixed} of {len(every)} records are of mixed batches, with prompts and "
            "decoding; they count as prefill"
        )
    parts = {
        name: [[record for record in records if record.mode in modes] for records in passes]
        for name, modes in _PHASES.items()
    }
    return {name: part for name, part in parts.items() if any(part)}


def _in_phase(record: Record) -> bool:
    return any(record.mode in modes for modes in _PHASES.values())


def _tokens_in(record: Record) -> bool:
    return bool(_layers_of(record).any())


def _by_pass(every: list[Record]) -> list[list[Record]]:
    """Return the records of each forward pass, by its number; each layer's once."""
    passes: dict[int, list[Record]] = {}
    firsts: dict[tuple[int, int, str], Record] = {}
    taken: dict[tuple[int, int, str], NDArray[np.bool_]] = {}  # layers, where there are several
    for record in every:
        there, who = passes.setdefault(record.number, []), (record.number, record.rank, record.key)
        other = firsts.setdefault(who, record)
        if other is not record:
            mine, theirs = _layers_of(record), taken.get(who)
            theirs = _layers_of(other) if theirs is None else theirs
            if (mine & theirs).any():
                raise FileFormatError(
                    f"{record.path}: rank {record.rank} has forward pass {record.number} here and "
                    f"in {other.path.name}, and they share layers, as stages of a pipeline do not; "
                    "give each recording once"
                )
            taken[who] = mine | theirs
        first = there[0] if there else record
        if not np.array_equal(first.experts, record.experts):
            raise FileFormatError(
                f"{record.path}: {_MAP} differs from that of {first.path.name}, and both have "
                f"forward pass {record.number}; give the files of one recording"
            )
        there.append(record)
    return [passes[number] for number in sorted(passes)]


def _layers_of(record: Record) -> NDArray[np.bool_]:
    """Return which layers have tokens, [L]: those of the rank's pipeline stage."""
    return np.asarray(record.counts.whole().any(axis=1))


def _rank_notes(passes: list[list[Record]], num_files: int, where: str) -> list[str]:
    ranks = sorted({record.rank for records in passes for record in records})
    if num_files == 1:
        return [
            f"{where}: this is what rank {ranks[0]} counted; where there are more ranks, give "
            "the folder with all their files, or a pattern"
        ]
    for rank, there in enumerate(ranks):
        if rank != there:
            raise ValueError(
                f"no file of rank {rank}, and there is one of rank {ranks[-1]}; give the files of "
                "all ranks"
            )
    short = [p[0].number for p in passes if len({record.rank for record in p}) < len(ranks)]
    if not short:
        return []
    return [
        f"{where}: {len(short)} of {len(passes)} forward passes are not in the files of "
        f"all {len(ranks)} ranks (the first is {short[0]}); they have the tokens of those that "
        "have them"
    ]


def _read_pass(records: list[Record], num_layers: int, num_experts: int) -> NDArray[np.float64]:
    """Return the tokens of one forward pass, [L, E], summed over the ranks; of none it is empty."""
    L, E = num_layers, num_experts
    if not records:
        return np.zeros((L, E))
    experts = records[0].experts
    counts = np.zeros(experts.shape)
    for record in records:
        where = f"{record.path}: forward pass {record.number}"
        counts += _counted(record.counts.whole(), where, " tokens in a slot")
    cells = experts + np.arange(L)[:, None] * E
    return np.bincount(cells.ravel(), counts.ravel(), L * E).reshape(L, E).astype(np.float64)
