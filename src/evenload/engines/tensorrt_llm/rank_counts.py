"""One rank's file of TensorRT-LLM's expert statistics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from evenload.extras import needed
from evenload.formats.base import FileFormatError
from evenload.formats.damage import briefly

_KEY = re.compile(r"(0|[1-9]\d{0,17})_(0|[1-9]\d{0,17})", re.ASCII)
_INTEGERS = {"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"}


class RankCounts:
    """What one rank counted; only the file's header is held.

    Parameters
    ----------
    path : Path
    num_experts : int
        Experts E.

    Raises
    ------
    FileFormatError
        If safetensors is not installed, the file is damaged, or holds anything but integers [E]
        under ``{iteration}_{layer}``.
    """

    def __init__(self, path: Path, num_experts: int) -> None:
        library = needed(
            "safetensors", "safetensors", "tensorrt-llm", f"{path}: reading it",
            error=FileFormatError,
        )  # fmt: skip
        self.path = path
        try:
            self._file = library.safe_open(path, framework="np")
            names = list(self._file.keys())
            for name in names:
                self._check(name, num_experts)
        except (library.SafetensorError, OSError, ValueError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                f"{path}: this is no .safetensors file, or it is cut off ({briefly(error)})"
            ) from None
        if not names:
            raise FileFormatError(f"{path}: nothing is in it; nothing was recorded")
        self.keys: set[tuple[int, int]] = {_numbers(name, path) for name in names}

    def _check(self, name: str, num_experts: int) -> None:
        _numbers(name, self.path)
        part = self._file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), part.get_dtype()
        if dtype not in _INTEGERS or shape != (num_experts,):
            raise FileFormatError(
                f"{self.path}: {name!r} is {dtype} of shape {shape}; it has to be integers of "
                f"shape ({num_experts},), one an expert"
            )

    def counts(self, iteration: int, layer: int) -> NDArray[Any]:
        """Return the tokens of each expert, [E].

        Raises
        ------
        FileFormatError
            If one is negative.
        """
        counts: NDArray[Any] = self._file.get_tensor(f"{iteration}_{layer}")
        if counts.min() < 0:
            raise FileFormatError(
                f"{self.path}: iteration {iteration} of layer {layer} has {counts.min()} tokens; "
                "counts are 0 or more"
            )
        return counts


def _numbers(name: str, path: Path) -> tuple[int, int]:
    match = _KEY.fullmatch(name)
    if match is None:
        raise FileFormatError(
            f"{path}: the key {name[:60]!r} is no iteration and layer, as '100_3' would be"
        )
    return int(match[1]), int(match[2])
