"""Files that ``torch.save`` wrote: a zip archive with a pickle and the numbers of the tensors.

A pickle is a program, and may run any code or take any memory. The interpreter here knows the few
steps of plain values (numbers, texts, lists, tuples, dicts by text or number) and of dense
tensors: what it cannot name it cannot call. A tensor becomes the place of its numbers in the file.

``torch.load(weights_only=True, mmap=True)`` was tried and lost (torch 2.13): keys of nested tuples
end the process with a segmentation fault, 30 MB of empty dicts take 2.7 GB and 50 seconds, and what
is looked at through its map counts as memory of the process. It also needs torch.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from evenload.io.base import MOST_LAYERS
from evenload.io.files import DAMAGED, kind_of
from evenload.io.npy import StoredArray
from evenload.io.npz import start_of

MOST_PICKLE = 2**26  # bytes of the pickle, which is read whole; tensors stay in the file
MOST_OBJECTS = 2**23  # lists, dicts, tuples and tensors: a byte of the pickle makes up to 60
_MOST_AXES = 64
_PICKLE = "data.pkl"
_DTYPES = {
    "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64",
    "Half": "float16", "BFloat16": "bfloat16", "Float": "float32", "Double": "float64",
    "Bool": "bool",
}  # fmt: skip
_MAKES_OBJECTS = (
    pickle.MARK, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.TUPLE1, pickle.TUPLE2,
    pickle.TUPLE3, pickle.REDUCE,
)  # fmt: skip
_STEPS = (
    *_MAKES_OBJECTS, pickle.PROTO, pickle.STOP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
    pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT,
    pickle.BINUNICODE, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.BINPUT, pickle.LONG_BINPUT,
    pickle.BINGET, pickle.LONG_BINGET, pickle.GLOBAL, pickle.BINPERSID, pickle.APPEND,
    pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS,
)  # fmt: skip


class PickleError(ValueError):
    """An archive or a pickle that `torch.save` does not write; the message says what is in it."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A dense tensor as the pickle describes it, which may be wrong: `stored` checks it."""

    dtype: str
    member: zipfile.ZipInfo  # has its numbers and those of its views
    first: int  # number of its first element there
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    swapped: bool  # whether high bytes come first


def load_torch(path: Path) -> Any:
    """Read what ``torch.save`` wrote: plain values, and `Tensor` where a tensor was."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = _checked_pickle(archive.infolist(), path.stat().st_size)
            data = archive.read(member)
            reader = _Reader(data, archive, member.filename.removesuffix(_PICKLE))
    except (PickleError, FileNotFoundError):
        raise
    except DAMAGED:
        kind = kind_of(path)
        what = "it is cut off or damaged" if "zip" in kind else kind
        raise ValueError(
            f"this is not a file that torch.save wrote (torch 1.6 or newer): {what}"
        ) from None
    try:
        if sum(map(data.count, _MAKES_OBJECTS)) <= MOST_OBJECTS:
            return reader.load()
        why = f"it has more than the {MOST_OBJECTS} lists, dicts and tuples that are read"
    except PickleError as error:
        why = str(error)
    except Exception:  # damaged bytes may raise anything
        why = "it is cut off or damaged"
    raise ValueError(f"its pickle is refused: {why}; only tensors and plain values are read")


def _checked_pickle(members: list[zipfile.ZipInfo], size: int) -> zipfile.ZipInfo:
    """Return the pickle's member, all of them being stored as they are and small enough."""
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise PickleError(
                f"{member.filename[:80]} is compressed or larger than the file, which torch.save "
                "does not write"
            )
    pickles = [m for m in members if m.filename.rpartition("/")[2] == _PICKLE]
    if len(pickles) != 1:
        raise PickleError(
            f"the archive has {len(pickles)} members {_PICKLE}; torch.save writes one"
        )
    size = pickles[0].file_size
    if size > MOST_PICKLE:
        raise PickleError(f"its pickle has {size} bytes, more than the {MOST_PICKLE} that are read")
    return pickles[0]


# ---- the interpreter ---------------------------------------------------------------------------


class _Steps(dict[int, Callable[[Any], None]]):
    """What each step of a pickle does; one that is not there is refused."""

    def __missing__(self, code: int) -> NoReturn:
        raise PickleError(f"it has the step {bytes([code])!r}, which no plain value needs")


class _StorageType(str):
    """What numbers of a storage are, which no step of a pickle can make up."""


class _Storage(NamedTuple):
    dtype: str
    member: zipfile.ZipInfo


def _is_key(key: Any) -> bool:
    return type(key) is str or (type(key) is int and 0 <= key < MOST_LAYERS)


def _no_hooks(*values: Any) -> None:
    """Stand for the empty OrderedDict of hooks that every tensor has."""
    if values:
        raise PickleError("it calls OrderedDict with values")


class _Reader(pickle._Unpickler):
    """Python's own interpreter of pickles, with the steps and names of `torch.save` alone."""

    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]
    stack: list[Any]

    dispatch = _Steps({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _STEPS})

    def __init__(self, data: bytes, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(BytesIO(data))
        found = {m.filename.removeprefix(root): m for m in archive.infolist()}
        self._members = {name: m for name, m in found.items() if name.startswith("data/")}
        order = found.get("byteorder")
        self._swapped = order is not None and order.file_size == 3 and archive.read(order) == b"big"

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for one of the names that a tensor needs."""
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return _no_hooks
        kind = name.removesuffix("Storage")
        if module == "torch" and kind != name and kind in _DTYPES:
            return _StorageType(_DTYPES[kind])
        hint = "; save a tensor, not a NumPy array" if module.startswith("numpy") else ""
        raise PickleError(f"it names {module[:100]}.{name[:100]}, which is not a plain value{hint}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Return where the numbers are that the pickle names."""
        match pid:
            case ("storage", _StorageType() as dtype, str(key), _, int()):
                if f"data/{key}" in self._members:
                    return _Storage(dtype, self._members[f"data/{key}"])
        raise PickleError("it has numbers that are not in the archive")

    def _tensor(
        self, storage: Any, first: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, *_: Any
    ) -> Tensor:
        numbers = [first, *shape, *strides]
        if (
            not isinstance(storage, _Storage)
            or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers)
            or not len(shape) == len(strides) <= _MOST_AXES
        ):
            raise PickleError("it has a tensor without numbers, a shape or strides")
        place = tuple(shape), tuple(strides)
        return Tensor(storage.dtype, storage.member, first, *place, self._swapped)

    def load_proto(self) -> None:
        protocol = self.read(1)[0]
        if protocol != 2:
            raise PickleError(f"it is of protocol {protocol}; torch.save writes 2")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        # Other keys are never needed; hashing nested tuples overflows the stack, and large numbers
        # can be chosen to have one hash.
        if len(items) % 2 or not all(map(_is_key, items[::2])):
            raise PickleError(
                f"it has a dict whose keys are no texts and no numbers below {MOST_LAYERS}"
            )
        if type(self.stack[-1]) is not dict:
            raise PickleError(f"it puts a value into a {type(self.stack[-1]).__name__}")
        found = self.stack[-1]
        known = len(found)
        found.update(zip(items[::2], items[1::2], strict=True))
        if len(found) - known < len(items) // 2:
            raise PickleError("it has a dict with a key twice")

    dispatch[pickle.PROTO[0]] = load_proto
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


# ---- tensors -----------------------------------------------------------------------------------


def stored(value: Any, name: str, path: Path, *axes: str, whole: bool = True) -> StoredArray:
    """Return where the numbers are of what should be a `Tensor`.

    `axes` are what its dimensions are, none for any number of them; with `whole` only whole
    numbers are taken. What claims more numbers than the file has for it is refused.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; save a tensor")
    shape, bfloat16 = value.shape, value.dtype == "bfloat16"
    dtype = np.dtype("uint16" if bfloat16 else value.dtype)
    dtype = dtype.newbyteorder(">" if value.swapped else "<")
    there, claimed = value.member.file_size, math.prod(shape)
    steps = ((n - 1) * stride for n, stride in zip(shape, value.strides, strict=True))
    last = value.first + sum(steps)
    if claimed and max(claimed, last + 1) * dtype.itemsize > there:
        raise ValueError(
            f"{name} claims {claimed} numbers {shape}, and the file has {there} bytes for them; "
            "save a contiguous tensor"
        )
    if value.dtype == "bool" or (whole and (bfloat16 or dtype.kind == "f")):
        need = "an integer" if whole else "an integer or floating"
        raise ValueError(f"{name} has dtype torch.{value.dtype}; use {need} dtype")
    if (axes and len(axes) != len(shape)) or 0 in shape:
        use = f"[{', '.join(axes)}]" if axes else "some axes"
        raise ValueError(f"{name} has shape {shape}; use {use}, at least 1 of each")
    offset = start_of(path, value.member) + value.first * dtype.itemsize
    return StoredArray(path, dtype, shape, value.strides, offset, bfloat16)
