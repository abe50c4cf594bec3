"""From tensors in a file to arrays, without taking memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.formats.base import FileFormatError


def mapped_array(value: Any, name: str, where: str, *, whole: bool = True) -> NDArray[Any]:
    """Return the numbers of a tensor as an array over the same memory, the mapped file.

    Parameters
    ----------
    value : object
        What should be a tensor.
    name, where : str
        Its name, and the file's, for messages.
    whole : bool, default True
        Whether only whole numbers are taken.

    Raises
    ------
    FileFormatError
        If it is no dense tensor of numbers, or claims more numbers than the file has for it.
    """
    if isinstance(value, np.ndarray) or not hasattr(value, "untyped_storage"):
        raise FileFormatError(f"{where}: {name} is a {type(value).__name__}; save a tensor")
    import torch

    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise FileFormatError(f"{where}: {name} is no dense tensor; save a dense one")
    there = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > there:
        raise FileFormatError(
            f"{where}: {name} claims {value.numel()} numbers {tuple(value.shape)}, and the file "
            f"has {there} bytes for them"
        )
    kinds = "iu" if whole else "iuf"
    if value.dtype in (torch.bfloat16, torch.float16) and not whole:
        value = value.float()
    try:
        array: NDArray[Any] = value.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise FileFormatError(f"{where}: {name} is no table of numbers ({error})") from None
    if array.dtype.kind not in kinds:
        need = "an integer" if whole else "an integer or floating"
        raise FileFormatError(f"{where}: {name} has dtype {array.dtype}; use {need} dtype")
    return array


def check_shape(array: NDArray[Any], name: str, where: str, *axes: str) -> None:
    """Raise `FileFormatError` unless an array has these axes, with something in each.

    Parameters
    ----------
    array : ndarray
    name, where : str
        Its name, and the file's, for messages.
    *axes : str
        What each of them is.
    """
    if array.ndim != len(axes) or 0 in array.shape:
        raise FileFormatError(
            f"{where}: {name} has shape {array.shape}; use [{', '.join(axes)}], at least 1 of each"
        )
