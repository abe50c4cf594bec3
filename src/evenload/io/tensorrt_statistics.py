"""TensorRT-LLM's expert statistics: a folder that its planner of placements reads too.

``meta_info.json`` has the number of experts; each ``rank{r}.safetensors`` has what that rank
counted, under ``{iteration}_{model layer}`` an integer for each expert. They are summed over the
ranks; each iteration is a window.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.checks import positive_int
from evenload.extras import needed
from evenload.io.base import MOST_EXPERTS, FileFormatError, RawTrace
from evenload.io.files import briefly, natural
from evenload.io.text import parse_json
from evenload.layers import ModelLayers

_META = "meta_info.json"
_RANKS = "rank*.safetensors"
_MOST_META = 2**20  # bytes; it has two numbers
_KEY = re.compile(r"(0|[1-9]\d{0,17})_(0|[1-9]\d{0,17})", re.ASCII)
_INTEGERS = {"I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"}


def recognises(path: Path) -> bool:
    """Whether a folder has such files."""
    return (path / _META).is_file()


def read_load(path: Path, num_experts: int | None) -> RawTrace:
    """Read statistics; the counts of an iteration are read as they are asked for."""
    if not path.is_dir():
        raise FileFormatError(f"{path}: this is a file; give the folder with {_META} and {_RANKS}")
    windows = Iterations(path)
    return RawTrace(windows, layers=ModelLayers(windows.layers))


def _num_experts(path: Path) -> int:
    file = path / _META
    if not file.is_file():
        raise FileFormatError(f"{path}: no {_META} in this folder; give the one that has it")
    if file.stat().st_size > _MOST_META:
        raise FileFormatError(f"{file}: the file has more than {_MOST_META} bytes; is it one?")
    value = parse_json(file)
    if not isinstance(value, dict) or "num_experts" not in value:
        raise FileFormatError(f"{file}: no key 'num_experts'")
    try:
        number = positive_int("num_experts", value["num_experts"])
    except ValueError as error:
        raise FileFormatError(f"{file}: {error}") from None
    if number > MOST_EXPERTS:
        raise FileFormatError(f"{file}: num_experts={number} is past {MOST_EXPERTS}")
    return number


def _rank_files(path: Path) -> list[Path]:
    files = sorted(path.glob(_RANKS), key=natural)
    if not files:
        raise FileFormatError(f"{path}: no {_RANKS} in this folder; give the one that has them")
    there = {file.name for file in files}
    for rank in range(len(files)):
        if f"rank{rank}.safetensors" not in there:
            raise FileFormatError(
                f"{path}: no rank{rank}.safetensors, and there is {files[-1].name}; give the files "
                "of all ranks"
            )
    return files


class RankCounts:
    """What one rank counted: integers [E] under ``{iteration}_{layer}``; the header is held."""

    def __init__(self, path: Path, num_experts: int) -> None:
        what = f"{path}: reading it"
        library = needed("safetensors", "safetensors", "tensorrt-llm", what, error=FileFormatError)
        self.path, self.keys = path, set[tuple[int, int]]()
        try:
            self._file = library.safe_open(path, framework="np")
            for name in self._file.keys():  # noqa: SIM118 (no dict)
                self.keys.add(self._checked(name, num_experts))
        except (library.SafetensorError, OSError, ValueError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                f"{path}: this is no .safetensors file, or it is cut off ({briefly(error)})"
            ) from None
        if not self.keys:
            raise FileFormatError(f"{path}: nothing is in it; nothing was recorded")

    def _checked(self, name: str, num_experts: int) -> tuple[int, int]:
        match = _KEY.fullmatch(name)
        if match is None:
            raise FileFormatError(
                f"{self.path}: the key {name[:60]!r} is no iteration and layer, as '100_3' would be"
            )
        part = self._file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), part.get_dtype()
        if dtype not in _INTEGERS or shape != (num_experts,):
            raise FileFormatError(
                f"{self.path}: {name!r} is {dtype} of shape {shape}; it has to be integers of "
                f"shape ({num_experts},), one an expert"
            )
        return int(match[1]), int(match[2])

    def counts(self, iteration: int, layer: int) -> NDArray[Any]:
        """Return the tokens of each expert, [E]; a negative one is a `FileFormatError`."""
        counts: NDArray[Any] = self._file.get_tensor(f"{iteration}_{layer}")
        if counts.min() < 0:
            raise FileFormatError(
                f"{self.path}: iteration {iteration} of layer {layer} has {counts.min()} tokens; "
                "counts are 0 or more"
            )
        return counts


class Iterations:
    """Iterations of all ranks' files in a folder, summed as they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._experts = _num_experts(path)
        self._ranks = [RankCounts(file, self._experts) for file in _rank_files(path)]
        keys = self._ranks[0].keys
        for rank in self._ranks[1:]:
            missing = min(keys ^ rank.keys, default=None)
            if missing is not None:
                lacks = rank if missing in keys else self._ranks[0]
                raise FileFormatError(
                    f"{lacks.path}: no iteration {missing[0]} of layer {missing[1]}, which another "
                    "rank has; give the files of one recording"
                )
        self._numbers = sorted({number for number, _ in keys})
        self.layers = sorted({layer for _, layer in keys})
        for number in self._numbers:
            for layer in self.layers:
                if (number, layer) not in keys:
                    raise FileFormatError(
                        f"{path}: iteration {number} has no layer {layer}, and others have; give "
                        "whole iterations"
                    )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Windows, layers, experts."""
        return len(self._numbers), len(self.layers), self._experts

    def read(self, number: int) -> NDArray[Any]:
        """Return the tokens of one iteration, [L, E]."""
        total = np.zeros(self.shape[1:])
        for rank in self._ranks:
            for row, layer in enumerate(self.layers):
                total[row] += rank.counts(self._numbers[number], layer)
        return total

    def __reduce__(self) -> tuple[Any, ...]:
        return Iterations, (self._path,)
