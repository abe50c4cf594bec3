"""Loads and other arrays: checked on the way in, of the caller's kind on the way out.

NumPy stays NumPy, tensors return to their device; whoever brings one has imported torch already.
Loads near the ends of a float's range are scaled by a power of two, which rounds nothing, to where
their sums are finite and exact.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]
Int: TypeAlias = NDArray[np.int64]
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


def to_numpy(name: str, value: Any) -> tuple[NDArray[Any], Rewrap]:
    """Bring an array, tensor or nested list to NumPy, and tell how results go back.

    The array may share memory with `value`: read it only; a tensor made of results is a copy.
    Tensors may require grad, be views, or lie on another device; half, bfloat16 and float8 are
    widened to float32 without loss. Masked arrays, sparse tensors, tensors without values and what
    is not one array of numbers are a `ValueError`.
    """
    if is_tensor(value):
        torch = sys.modules["torch"]
        try:
            narrow = value.is_floating_point() and value.dtype not in (torch.float32, torch.float64)
            array = (value.float() if narrow else value).numpy(force=True)
        except (TypeError, RuntimeError):
            raise ValueError(
                f"{name} is a tensor of {value.layout}, {value.dtype} on {value.device}, which no "
                "array can be made of; use a dense tensor that holds numbers"
            ) from None
        return array, partial(torch.tensor, device=value.device)
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


def refuse(name: str, array: NDArray[Any], bad: NDArray[np.bool_], why: str) -> None:
    """Raise `ValueError` for the first element of `array` that `bad` marks, if it marks any."""
    if bad.any():
        raise ValueError(f"{name}{first_bad(array, bad)} {why}")


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Make an array of our own read-only, and return it."""
    array.setflags(write=False)
    return array


def check_weights(name: str, array: NDArray[Any]) -> Float:
    """Return weights as float64, C-contiguous, aligned and writable: what the compiled core takes.

    It may be the input. Raises `ValueError` for dtypes that are neither integer nor floating,
    integers past 2**53 (which float64 would not hold exactly), NaN, inf and negatives.
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
        why = "up to which float64 holds every integer; use at most that, or a floating dtype"
        refuse(name, array, array > 2**53, f"is past 2**53={2**53}, {why}")
    if not (weights.min() >= 0.0 and weights.max() < np.inf):
        bad = ~(np.isfinite(weights) & (weights >= 0.0))
        refuse(name, array, bad, "is not a finite number >= 0; use 0 or more")
    return weights


def check_load(load: Any, name: str = "load") -> tuple[Float, Rewrap]:
    """Bring a load, [L, E] or [E], to float64 [L, E] as `check_weights`; tell how results go back.

    It may share memory with the input: read it only. Raises `ValueError` for a wrong number of
    dimensions, no layer or no expert, or as `check_weights`.
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
    """Scale a load as a whole if its largest number is near an end of float64's range."""
    exponent = math.frexp(load.max())[1]
    if abs(exponent) <= SAFE_EXPONENT:
        return load
    with np.errstate(under="ignore"):
        return np.asarray(np.ldexp(load, (SAFE_EXPONENT if exponent > 0 else 0) - exponent))


def rows_within_range(weight: NDArray[Any]) -> NDArray[Any]:
    """Scale each row [X, n] whose sums could overflow, in the weights' own float type."""
    limit = np.finfo(weight.dtype).maxexp // 2
    exponent = np.frexp(weight.max(axis=1, keepdims=True))[1]
    if (exponent <= limit).all():
        return weight
    return np.asarray(np.ldexp(weight, np.minimum(limit - exponent, 0)))


def to_float32(load: Float) -> NDArray[np.float32]:
    """Round to float32, each row [X, E] that lies near an end of its range scaled first."""
    exponent = np.frexp(load.max(axis=1, keepdims=True))[1]
    far = np.abs(exponent) > SAFE_EXPONENT_32
    with np.errstate(under="ignore"):
        scaled = np.ldexp(load, np.where(far, -exponent, 0)) if far.any() else load
        return scaled.astype(np.float32)
