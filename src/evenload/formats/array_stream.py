"""One array in NumPy's .npy layout, its header checked before any memory is taken."""

from __future__ import annotations

import math
import tokenize
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from evenload.formats.base import MAX_ELEMENTS, FileFormatError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# NumPy reads the header's text as Python, so that damage shows as any of these.
_DAMAGED = (ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError)


@dataclass(frozen=True)
class Layout:
    """How an array lies in a file.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        An integer or floating one.
    offset : int
        Bytes from where the .npy layout starts to the first number.
    by_column : bool
        Whether the first axis runs fastest (Fortran's order).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    by_column: bool


def _read_header(stream: BinaryIO, where: str) -> Layout:
    start = stream.tell()
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise FileFormatError(
                f"{where}: the array has .npy version {version}, which only structured data needs; "
                "save one plain array of numbers"
            )
        shape, by_column, dtype = _HEADERS[version](stream)
    except FileFormatError:
        raise
    except _DAMAGED as error:
        raise FileFormatError(
            f"{where}: the array's header is cut off or damaged ({error})"
        ) from None
    return Layout(shape, dtype, stream.tell() - start, by_column)


def _check_dtype(dtype: np.dtype[Any], where: str) -> None:
    if dtype.hasobject:
        raise FileFormatError(
            f"{where}: the array is a pickle of Python objects, which could run any code when "
            "read, and is refused; save plain numbers"
        )
    if dtype.kind not in "iuf":
        raise FileFormatError(
            f"{where}: the array has dtype {dtype}; save an integer or floating dtype"
        )


def _check_size(layout: Layout, there: int, where: str) -> None:
    shape, dtype = layout.shape, layout.dtype
    needed = math.prod(shape) * dtype.itemsize
    if there != needed:
        what = "cut off" if there < needed else "followed by something else"
        raise FileFormatError(
            f"{where}: the array is {what}: shape {shape} of {dtype} takes {needed} bytes, and "
            f"{there} are there"
        )


def _check_elements(shape: tuple[int, ...], where: str) -> None:
    elements = math.prod(shape)
    if elements > MAX_ELEMENTS:
        raise FileFormatError(
            f"{where}: the array has {elements} elements {shape}, more than the {MAX_ELEMENTS} "
            "that are read at once; split it or sum its windows"
        )


def read_layout(stream: BinaryIO, num_bytes: int, where: str) -> Layout:
    """Read how an array of plain numbers lies in a file; the stream ends at the first number.

    Parameters
    ----------
    stream : binary stream
        At the start of the .npy layout.
    num_bytes : int
        Bytes from there to the end of the file or archive member.
    where : str
        The file's name, and the key in it, for messages.

    Raises
    ------
    FileFormatError
        If the header is damaged, the dtype is no number or holds pickled objects, or the size
        that the header claims is not there.
    """
    layout = _read_header(stream, where)
    _check_dtype(layout.dtype, where)
    _check_size(layout, num_bytes - layout.offset, where)
    return layout


def read_array(stream: BinaryIO, num_bytes: int, where: str) -> NDArray[Any]:
    """Read one array of plain numbers.

    Parameters
    ----------
    stream : binary stream
        Seekable, at the start of the .npy layout.
    num_bytes : int
        Bytes from there to the end of the file or archive member.
    where : str
        The file's name, and the key in it, for messages.

    Raises
    ------
    FileFormatError
        As `read_layout`, or if the array is too large to be read at once.
    """
    start = stream.tell()
    _check_elements(read_layout(stream, num_bytes, where).shape, where)
    stream.seek(start)
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array
