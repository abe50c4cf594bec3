"""From tensors in a file to arrays that are read as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.engines.archives.mapped_file import MappedFile
from evenload.formats.base import FileFormatError


@dataclass(frozen=True, eq=False)
class Stored:
    """Numbers in a file.

    Parameters
    ----------
    path : Path
    dtype : numpy.dtype
    shape : tuple of int
    offset : int or None
        Bytes from the start of the file; None where that is not known.
    mapped : ndarray or None
        Them, over the mapped file, where the offset is not known.
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int | None = None
    mapped: NDArray[Any] | None = None

    def read(self) -> NDArray[Any]:
        """Return all of them, in memory of its own."""
        return self._read(0, self.shape)

    def row(self, number: int) -> NDArray[Any]:
        """Return those of one number of the first axis."""
        return self._read(number, self.shape[1:])

    def split(self, *shape: int) -> Stored:
        """Return the same numbers, in another shape."""
        mapped = None if self.mapped is None else self.mapped.reshape(shape)
        return Stored(self.path, self.dtype, shape, self.offset, mapped)

    def _read(self, number: int, shape: tuple[int, ...]) -> NDArray[Any]:
        if self.mapped is not None:
            return np.array(self.mapped if shape == self.shape else self.mapped[number])
        assert self.offset is not None
        count = int(np.prod(shape, dtype=np.int64))
        offset = self.offset + number * count * self.dtype.itemsize
        array = np.fromfile(self.path, self.dtype, count, offset=offset)
        if array.size < count:
            raise FileFormatError(f"{self.path}: the file ends inside a tensor")
        return array.reshape(shape)


def stored(value: Any, name: str, file: MappedFile, *axes: str, whole: bool = True) -> Stored:
    """Return where the numbers of a tensor are that `load_torch` mapped.

    Reading them from there leaves nothing behind; what is looked at through the mapping would count
    as memory of the process. Only where the system does not tell what is mapped where (not Linux),
    or a tensor is a view, they are looked at through it.

    Parameters
    ----------
    value : object
        What should be a tensor.
    name : str
        Its name, for messages.
    file : MappedFile
        The file, now that it is mapped.
    *axes : str
        What each of its dimensions is; none for any number of them.
    whole : bool, default True
        Whether only whole numbers are taken.

    Raises
    ------
    FileFormatError
        If it is no dense tensor of such numbers, has other dimensions or nothing in one, or claims
        more numbers than the file has for it.
    """
    path = file.path
    tensor = _checked(value, name, path, whole)
    numbers = tensor.untyped_storage()
    if tensor is value and not file.is_member(numbers.data_ptr(), numbers.nbytes()):
        raise FileFormatError(f"{path}: {name} claims numbers that are not its own; it is damaged")
    shape = tuple(tensor.shape)
    if (axes and len(axes) != len(shape)) or 0 in shape:
        use = f"[{', '.join(axes)}]" if axes else "some axes"
        raise FileFormatError(f"{path}: {name} has shape {shape}; use {use}, at least 1 of each")
    array: NDArray[Any] = tensor.detach().numpy()
    offset = file.offset_of(array.ctypes.data) if array.flags.c_contiguous else None
    mapped = array if offset is None else None
    return Stored(path, array.dtype, shape, offset, mapped)


def _checked(value: Any, name: str, path: Path, whole: bool) -> Any:
    if isinstance(value, np.ndarray) or not hasattr(value, "untyped_storage"):
        raise FileFormatError(f"{path}: {name} is a {type(value).__name__}; save a tensor")
    import torch

    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise FileFormatError(f"{path}: {name} is no dense tensor; save a dense one")
    there = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > there:
        raise FileFormatError(
            f"{path}: {name} claims {value.numel()} numbers {tuple(value.shape)}, and the file has "
            f"{there} bytes for them"
        )
    if value.is_complex() or value.dtype is torch.bool or (whole and value.is_floating_point()):
        need = "an integer" if whole else "an integer or floating"
        raise FileFormatError(f"{path}: {name} has dtype {value.dtype}; use {need} dtype")
    return value.float() if value.dtype is torch.bfloat16 else value
