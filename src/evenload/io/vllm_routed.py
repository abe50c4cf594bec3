"""vLLM's routed experts: which experts each token of a request went to, [tokens, model layers, k].

vLLM returns them with ``--enable-return-routed-experts`` and writes no file itself. Taken are

- ``.npy``: one request's ``output.routed_experts``, as `numpy.save` wrote it;
- ``.npz``: one request a key;
- ``.jsonl``: one response a line, as vLLM's server sends it (base64 of a .npy under ``choices``),
  or nested lists, alone or under ``routed_experts``, ``choices`` or ``outputs``. The several
  choices of one response are one request;
- a folder of these, or a pattern.

**Windows are requests**, in the order of the file, and of the files' names; sum many into one by
``--window``. A response without routing (aborted before it ran) is left out with a note.

An array [a, b, c] of whole numbers may as well be loads over time, and is counted only where this
format is named. vLLM has a row for each layer of the model; those of dense layers stay 0, which
says expert 0 for every token, and are left out with a note.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.io.base import (
    MAX_ELEMENTS,
    MOST_EXPERTS,
    FileFormatError,
    check_elements,
    checking,
    refusing,
)
from evenload.io.files import files_of
from evenload.io.json import to_array
from evenload.io.npy import read_array, stored_array
from evenload.io.npz import keys_of, open_archive, read_member
from evenload.io.recorded import check_routed, count_topk, experts_note, without_dense
from evenload.trace import Trace

MOST_REQUEST = 2**30  # bytes of one request in a .npz, which may be packed a thousand times smaller
MOST_LINE = 2**28  # bytes of one response: half a million tokens of 58 layers in base64
_KEY = "routed_experts"
_PARTS = ("choices", "outputs")  # of the server's responses, and of the Python class


def read_load(path: Path, num_experts: int | None) -> Trace:
    """Read a file, folder or pattern; each request is counted when it is asked for."""
    found = Requests(path, num_experts)
    notes = [] if num_experts is not None else [experts_note(str(path), found.num_experts)]
    if found.without:
        notes.append(
            f"{path}: {found.without} of {found.without + len(found.all)} requests have no routed "
            "experts and are left out",
        )
    reads = [partial(_counts, request, found.num_experts) for request in found.all]
    why, used = "name expert 0 for every token", np.array(found.used)
    trace = without_dense(reads, used, found.num_experts, str(path), why=why)
    return Trace.of(trace, source=trace.source, notes=(*trace.notes, *notes), layers=trace.layers)


def read_topk(path: Path) -> NDArray[Any] | None:
    """Read the experts of each token of all requests, [tokens, L, k], without dense layers."""
    requests = Requests(path, None)
    if requests.num_numbers > MAX_ELEMENTS:
        raise FileFormatError(
            f"{path}: {requests.num_numbers} experts of tokens are more than the {MAX_ELEMENTS} "
            "that are held at once; give fewer requests"
        )
    layers = np.flatnonzero(np.any(requests.used, axis=0))
    return np.concatenate([request.topk()[:, layers] for request in requests.all])


def _counts(request: Request, num_experts: int) -> NDArray[np.int64]:
    """Return the tokens of one request, [L, E]."""
    return count_topk(request.topk(), num_experts, request.where)[0]


class Requests:
    """Requests of a path's files, each looked through once."""

    def __init__(self, path: Path, num_experts: int | None) -> None:
        files = files_of(path, ".jsonl", ".npy", ".npz")
        if not files:
            raise FileFormatError(f"{path}: no .npy, .npz or .jsonl file in this folder")
        self.all: list[Request] = []
        self.used: list[NDArray[np.bool_]] = []  # which layers some token leaves expert 0 in
        self.num_numbers = self.without = largest = 0
        most = (num_experts or MOST_EXPERTS) - 1
        for request in (request for file in files for request in _requests_in(file)):
            topk = request.read()
            if topk is None or (topk.ndim == 3 and len(topk) == 0):
                self.without += 1
                continue
            check_routed(topk, request.where, _KEY)
            here, bad = topk.shape[1:], topk[(topk < 0) | (topk > most)]
            first = self.all[0] if self.all else replace(request, per_token=here)
            if here != first.per_token:
                raise FileFormatError(
                    f"{request.where}: {_KEY} has {here} layers and experts a token, and that of "
                    f"{first.where} has {first.per_token}; give requests of one model"
                )
            if bad.size:
                raise FileFormatError(
                    f"{request.where}: {_KEY} has {bad[0]}; use experts 0 to {most}"
                )
            self.all.append(replace(request, per_token=here))
            self.num_numbers += topk.size
            self.used.append(np.any(topk, axis=(0, 2)))
            largest = max(largest, int(topk.max()))
        if not self.all:
            raise FileFormatError(f"{path}: no request has routed experts in it")
        self.num_experts = num_experts or largest + 1


@dataclass(frozen=True)
class Request:
    """Where one request's routed experts are: a .npy, a key of a .npz or a line of a .jsonl.

    `where` names the place for messages, `start` is the line's, in bytes; `per_token` are its
    layers and experts of a token.
    """

    path: Path
    where: str
    key: str | None = None
    start: int | None = None
    per_token: tuple[int, ...] = ()

    def read(self) -> NDArray[Any] | None:
        """Return [tokens, layers, k] as they are in the file; None where a response has none."""
        if self.key is not None:
            with checking(str(self.path)), open_archive(self.path) as archive:
                return read_member(archive, self.key, self.path, MOST_REQUEST)
        if self.start is None:
            array = stored_array(self.path)
            check_elements(array.shape, self.where)
            return array.whole()
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            return _routed_in(stream.readline(MOST_LINE + 1), self.where)

    def topk(self) -> NDArray[Any]:
        """Return [tokens, layers, k] again, once `per_token` is known."""
        topk = self.read()
        if topk is None or topk.shape[1:] != self.per_token:
            raise FileFormatError(f"{self.where}: the file has changed meanwhile")
        return topk


def _requests_in(path: Path) -> Iterator[Request]:
    """Yield the requests of a .npy, .npz or .jsonl file, in order."""
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise FileFormatError(f"{path}: the file is empty (0 bytes)")
    if suffix == ".npy":
        yield Request(path, str(path))
    elif suffix == ".npz":
        with checking(str(path)), open_archive(path) as archive:
            keys = keys_of(archive)
        yield from (Request(path, f"{path}, key {k!r}", k) for k in keys if k != "num_experts")
    elif suffix == ".jsonl":
        yield from _lines(path)
    else:
        raise FileFormatError(
            f"{path}: routed experts are read from .npy, .npz and .jsonl files; save them as one"
        )


def _lines(path: Path) -> Iterator[Request]:
    with path.open("rb") as stream:
        start = number = 0
        while line := stream.readline(MOST_LINE + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > MOST_LINE:
                raise FileFormatError(f"{where}: the line has more than {MOST_LINE} bytes")
            if line.strip():
                yield Request(path, where, start=start)
            start += len(line)


def _routed_in(line: bytes, where: str) -> NDArray[Any] | None:
    """Return the routed experts in a line, [tokens, layers, k], or None where it has none."""
    with refusing(f"{where}: this is no JSON, or it is cut off", ValueError, RecursionError):
        value = json.loads(line.decode("utf-8-sig"))
    arrays = [_array(part, where) for part in _parts(value, where) if part is not None]
    for array in arrays:
        if array.ndim != 3 or array.shape[1:] != arrays[0].shape[1:]:
            raise FileFormatError(
                f"{where}: {_KEY} has shape {array.shape}; use [tokens, layers, k], and the same "
                "layers and k in all of a line"
            )
    return np.concatenate(arrays) if arrays else None


def _parts(value: Any, where: str) -> list[Any]:
    """Return the routed experts of a response: one, or one of each of its parts."""
    if isinstance(value, list):
        return [value]
    if isinstance(value, dict):
        if _KEY in value:
            return [value[_KEY]]
        for name in _PARTS:
            parts = value.get(name)
            if isinstance(parts, list) and all(isinstance(p, dict) and _KEY in p for p in parts):
                return [part[_KEY] for part in parts]
    raise FileFormatError(
        f"{where}: no key {_KEY!r}, alone or in each of the choices or outputs; start the server "
        "with --enable-return-routed-experts"
    )


def _array(value: Any, where: str) -> NDArray[Any]:
    if isinstance(value, list):
        with checking(where):
            return to_array(value, _KEY)
    if not isinstance(value, str):
        raise FileFormatError(f"{where}: {_KEY} is {json.dumps(value)[:40]}; use nested lists")
    with refusing(f"{where}: {_KEY} is no base64", binascii.Error, ValueError):
        content = base64.b64decode(value, validate=True)
    return read_array(io.BytesIO(content), len(content), f"{where}: {_KEY}")
