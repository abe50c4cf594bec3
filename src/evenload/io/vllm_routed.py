"""vLLM's routed experts: which experts each token of a request went to, [tokens, model layers, k].

vLLM returns them with ``--enable-return-routed-experts`` and writes no file itself. Taken are

- ``.npy``: one request's ``output.routed_experts``, as `numpy.save` wrote it;
- ``.npz``: one request a key;
- ``.jsonl``: one response a line, as vLLM's server sends it (base64 of a .npy under ``choices``),
  or nested lists, alone or under ``routed_experts``, ``choices`` or ``outputs``. The several
  choices of one response are one request;
- a folder of these, or a pattern.

Windows are requests, in the order of the file, and of the files' names. An array [a, b, c] may as
well be loads over time, and is counted only where this format is named. vLLM has a row for each
layer of the model; those of dense layers stay 0, which says expert 0 for every token. A row of -1
is padding, and skipped.

A request's first rows are its prompt's, so that it is split into prefill and decode where all tell
how long their prompt is: in .jsonl by ``prompt_token_ids``, ``prompt_tokens`` or vLLM's ``usage``,
in .npz by an array ``prompt_tokens`` with a number for each other key.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import (
    MOST_EXPERTS,
    FileFormatError,
    check_array,
    checking,
    refusing,
)
from evenload.io.files import check_bytes, files_of, most_bytes
from evenload.io.json import once, to_array
from evenload.io.npy import read_array, stored_array
from evenload.io.npz import keys_of, open_archive, read_member
from evenload.io.recorded import (
    check_routed,
    count_topk,
    experts_note,
    padded_rows,
    padding_note,
    without_dense,
    without_padding,
)
from evenload.trace import Trace

_KEY, _LENGTHS = "routed_experts", "prompt_tokens"
_PARTS = ("choices", "outputs")  # of the server's responses, and of the Python class


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read a file, folder or pattern; each request is counted when it is asked for."""
    requests, used, E, notes, split = _requests(path, num_experts)
    reads, why = [partial(_counts, read, E) for read in requests], "name expert 0 for every token"
    phases = {
        name: [partial(_counts, read, E, of_prompt) for read in requests]
        for name, of_prompt in (("prefill", True), ("decode", False))
        if split
    }
    trace = without_dense(reads, used, E, str(path), why=why, phases=phases)
    about: dict[str, Any] = {"source": trace.source, "layers": trace.layers, "phases": trace.phases}
    return Trace.of(trace, notes=(*trace.notes, *notes), **about)


def read_topk(path: Path) -> NDArray[Any] | None:
    """Read the experts of each token of all requests, [tokens, L, k], without dense layers.

    Tokens that are padding are left out.
    """
    requests, used, *_ = _requests(path, None)
    layers = np.flatnonzero(used.any(axis=0))
    kept, size = list[NDArray[Any]](), 0
    for read in requests:
        topk = without_padding(read().topk[:, layers])
        if topk is not None:
            kept.append(topk)
            size += topk.nbytes
            check_bytes("the experts of its tokens", size)
    return np.concatenate(kept) if kept else None


class Routed(NamedTuple):
    """The experts of a request's tokens."""

    topk: NDArray[Any]  # [tokens, L, k]
    prompt: NDArray[np.bool_] | None = None  # [tokens], which are the prompt's, where it is known


def _requests(
    path: Path, num_experts: int | None
) -> tuple[list[partial[Routed]], NDArray[np.bool_], int, list[str], bool]:
    """Look through the requests of a path once.

    Returned are functions that read each again, in which layers [requests, L] some token leaves
    expert 0, the number of experts, notes of what is left out or had to be assumed, and whether all
    tell which tokens are their prompt's.
    """
    files = files_of(path, ".jsonl", ".npy", ".npz")
    if not files:
        raise ValueError("no .npy, .npz or .jsonl file in this folder")
    found, used, largest, without, skipped, rows = [], [], 0, 0, 0, 0
    most, unsplit = (num_experts or MOST_EXPERTS) - 1, 0
    first: tuple[str, tuple[int, ...]] | None = None
    for where, read in (request for file in files for request in _requests_in(file)):
        routed = read()
        if routed is None or (routed.topk.ndim == 3 and len(routed.topk) == 0):
            without += 1
            continue
        topk = routed.topk
        unsplit += routed.prompt is None
        with checking(where):
            check_routed(topk, _KEY)
            here, bad = topk.shape[1:], topk[(topk < -1) | (topk > most)]
            first = first or (where, here)
            if here != first[1]:
                raise ValueError(
                    f"{_KEY} has {here} layers and experts per token, and that of {first[0]} has "
                    f"{first[1]}; give requests of one model"
                )
            if bad.size:
                raise ValueError(f"{_KEY} has {bad[0]}; use experts 0 to {most}")
            padding = padded_rows(topk, _KEY)
            skipped, rows = skipped + int(padding.sum()), rows + padding.size
        found.append(partial(_again, read, where, here))
        used.append(np.any(topk > 0, axis=(0, 2)))
        largest = max(largest, int(topk.max()))
    if not found:
        raise ValueError("no request has routed experts in it")
    E, notes = num_experts or largest + 1, [*padding_note(str(path), skipped, rows)]
    if num_experts is None:
        notes.append(experts_note(path, E))
    if without:
        notes.append(
            f"{path}: {without} of {without + len(found)} requests have no routed experts and are "
            "left out"
        )
    if 0 < unsplit < len(found):
        notes.append(
            f"{path}: {unsplit} of {len(found)} requests do not tell where their prompt ends, so "
            "that there are no phases"
        )
    return found, np.array(used), E, notes, not unsplit


def _again(read: Callable[[], Routed | None], where: str, per_token: tuple[int, ...]) -> Routed:
    routed = read()
    if routed is None or routed.topk.shape[1:] != per_token:
        raise FileFormatError(f"{where}: the file has changed meanwhile")
    return routed


def _counts(
    read: partial[Routed], num_experts: int, of_prompt: bool | None = None
) -> NDArray[np.int64]:
    """Count the tokens of a request, or those of its prompt, or those after it."""
    with checking(read.args[1]):
        topk, prompt = read()
        if of_prompt is not None and prompt is not None:
            topk = topk[prompt == of_prompt]
            if not (topk >= 0).any():
                return np.zeros((topk.shape[1], num_experts), np.int64)
        return count_topk(topk, num_experts)


# ---- one request in a file: a .npy, a key of a .npz or a line of a .jsonl ------------------------


def _requests_in(path: Path) -> Iterator[tuple[str, Callable[[], Routed | None]]]:
    """Yield the name and the reader of each request of a file; None is read where it has none."""
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise FileFormatError(f"{path}: the file is empty (0 bytes)")
    if suffix == ".npy":
        yield str(path), partial(_read_file, path)
    elif suffix == ".npz":
        with checking(str(path)), open_archive(path) as archive:
            keys = [key for key in keys_of(archive) if key != "num_experts"]
            lengths: list[int | None] = [None] * len(keys)
            if _LENGTHS in keys:
                keys.remove(_LENGTHS)
                lengths = _lengths(read_member(archive, _LENGTHS, path), len(keys))
        for key, length in zip(keys, lengths, strict=False):
            yield f"{path}, key {key!r}", partial(_read_key, path, key, length)
    elif suffix == ".jsonl":
        with path.open("rb") as stream:
            start, number, size = 0, 0, path.stat().st_size
            while line := stream.readline(most_bytes() + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(line) > most_bytes():
                    with checking(where):
                        check_bytes("what is left of the file from here", size - start)
                if line.strip():
                    yield where, partial(_read_line, path, start, where)
                start += len(line)
    else:
        raise FileFormatError(
            f"{path}: routed experts are read from .npy, .npz and .jsonl files; save them as one"
        )


def _read_file(path: Path) -> Routed:
    with checking(str(path)):
        array = stored_array(path)
        check_array(array.shape, array.dtype.itemsize)
        return Routed(array.whole())


def _lengths(array: NDArray[Any], count: int) -> list[int | None]:
    """Return how many tokens each request's prompt has."""
    if array.dtype.kind not in "iu" or array.shape != (count,) or (array < 0).any():
        raise ValueError(
            f"{_LENGTHS} has shape {list(array.shape)} of {array.dtype}; use one whole number of "
            f"at least 0 for each of the {count} requests"
        )
    return [int(length) for length in array]


def _read_key(path: Path, key: str, length: int | None) -> Routed:
    with checking(str(path)), open_archive(path) as archive:
        topk = read_member(archive, key, path)
    return Routed(topk, _first(length, len(topk) if topk.ndim else 0))


def _first(length: int | None, rows: int) -> NDArray[np.bool_] | None:
    """Return which rows are a prompt's that has this length; None where it has more than that."""
    return None if length is None or not 0 <= length <= rows else np.arange(rows) < length


def _read_line(path: Path, start: int, where: str) -> Routed | None:
    with path.open("rb") as stream:
        stream.seek(start)
        line = stream.readline(most_bytes() + 1)
    with checking(where):
        with refusing("this is not JSON, or it is cut off", ValueError, RecursionError):
            text = line.decode("utf-8-sig")
            value = json.loads(text, object_pairs_hook=partial(once, where))
        parts = [part for part in _parts(value) if part.get(_KEY) is not None]
        arrays = [_array(part[_KEY]) for part in parts]
        for array in arrays:
            if array.ndim != 3 or array.shape[1:] != arrays[0].shape[1:]:
                raise ValueError(
                    f"{_KEY} has shape {array.shape}; use [tokens, layers, k], and the same layers "
                    "and k in all of a line"
                )
        if not arrays:
            return None
        whole = value if isinstance(value, dict) else {}
        prompts = [
            _first(_prompt_rows(part, whole, len(parts), len(array)), len(array))
            for part, array in zip(parts, arrays, strict=True)
        ]
        known = [prompt for prompt in prompts if prompt is not None]
        split = np.concatenate(known) if len(known) == len(parts) else None
        return Routed(np.concatenate(arrays), split)


def _prompt_rows(
    part: dict[str, Any], whole: dict[str, Any], num_parts: int, rows: int
) -> int | None:
    """Return how many of the rows of a response's part are its prompt's; None if it is not told.

    There is a row for each token that went through the model: all but the last that was generated,
    and not the start of a prompt that a request skips (``routed_experts_prompt_start``).
    """
    usage = whole.get("usage")
    usage = usage if isinstance(usage, dict) and num_parts == 1 else {}

    def first(*found: Any) -> int | None:
        numbers = (len(n) if isinstance(n, list) else n for n in found)
        return next((n for n in numbers if type(n) is int), None)

    of_both = (each.get(key) for each in (part, whole) for key in ("prompt_token_ids", _LENGTHS))
    prompt = first(*of_both, usage.get(_LENGTHS))
    generated = first(part.get("token_ids"), usage.get("completion_tokens"))
    if prompt is None or generated is None:
        return prompt
    before = rows - max(generated - 1, 0)
    return before if before <= prompt else None


def _parts(value: Any) -> list[dict[str, Any]]:
    """Return the parts of a response with routed experts each: itself, or several."""
    if isinstance(value, list):
        return [{_KEY: value}]
    if isinstance(value, dict):
        if _KEY in value:
            return [value]
        for name in _PARTS:
            parts = value.get(name)
            if isinstance(parts, list) and all(isinstance(p, dict) and _KEY in p for p in parts):
                return parts
    raise ValueError(
        f"no key {_KEY!r}, alone or in each of the choices or outputs; start the server with "
        "--enable-return-routed-experts"
    )


def _array(value: Any) -> NDArray[Any]:
    if isinstance(value, list):
        return to_array(value, _KEY)
    if not isinstance(value, str):
        raise ValueError(f"{_KEY} is {json.dumps(value)[:40]}; use nested lists")
    with refusing(f"{_KEY} is not base64", binascii.Error, ValueError):
        content = base64.b64decode(value, validate=True)
    try:
        return read_array(io.BytesIO(content), len(content))
    except ValueError as error:
        raise ValueError(f"{_KEY}: {error}") from None
