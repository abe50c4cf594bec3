"""Logs of routed experts: one JSON object a line, the experts of a token in a layer.

``{"type": "route", "req_id": "a", "token_idx": 0, "layer": 3, "topk_ids": [1, 3]}`` is a line of
the loggers that people put into vLLM (``VLLM_LOG_MOE``, as in weiran0129/vLLM-MoE-Logger); a line
may as well have the experts of several tokens, ``"topk_experts": [[1, 3], [0, 2]]``. Names of keys
are told by `_KEYS`. A line without experts is a meta line, and may say ``num_experts``; a line of
another ``type`` is not read. Of -1, which pads, nothing is counted.

A line may have its ``phase``, prefill or decode. Or it has ``token_idx``, the token's number in the
request, and the request's ``prompt_tokens``, which may also stand in a line of its own before, as
``{"type": "request", "req_id": "a", "prompt_tokens": 12}``. Phases are known where each line tells.

The log is a file, a file a layer, a folder or a pattern. Windows are requests in the order in which
they begin, or as many tokens as asked for: in each layer, in the order of its lines. Layers are the
model's own numbers. The loads are read at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.checks import positive_int, whole_number
from evenload.io.base import (
    MOST_EXPERTS,
    MOST_LAYERS,
    checking,
    refusing,
)
from evenload.io.columns import meaning_of, phase_code
from evenload.io.files import check_bytes, files_of, most_bytes
from evenload.io.json import keys_found, once
from evenload.io.recorded import experts_note
from evenload.layers import ModelLayers
from evenload.trace import PHASES, ArrayWindows, Trace

MOST_LINE = 2**26  # bytes
_MANY = "the load of all windows, fewer of which there are with more --window-tokens,"
_KEYS = {
    "experts": ("topk_ids", "experts", "topk_experts", "expert_ids"),
    "request": ("req_id", "request_id", "request", "batch_id"),
    "model": ("num_experts", "n_experts", "n_routed_experts"),
    "prompt": ("prompt_tokens", "num_prompt_tokens", "prompt_len"),
    "token": ("token_idx", "token_index", "position"),
}
_UNKNOWN = -1  # the phase of a line that does not tell; else a number in `PHASES`


def read_load(path: Path, num_experts: int | None, *, window_tokens: int | None = None) -> Trace:
    """Read a trace: a window a request, or `window_tokens` tokens a window."""
    files = files_of(path, ".jsonl")
    if not files:
        raise ValueError("no .jsonl file in this folder")
    log = _Log(None if window_tokens is None else positive_int("window_tokens", window_tokens))
    for file in files:
        for number, line in _lines(file):
            with checking(f"{file}, line {number}"):
                log.add(line, f"{file}, line {number}", num_experts)
    return log.trace(path, num_experts)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        number, size = 0, path.stat().st_size
        while line := stream.readline(most_bytes(MOST_LINE) + 1):
            number += 1
            if len(line) > most_bytes(MOST_LINE):
                rest = size - stream.tell() + len(line)
                with checking(f"{path}, line {number}"):
                    check_bytes("what is left of the file from here", rest, MOST_LINE)
            if line.strip():
                yield number, line


class _Log:
    """What was counted so far."""

    def __init__(self, window_tokens: int | None) -> None:
        self._each = window_tokens
        # By window, layer and phase.
        self._counts = dict[tuple[int, int, int], NDArray[np.int64]]()
        self._prompts = dict[Any, int]()  # tokens of the prompts of requests
        self._windows = dict[Any, int]()  # of requests
        self._tokens = dict[int, int]()  # of each layer
        self._said: int | None = None  # experts of the model
        self._padded = self._others = self._cells = 0

    def add(self, line: bytes, where: str, num_experts: int | None) -> None:
        """Count the tokens of a line."""
        with refusing("this is not JSON, or it is cut off", ValueError, RecursionError):
            value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=partial(once, where))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__}; use an object with layer and topk_ids")
        key = next((k for k in _KEYS["experts"] if k in value), None)
        if key is None or value.get("type", "route") != "route":
            self._meta(value, meta="type" in value or key is not None)
            return
        layer = next((v for k, v in value.items() if meaning_of(k) == "layer"), None)
        if type(layer) is not int or not 0 <= layer < MOST_LAYERS:
            raise ValueError(f"layer is {layer!r:.40}; use the number of the layer, from 0")
        most = num_experts or self._said or MOST_EXPERTS
        tokens = _tokens(value[key], key)
        request = _request(value)
        for number, experts in enumerate(tokens):
            self._count(layer, experts, request, key, most, self._phase(value, request, number))

    def _phase(self, value: dict[str, Any], request: Any, number: int) -> int:
        """Return the phase of a line's token."""
        if "phase" in value:
            return phase_code("phase", value["phase"])
        self._prompt(value, request)
        token = next((value[k] for k in _KEYS["token"] if k in value), None)
        prompt = self._prompts.get(request)
        if type(token) is not int or prompt is None:
            return _UNKNOWN
        return int(token + number >= prompt)

    def _prompt(self, value: dict[str, Any], request: Any) -> None:
        """Keep the length of a request's prompt, if a line tells it."""
        length = next((value[k] for k in _KEYS["prompt"] if k in value), None)
        if length is not None:
            self._prompts[request] = whole_number("prompt_tokens", length)

    def _meta(self, value: dict[str, Any], meta: bool) -> None:
        said = next((value[k] for k in _KEYS["model"] if k in value), None)
        if said is None and any(k in value for k in _KEYS["prompt"]):
            self._prompt(value, _request(value))
            return
        if said is None and not meta:
            raise ValueError(f"no key of {', '.join(_KEYS['experts'])}; found: {keys_found(value)}")
        self._others += said is None
        if said is None:
            return
        said = positive_int("num_experts", said)
        if self._said not in (None, said) or said > MOST_EXPERTS:
            raise ValueError(f"num_experts={said}, and before {self._said}; give one model's log")
        self._said = said

    def _count(
        self, layer: int, experts: list[int], request: Any, key: str, most: int, phase: int
    ) -> None:
        before = self._tokens.get(layer, 0)
        self._tokens[layer] = before + 1
        if self._each is None:
            window = self._windows.setdefault(request, len(self._windows))
        else:
            window = before // self._each
        there = [e for e in experts if e != -1]
        self._padded += len(there) < len(experts)
        if not there:
            return
        low, high = min(there), max(there)
        if low < 0 or high >= most:
            raise ValueError(f"{key} has {low if low < 0 else high}; use experts 0 to {most - 1}")
        row = self._counts.get((window, layer, phase))
        if row is None or row.size <= high:
            more = np.zeros(max(high + 1, 2 * (0 if row is None else row.size)), np.int64)
            more[: 0 if row is None else row.size] = 0 if row is None else row
            self._cells += more.size - (0 if row is None else row.size)
            check_bytes(_MANY, 8 * self._cells)
            row = self._counts[window, layer, phase] = more
        for expert in there:
            row[expert] += 1

    def trace(self, path: Path, num_experts: int | None) -> Trace:
        """Return the loads of all windows."""
        if not self._counts:
            raise ValueError("no line has the experts of a token")
        windows, layers, phases = (sorted({*found}) for found in zip(*self._counts, strict=True))
        found = 1 + max(int(np.flatnonzero(row)[-1]) for row in self._counts.values())
        given = num_experts or self._said
        if given is not None and given < found:
            raise ValueError(f"there is an expert {found - 1}, and num_experts={given}")
        shape = len(windows), len(layers), given or found
        check_bytes(_MANY, 8 * math.prod(shape) * len(phases))
        load = np.zeros((len(phases), *shape), np.int64)
        for numbers, row in self._counts.items():
            width = min(row.size, shape[2])
            window, layer, phase = map(np.searchsorted, (windows, layers, phases), numbers)
            load[phase, window, layer, :width] = row[:width]
        about: dict[str, Any] = {"source": str(path), "layers": ModelLayers(layers)}
        parts = {}
        if _UNKNOWN not in phases:
            parts = {PHASES[p]: Trace(part, **about) for p, part in zip(phases, load, strict=True)}
        notes = self._notes(path, given, found)
        if len(phases) > 1 and not parts:
            notes += (f"{path}: some lines do not tell their phase, so that there are none",)
        return Trace.of(ArrayWindows(load.sum(axis=0)), notes=notes, phases=parts, **about)

    def _notes(self, path: Path, given: int | None, found: int) -> tuple[str, ...]:
        notes: tuple[str, ...] = () if given is not None else (experts_note(path, found),)
        if self._padded:
            notes += (f"{path}: {self._padded} tokens are padded by -1, which is not counted",)
        if self._others:
            notes += (f"{path}: {self._others} lines without routed experts are not read",)
        if self._each is not None and (rest := max(self._tokens.values()) % self._each):
            notes += (f"{path}: the last window has {rest} of {self._each} tokens",)
        return notes


def _request(value: dict[str, Any]) -> Any:
    request = next((value[k] for k in _KEYS["request"] if k in value), None)
    if not isinstance(request, str | int | None):
        raise ValueError(f"the request is {request!r:.40}; use a text or a number")
    return request


def _tokens(value: Any, key: str) -> list[list[int]]:
    """Return the experts of each token: of one, or of several."""
    several = isinstance(value, list) and bool(value) and isinstance(value[0], list)
    tokens = value if several else [value]
    for experts in tokens:
        if not isinstance(experts, list) or any(type(e) is not int for e in experts):
            raise ValueError(f"{key} is {json.dumps(value)[:40]}; use a list of experts' numbers")
    return list(tokens)
