"""What a pickle that torch.save wrote may say, followed before anything of it is built.

torch's own ``weights_only`` refuses code, but still builds what the pickle asks for: a tensor that
claims a million times the numbers it has can be unrolled into a set, and a key of nested tuples
overflows the stack when it is hashed. Dumps of loads need next to nothing of what it allows, so the
pickle is followed here first, on types alone: plain values, lists, dicts with texts as keys, and
dense tensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

MOST_STEPS = 2**25  # a list of as many numbers takes 270 MB

_STORAGES = ("Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double", "Bool")
_CLASSES = {("torch", f"{kind}Storage"): "storage type" for kind in _STORAGES} | {
    ("torch._utils", "_rebuild_tensor_v2"): "rebuild",
    ("collections", "OrderedDict"): "empty dict",
}


class PickleError(ValueError):
    """A pickle that asks for anything else; the message says for what."""


def _sized(width: int) -> Callable[[bytes, int], int]:
    """Return what tells where an argument ends that follows its own length."""
    return lambda data, at: at + width + int.from_bytes(data[at : at + width], "little")


# Values that stand alone, by their code: how long the argument is, or what tells its end.
_SCALARS: dict[int, tuple[str, int]] = {
    pickle.NONE[0]: ("value", 0),
    pickle.NEWTRUE[0]: ("value", 0),
    pickle.NEWFALSE[0]: ("value", 0),
    pickle.BININT[0]: ("value", 4),
    pickle.BININT1[0]: ("value", 1),
    pickle.BININT2[0]: ("value", 2),
    pickle.BINFLOAT[0]: ("value", 8),
    pickle.EMPTY_TUPLE[0]: ("empty tuple", 0),
    pickle.EMPTY_LIST[0]: ("list", 0),
    pickle.EMPTY_DICT[0]: ("dict", 0),
}
_LONG = {
    pickle.LONG1[0]: ("value", _sized(1)),
    pickle.BINUNICODE[0]: ("text", _sized(4)),
    pickle.SHORT_BINSTRING[0]: ("value", _sized(1)),
}
_TUPLES = {pickle.TUPLE1[0]: 1, pickle.TUPLE2[0]: 2, pickle.TUPLE3[0]: 3}
_PUTS = {pickle.BINPUT[0]: 1, pickle.LONG_BINPUT[0]: 4}
_GETS = {pickle.BINGET[0]: 1, pickle.LONG_BINGET[0]: 4}


def check_pickle(data: bytes) -> None:
    """Raise `PickleError` unless a pickle holds plain values and dense tensors alone.

    Parameters
    ----------
    data : bytes
        Of protocol 2, torch.save's own.
    """
    try:
        _Scan(data).run()
    except (IndexError, KeyError):
        raise PickleError("it is cut off or damaged") from None


class _Scan:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._stack: list[str] = []
        self._below: list[list[str]] = []
        self._memo: dict[int, str] = {}
        self._others = {
            pickle.PROTO[0]: self._protocol,
            pickle.GLOBAL[0]: self._class,
            pickle.MARK[0]: self._mark,
            pickle.TUPLE[0]: self._tuple,
            pickle.REDUCE[0]: self._call,
            pickle.BINPERSID[0]: self._storage,
            pickle.APPEND[0]: self._append,
            pickle.APPENDS[0]: self._extend,
            pickle.SETITEM[0]: self._set_one,
            pickle.SETITEMS[0]: self._set_all,
        }

    def run(self) -> None:
        data = self._data
        for _ in range(MOST_STEPS):
            code = data[self._at]
            self._at += 1
            if code in _SCALARS:
                kind, width = _SCALARS[code]
                self._at += width
                self._stack.append(kind)
            elif code in _PUTS:
                self._memo[self._number(_PUTS[code])] = self._stack[-1]
            elif code in _GETS:
                self._stack.append(self._memo[self._number(_GETS[code])])
            elif code in _LONG:
                kind, end = _LONG[code]
                self._at = end(data, self._at)
                self._stack.append(kind)
            elif code in _TUPLES:
                self._pop(_TUPLES[code])
                self._stack.append("tuple")
            elif code == pickle.STOP[0]:
                self._pop(1)
                return
            elif code in self._others:
                self._others[code]()
            else:
                raise PickleError(f"it has the step {bytes([code])!r}, which no plain value needs")
        raise PickleError(f"it has more than the {MOST_STEPS} steps that are read")

    def _number(self, width: int) -> int:
        self._at += width
        return int.from_bytes(self._data[self._at - width : self._at], "little")

    def _pop(self, count: int) -> list[str]:
        if len(self._stack) < count:
            raise IndexError
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise IndexError
        line, self._at = self._data[self._at : end], end + 1
        return line[:100].decode("utf-8", "replace")

    def _protocol(self) -> None:
        protocol = self._number(1)
        if protocol != 2:
            raise PickleError(f"it is of protocol {protocol}; torch.save writes 2")

    def _class(self) -> None:
        module, name = self._line(), self._line()
        if (module, name) not in _CLASSES:
            hint = "; save a tensor, not a NumPy array" if module.startswith("numpy") else ""
            raise PickleError(f"it names {module}.{name}, which is no plain value{hint}")
        self._stack.append(_CLASSES[module, name])

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[str]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self) -> None:
        items = self._marked()
        self._stack.append("tuple" if items else "empty tuple")

    def _call(self) -> None:
        called, given = self._pop(2)
        if (called, given) not in {("empty dict", "empty tuple"), ("rebuild", "tuple")}:
            raise PickleError(f"it calls a {called} with a {given}")
        self._stack.append("hooks" if called == "empty dict" else "tensor")

    def _storage(self) -> None:
        if self._pop(1) != ["tuple"]:
            raise PickleError("it has numbers that are not in the archive")
        self._stack.append("storage")

    def _append(self) -> None:
        self._pop(1)
        self._need("list")

    def _extend(self) -> None:
        self._marked()
        self._need("list")

    def _set_one(self) -> None:
        self._check_keys(self._pop(2))

    def _set_all(self) -> None:
        self._check_keys(self._marked())

    def _check_keys(self, items: list[str]) -> None:
        self._need("dict")
        if len(items) % 2 or any(kind != "text" for kind in items[::2]):
            raise PickleError("it has a dict whose keys are no texts")

    def _need(self, kind: str) -> None:
        if self._stack[-1] != kind:
            raise PickleError(f"it puts something into a {self._stack[-1]}")
