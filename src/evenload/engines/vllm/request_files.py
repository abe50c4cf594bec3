"""The requests in a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.engines.vllm.response import routed_in
from evenload.formats import npy
from evenload.formats.archive import keys_in, read_key
from evenload.formats.base import FileFormatError

MOST_REQUEST = 2**30  # bytes of one request in a .npz, which may be packed a thousand times smaller
MOST_LINE = 2**28  # bytes of one response: half a million tokens of 58 layers in base64


@dataclass(frozen=True)
class Request:
    """Where one request's routed experts are.

    Parameters
    ----------
    path : Path
    where : str
        The file's name, and the place in it, for messages.
    key : str or None
        Of a .npz.
    start : int or None
        Bytes from the start of a .jsonl.
    """

    path: Path
    where: str
    key: str | None = None
    start: int | None = None

    def read(self) -> NDArray[Any] | None:
        """Return [tokens, layers, k] as they are in the file; None where a response has none.

        Raises
        ------
        FileFormatError
            If the file is damaged there.
        """
        if self.key is not None:
            return read_key(self.path, self.key, MOST_REQUEST)
        if self.start is None:
            return npy.read_load(self.path, None).array
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            return routed_in(stream.readline(MOST_LINE + 1), self.where)


def requests_in(path: Path) -> Iterator[Request]:
    """Yield the requests of a .npy, .npz or .jsonl file, in order.

    Raises
    ------
    FileFormatError
        If the file is empty or damaged, or has another ending.
    """
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise FileFormatError(f"{path}: the file is empty (0 bytes)")
    if suffix == ".npy":
        yield Request(path, str(path))
    elif suffix == ".npz":
        for key in keys_in(path):
            if key != "num_experts":
                yield Request(path, f"{path}, key {key!r}", key=key)
    elif suffix == ".jsonl":
        yield from _lines(path)
    else:
        raise FileFormatError(
            f"{path}: routed experts are read from .npy, .npz and .jsonl files; save them as one"
        )


def _lines(path: Path) -> Iterator[Request]:
    with path.open("rb") as stream:
        number = 0
        while True:
            start = stream.tell()
            line = stream.readline(MOST_LINE + 1)
            number += 1
            if not line:
                return
            where = f"{path}, line {number}"
            if len(line) > MOST_LINE:
                raise FileFormatError(f"{where}: the line has more than {MOST_LINE} bytes")
            if line.strip():
                yield Request(path, where, start=start)
