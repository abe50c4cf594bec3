"""Loads and other arrays: checked on the way in, of the caller's kind on the way out.

NumPy stays NumPy, tensors return to their device. torch is never imported here: a tensor can only
arrive where its caller has imported it already.

Loads near the ends of a float's range are brought to where their sums are finite and exact: scaling
by a power of two rounds nothing, so it changes no decision of any planner.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Rewrap: TypeAlias = Callable[[NDArray[Any]], Any]

SAFE_EXPONENT = 960  # of float64, which ends at 1024: room for sums and shares of many slots
SAFE_EXPONENT_32 = 64  # of float32, which ends at 128


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, told without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def keep_numpy(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array itself: the way back for callers who brought NumPy arrays."""
    return array


def _tensor_to_numpy(name: str, tensor: Any) -> NDArray[Any]:
    import torch

    try:
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            tensor = tensor.float()
        result: NDArray[Any] = tensor.numpy(force=True)
    except (TypeError, RuntimeError):
        raise ValueError(
            f"{name} is a tensor of {tensor.layout}, {tensor.dtype} on {tensor.device}, which no "
            "array can be made of; use a dense tensor that holds numbers"
        ) from None
    return result


def _to_tensor(array: NDArray[Any], device: Any) -> Any:
    import torch

    return torch.tensor(array, device=device)


def to_numpy(name: str, value: Any) -> tuple[NDArray[Any], Rewrap]:
    """Bring an array, tensor or nested list to NumPy, and tell how results go back.

    Parameters
    ----------
    name : str
        Argument's name, for the message.
    value : array_like or torch.Tensor
        Tensors may require grad, be views, or lie on another device; half, bfloat16 and float8 are
        widened to float32 without loss.

    Returns
    -------
    array : ndarray
        May share memory with `value`: read it only.
    rewrap : callable
        Brings a result to the kind and device of `value`; a tensor is always a copy.

    Raises
    ------
    ValueError
        If `value` is a masked array, a sparse tensor or one without values, or cannot be read as
        one array of numbers.
    """
    if is_tensor(value):
        return _tensor_to_numpy(name, value), partial(_to_tensor, device=value.device)
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; fill its gaps first, e.g. {name}.filled(0)")
    try:
        return np.asarray(value), keep_numpy
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{name} is not one rectangular array of numbers; use rows of equal length ({error})"
        ) from None


def first_bad(array: NDArray[Any], bad: NDArray[np.bool_]) -> str:
    """Name the first element of `array` that `bad` marks, as ``[2, 5]=-1.0``."""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{list(index)}={array[index]}"


def check_weights(name: str, array: NDArray[Any]) -> Float:
    """Return weights as float64, or say which one is not a finite number >= 0.

    The result is C-contiguous, aligned and writable, whatever the input: the compiled core takes
    that layout only. It may be the input.

    Parameters
    ----------
    name : str
        Argument's name, for the message.
    array : ndarray, any shape, integer or floating dtype
        Tokens, or any load proportional to them. Integers must lie within +-2**53, where float64
        holds them exactly.

    Raises
    ------
    ValueError
        For bool, complex, object and string dtypes, integers past 2**53, NaN, inf and negatives.
    """
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} has dtype {array.dtype}; use an integer or floating dtype (tokens per expert)"
        )
    with np.errstate(over="ignore", under="ignore"):
        weights = np.require(array, np.float64, ["C", "A", "W"])
    if array.size == 0:
        return weights
    if array.dtype.kind in "iu" and int(array.max()) > 2**53:
        bad = first_bad(array, array > 2**53)
        raise ValueError(
            f"{name}{bad} is past 2**53={2**53}, up to which float64 holds every integer; use at "
            "most that, or a floating dtype"
        )
    if not (weights.min() >= 0.0 and weights.max() < np.inf):
        bad = first_bad(array, ~(np.isfinite(weights) & (weights >= 0.0)))
        raise ValueError(f"{name}{bad} is not a finite number >= 0; use 0 or more")
    return weights


def check_load(load: Any, name: str = "load") -> tuple[Float, Rewrap]:
    """Validate a load, tokens of each expert in each layer, and bring it to float64 ``[L, E]``.

    Parameters
    ----------
    load : array_like or torch.Tensor, [L, E] or [E]
        Tokens routed to each expert. One layer may come without the layer axis.
    name : str, default "load"
        The caller's word for it, for the message.

    Returns
    -------
    load : float64 ndarray, [L, E], C-contiguous
        May share memory with the input: read it only.
    rewrap : callable
        Brings results to the kind and device of the input.

    Raises
    ------
    ValueError
        For a wrong number of dimensions, no layer, no expert, or an illegal dtype or value.
    """
    array, rewrap = to_numpy(name, load)
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{name} has {array.ndim} dimensions {array.shape}; use [layers, experts] or [experts] "
            "(sum a trace over its windows first)"
        )
    _refuse_nothing(name, array.shape)
    return np.atleast_2d(check_weights(name, array)), rewrap


def check_trace_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless a shape is [windows, layers, experts], with at least 1 of each."""
    if len(shape) != 3:
        raise ValueError(
            f"{name} has {len(shape)} dimensions {shape}; use [windows, layers, experts]"
        )
    _refuse_nothing(name, shape)


def _refuse_nothing(name: str, shape: tuple[int, ...]) -> None:
    for size, word in zip(shape, ("windows", "layers", "experts")[-len(shape) :], strict=True):
        if size == 0:
            raise ValueError(f"{name} has 0 {word} {shape}; use at least 1")


def within_range(load: Float) -> Float:
    """Scale a load as a whole if its largest number is near an end of float64's range.

    Parameters
    ----------
    load : float64 ndarray, any shape but empty
        Finite and at least 0.

    Returns
    -------
    float64 ndarray
        The very input where it lies well within the range.
    """
    exponent = math.frexp(load.max())[1]
    if abs(exponent) <= SAFE_EXPONENT:
        return load
    with np.errstate(under="ignore"):
        scaled: Float = np.ldexp(load, (SAFE_EXPONENT if exponent > 0 else 0) - exponent)
    return scaled


def rows_within_range(weight: NDArray[Any]) -> NDArray[Any]:
    """Scale each row whose sums could overflow, in the weights' own float type.

    Parameters
    ----------
    weight : float32 or float64 ndarray, [X, n]
        Finite and at least 0.

    Returns
    -------
    ndarray, [X, n], of the same dtype
        The very input where no row needs it.
    """
    limit = np.finfo(weight.dtype).maxexp // 2
    exponent = np.frexp(weight.max(axis=1, keepdims=True))[1]
    if (exponent <= limit).all():
        return weight
    scaled: NDArray[Any] = np.ldexp(weight, np.minimum(limit - exponent, 0))
    return scaled


def to_float32(load: Float) -> NDArray[np.float32]:
    """Round to float32, rows that lie near an end of its range scaled first.

    Parameters
    ----------
    load : float64 ndarray, [X, E]
        Finite and at least 0.

    Returns
    -------
    float32 ndarray, [X, E]
        Each row times a power of two, which is 1 for rows well within the range.
    """
    exponent = np.frexp(load.max(axis=1, keepdims=True))[1]
    far = np.abs(exponent) > SAFE_EXPONENT_32
    with np.errstate(under="ignore"):
        scaled = np.ldexp(load, np.where(far, -exponent, 0)) if far.any() else load
        return scaled.astype(np.float32)
