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

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.engines.vllm.requests import Requests
from evenload.formats.base import MAX_ELEMENTS, FileFormatError, Format, RawTrace
from evenload.formats.damage import DAMAGED

_KEY = "routed_experts"


def recognises(path: Path) -> bool:
    """Whether a path is of this format for sure: .jsonl, or a .npz with a key of that name."""
    if path.suffix.lower() == ".jsonl":
        return not path.is_dir()
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{_KEY}.npy" in archive.namelist()
    except DAMAGED:
        return False


def read_trace(path: Path, num_experts: int | None) -> RawTrace:
    """Read requests; each is looked through once, and counted when it is asked for.

    Parameters
    ----------
    path : Path
        A file, a folder or a pattern.
    num_experts : int or None
        Experts E of the model. None takes the largest number + 1, with a note.

    Raises
    ------
    FileNotFoundError
        If nothing matches a pattern.
    FileFormatError
        If a file is damaged, or a request is no [tokens, layers, k] of experts.
    """
    return Requests(path, num_experts).trace()


def read_topk(path: Path) -> NDArray[Any] | None:
    """Read the experts of each token of all requests, [tokens, L, k], without dense layers.

    Raises
    ------
    FileFormatError
        As `read_trace`, or if they are too many to be held.
    """
    requests = Requests(path, None)
    if requests.num_numbers > MAX_ELEMENTS:
        raise FileFormatError(
            f"{path}: {requests.num_numbers} experts of tokens are more than the {MAX_ELEMENTS} "
            "that are held at once; give fewer requests"
        )
    layers = requests.moe_layers
    return np.concatenate([requests.topk(t)[:, layers] for t in range(len(requests.all))])


FORMAT = Format(
    name="vllm-routed-experts",
    suffixes=(".jsonl",),
    summary="vLLM's routed experts [tokens, layers, k] of requests: .jsonl, .npy, .npz, a folder",
    recognises=recognises,
    read_trace=read_trace,
    read_topk=read_topk,
    many=True,
)
