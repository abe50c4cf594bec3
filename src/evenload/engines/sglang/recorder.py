"""What SGLang's expert distribution recorder dumps, in each of its modes.

**stat** (and stat_approx): one file, ``logical_count`` [steps, model layers, experts], summed over
the ranks by SGLang itself. Each step is a window. Steps lie in a ring of rows that a new recording
goes on filling where the last one stopped; rows never written are zero.

**per_pass** and **per_token**: a file a rank, with what that rank alone counted in each slot in
each forward pass. They are summed over the ranks, and each forward pass is a window, in the order
of their numbers. Slots are taken for the experts of the file's ``last_physical_to_logical_map``.
``topk_ids_of_layer`` of per_token says the same, token by token, and is not read: a large dump is
mapped, and only its counts are looked at.

**Several files** are given as a folder or as a pattern. Dumps of one after the other are put
together: stat dumps by the time in their names, the others by their passes' numbers.
"""

from __future__ import annotations

from pathlib import Path

from evenload.engines.archives.torch_archive import load_torch, pickle_has
from evenload.engines.sglang.passes import RECORDS, read_passes
from evenload.engines.sglang.stat import COUNTS, read_steps
from evenload.formats.base import FileFormatError, Format, RawTrace
from evenload.formats.files import files_of

_NAMED = "*expert_distribution_recorder*.pt"


def recognises(path: Path) -> bool:
    """Whether a path is a recording: a folder or pattern by its files' names, a .pt by its keys."""
    if path.is_dir():
        return next(path.glob(_NAMED), None) is not None
    first = files_of(path)[0]
    return first.suffix.lower() == ".pt" and _peek_mode(first) is not None


def _peek_mode(file: Path) -> str | None:
    """Return the key that a dump has, looking at its pickle's ends only."""
    for key in (COUNTS, RECORDS):
        if pickle_has(file, f"X{chr(len(key))}\0\0\0{key}"):  # as pickles write a text
            return key
    return None


def _files(path: Path) -> list[Path]:
    files = files_of(path, ".pt")
    named = [f for f in files if f.match(_NAMED)] if path.is_dir() else files
    if not (named or files):
        raise FileFormatError(f"{path}: no .pt file in this folder; give the recorder's")
    return named or files


def read_trace(path: Path, num_experts: int | None) -> RawTrace:
    """Read a recording; windows are read from the mapped files as they are asked for.

    Parameters
    ----------
    path : Path
        A file, a folder with the recorder's files, or a pattern.
    num_experts : int or None
        Not needed: the files say it.

    Raises
    ------
    FileNotFoundError
        If nothing matches a pattern.
    FileFormatError
        If a file is damaged or no such dump, or the files do not fit each other.
    """
    files = _files(path)
    modes = {_mode(file): file for file in files}
    if len(modes) > 1:
        stat, other = modes[COUNTS], modes[RECORDS]
        raise FileFormatError(
            f"{path}: {stat.name} is a dump of mode stat, and {other.name} of another mode; give "
            "the files of one recording"
        )
    read = read_steps if COUNTS in modes else read_passes
    return read(files, str(path))


def _mode(file: Path) -> str:
    found = _peek_mode(file)
    if found is not None:
        return found
    value = load_torch(file)
    keys = ", ".join(map(str, value))[:200] if isinstance(value, dict) else type(value).__name__
    raise FileFormatError(f"{file}: no key {COUNTS!r} or {RECORDS!r}; found: {keys or 'none'}")


FORMAT = Format(
    name="sglang-recorder",
    suffixes=(".pt",),
    summary="dumps of SGLang's expert distribution recorder, any mode: a file, or all ranks' in a "
    "folder",
    recognises=recognises,
    read_trace=read_trace,
    many=True,
)
