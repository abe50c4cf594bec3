"""The routed experts in one response of vLLM, as a line of JSON."""

from __future__ import annotations

import base64
import binascii
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.formats.array_stream import read_array
from evenload.formats.base import FileFormatError
from evenload.formats.json_text import to_array

_KEY = "routed_experts"
_PARTS = ("choices", "outputs")  # of the server's responses, and of the Python class


def routed_in(line: bytes, where: str) -> NDArray[Any] | None:
    """Return the routed experts in a line, [tokens, layers, k], or None where it has none.

    Parameters
    ----------
    line : bytes
        JSON.
    where : str
        The file's name and the line's number, for messages.

    Raises
    ------
    FileFormatError
        If the line is no JSON, or has no place for routed experts.
    """
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: this is no JSON, or it is cut off ({error})") from None
    arrays = [_array(part, where) for part in _routed(value, where) if part is not None]
    if not arrays:
        return None
    for array in arrays:
        if array.ndim != 3 or array.shape[1:] != arrays[0].shape[1:]:
            raise FileFormatError(
                f"{where}: {_KEY} has shape {array.shape}; use [tokens, layers, k], and the same "
                "layers and k in all of a line"
            )
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _routed(value: Any, where: str) -> list[Any]:
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
        return to_array(value, _KEY, where)
    if not isinstance(value, str):
        raise FileFormatError(f"{where}: {_KEY} is {json.dumps(value)[:40]}; use nested lists")
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FileFormatError(f"{where}: {_KEY} is no base64 ({error})") from None
    return read_array(io.BytesIO(content), len(content), f"{where}: {_KEY}")
