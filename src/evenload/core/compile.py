"""How kernels are compiled: one explicit signature each, on first use, and kept on disk.

`entry` marks what Python calls, `kernel` what only kernels call. Importing compiles nothing. An
entry compiles when it is first called: first the kernels that it reaches, each once, then itself.
Measured: letting Numba infer the signatures compiled half of all kernels twice (a literal ``n = 0``
is a type of its own), and Python wrappers of kernels that Python never calls took a quarter of the
time.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import pickle
import uuid
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import numba
from numba import types
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

try:
    from evenload.core.pipeline import ENTRY_OPTIONS, KERNEL_OPTIONS
except ImportError:  # another Numba: the same results, compiled four times as slowly
    ENTRY_OPTIONS = KERNEL_OPTIONS = {}

F = TypeVar("F", bound=Callable[..., Any])

# No ``fastmath`` and no ``parallel``: results must be the same bytes on every machine, and Numba's
# own threads neither survive a fork nor get on with torch's.
OPTIONS = {"nogil": True, "error_model": "numpy"}

Bool = types.boolean
Int = types.int64
Float = types.float64
Int1, Int2, Int3 = types.int64[::1], types.int64[:, ::1], types.int64[:, :, ::1]
Float1, Float2, Float3 = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
Flag1, Flag2, Flag3 = types.uint8[::1], types.uint8[:, ::1], types.uint8[:, :, ::1]


def read_only(array: Any) -> Any:
    """Return the type of an array that an entry only reads, and that may be read-only."""
    return types.Array(array.dtype, array.ndim, array.layout, readonly=True)


def kernel(*arguments: Any, **more: bool) -> Callable[[F], F]:
    """Mark a function that only entries and kernels call, with the types of its arguments.

    Without types Numba compiles it for each set of types that it is called with.
    """

    def mark(function: F) -> F:
        compiled: Any = numba.njit(**OPTIONS, **KERNEL_OPTIONS, **more)(function)
        compiled.arguments = arguments
        return compiled

    return mark


def step(*arguments: Any) -> Callable[[F], F]:
    """Mark a kernel that allocates nothing, so that no references have to be counted.

    That made the search three times faster: counting those of a state's arrays at every call took
    longer than most calls.
    """
    return kernel(*arguments, _nrt=False)


def entry(*arguments: Any) -> Callable[[F], F]:
    """Mark a function that Python calls, with the types of its arguments."""
    return lambda function: Entry(function, arguments)


def calling(function: Callable[..., Any], name: str, **others: Any) -> Callable[..., Any]:
    """Copy the Python function of a kernel or an entry, to call others in place of some it names.

    For what few need. An entry compiles all that it may reach, so a branch that is never taken
    costs as much as one that always is. An entry of its own compiles when it is first called.

    Parameters
    ----------
    function : callable
        Kernel or entry, whose types hold for the copy too; mark it with them.
    name : str
        What the copy is called; no other function of the module is.
    **others
        Kernels by the names that `function` knows others by, which take the same types.
    """
    plain: Any = inspect.unwrap(function)
    copy = FunctionType(plain.__code__, {**plain.__globals__, **others}, name)
    copy.__qualname__ = name  # tells the files of the cache apart
    copy.__doc__ = plain.__doc__
    return copy


class Entry:
    """A function that compiles, or loads what was compiled before, when it is first called.

    Parameters
    ----------
    function : callable
        A plain loop.
    arguments : tuple of numba types
        What it takes; other arrays are refused, never compiled for.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.arguments = arguments
        self._compiled: Any = None

    def compile(self) -> None:
        """Compile or load, so that the first call does not have to."""
        with global_compiler_lock:  # one lock, since entries share kernels
            if self._compiled is not None:
                return
            if numba.config.DISABLE_JIT:  # everything runs as plain Python then
                self._compiled = self.__wrapped__
                return
            # The collector goes through all that Numba makes again and again. That took a seventh
            # of the time, and longer in a process that holds a model.
            collects = gc.isenabled()
            gc.disable()
            try:
                self._compiled = self._compile()
            finally:
                if collects:
                    gc.enable()

    def _compile(self) -> Any:
        compiled = numba.njit(**OPTIONS, **ENTRY_OPTIONS)(self.__wrapped__)
        try:
            compiled._cache = _Cache(self.__wrapped__)
        except RuntimeError:  # how Numba says that it found no folder
            _warn_that_nothing_is_kept()
            _compile_callees(self.__wrapped__)
        compiled.compile(self.arguments)
        compiled.disable_compile()
        return compiled

    def __call__(self, *arguments: Any) -> Any:
        """Run the compiled function."""
        if self._compiled is None:
            self.compile()
        return self._compiled(*arguments)


def _compile_callees(function: Callable[..., Any]) -> None:
    """Compile the kernels that a function reaches, those that call nothing first."""
    for name in function.__code__.co_names:
        callee: Any = function.__globals__.get(name)
        if getattr(callee, "arguments", ()) and not callee.signatures:
            _compile_callees(callee.py_func)
            callee.compile(callee.arguments)
            callee.disable_compile()


@cache
def _warn_that_nothing_is_kept() -> None:
    warnings.warn(
        "no folder for Numba's cache can be written, so every process compiles anew (seconds); "
        "set NUMBA_CACHE_DIR to a writable folder",
        RuntimeWarning,
        stacklevel=7,
    )


@cache
def _stamp_of_the_core() -> bytes:
    """Digest all sources of the core: an entry holds the code of kernels from other files too."""
    digest = hashlib.sha256(numba.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.digest()


class _Cache(FunctionCache):  # type: ignore[misc]  # Numba has no types
    """Compiled code of one function, a file a signature: a stamp, a digest, what Numba made of it.

    Numba's own index of files is read without a check, so that one damaged byte stops every process
    until somebody deletes it by hand.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = self  # what Numba calls `load` and `save` of

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            _compile_callees(self._py_func)
        return found

    def _path(self, key: Any) -> Path:
        digest = hashlib.sha256(repr(key).encode()).hexdigest()
        return Path(self._cache_path) / f"{self._impl.filename_base}.{digest[:16]}.nbc"

    def load(self, key: Any) -> Any:
        """Return what was saved, None where there is nothing, or nothing of use."""
        path = self._path(key)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        stamp, digest, data = stored[:32], stored[32:64], stored[64:]
        if digest != hashlib.sha256(data).digest():
            warnings.warn(
                f"{path} is damaged; it is compiled and written anew", RuntimeWarning, stacklevel=8
            )
        elif stamp == _stamp_of_the_core():
            return pickle.loads(data)
        return None

    def save(self, key: Any, data: Any) -> None:
        """Keep data; another process sees the old file or the new one, never a part of it."""
        path, content = self._path(key), dumps(data)
        new = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            new.write_bytes(_stamp_of_the_core() + hashlib.sha256(content).digest() + content)
            new.replace(path)
        except OSError:  # a full disk, say: the next process compiles again
            new.unlink(missing_ok=True)
