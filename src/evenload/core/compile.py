"""How kernels are compiled: one explicit signature each, on first use, and kept on disk.

`entry` marks what Python calls, `kernel` what only kernels call. Importing compiles nothing. An
entry compiles when it is first called: first the kernels that it reaches, each once, then itself.
Measured: letting Numba infer the signatures compiled half of all kernels twice (a literal ``n = 0``
is a type of its own), and Python wrappers of kernels that Python never calls took a quarter of the
time.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
import uuid
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numba
from llvmlite.binding import Linkage, parse_assembly
from numba import types
from numba.core.caching import FunctionCache
from numba.core.cgutils import normalize_ir_text
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.serialize import dumps
from numba.core.typed_passes import NativeLowering, NopythonTypeInference

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


def kernel(*arguments: Any) -> Callable[[F], F]:
    """Mark a function that only entries and kernels call, with the types of its arguments.

    Without types Numba compiles it for each set of types that it is called with.
    """
    return _mark(arguments)


def step(*arguments: Any) -> Callable[[F], F]:
    """Mark a kernel that allocates nothing, so that no references have to be counted.

    That made the search three times faster: counting those of a state's arrays at every call took
    longer than most calls.
    """
    return _mark(arguments, _nrt=False)


def _mark(arguments: tuple[Any, ...], **more: bool) -> Callable[[F], F]:
    def mark(function: F) -> F:
        compiled: Any = numba.njit(**OPTIONS, **KERNEL_OPTIONS, **more)(function)
        compiled.arguments = arguments
        marked: F = compiled
        return marked

    return mark


class _KernelLibrary(JITCodeLibrary):  # type: ignore[misc]  # Numba has no types
    """The code of a kernel on its way into an entry, as it was lowered.

    Entries link and optimise all that they reach. Doing so for each kernel too, and making machine
    code of it that nobody runs, took half of the time.
    """

    def add_ir_module(self, ir_module: Any) -> None:
        self._final_module = parse_assembly(normalize_ir_text(str(ir_module)))
        for function in self._final_module.functions:
            if not function.is_declaration:
                function.linkage = Linkage.linkonce_odr

    def finalize(self) -> None:
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        return self._final_module


class _EntryLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of an entry, optimised once: Numba's first round only serves to count references."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        reached = self._linking_libraries
        for library in reached:  # which grows
            if isinstance(library, _KernelLibrary):
                reached += [more for more in library._linking_libraries if more not in reached]
        super().finalize()

    def _optimize_final_module(self) -> None:
        # What nobody else can call loses the arguments that it does not use: most of a state's
        # hundred numbers. The search runs up to one and a half times as fast for it.
        for function in self._final_module.functions:
            if function.linkage == Linkage.linkonce_odr:
                function.linkage = Linkage.internal
        manager, builder = self._codegen._module_pass_manager()
        manager.run(self._final_module, builder)


class _Lower(Lower):  # type: ignore[misc]
    """Reads and writes elements of arrays where they are.

    Numba copies the description of the array to the stack each time, which made two thirds of the
    code that LLVM had to look at.
    """

    def lower_getitem(self, wanted: Any, expr: Any, value: Any, index: Any, signature: Any) -> Any:
        element = self._element(value, index)
        if element is None:
            return super().lower_getitem(wanted, expr, value, index, signature)
        kind = self.typeof(value.name).dtype
        loaded = self.context.unpack_value(self.builder, kind, element)
        return self.context.cast(self.builder, loaded, kind, wanted)

    def lower_setitem(self, target: Any, index: Any, value: Any, signature: Any) -> Any:
        element = self._element(target, index)
        if element is None:
            return super().lower_setitem(target, index, value, signature)
        kind = self.typeof(target.name).dtype
        stored = self.loadvar(value.name)
        stored = self.context.cast(self.builder, stored, self.typeof(value.name), kind)
        return self.context.pack_value(self.builder, kind, stored, element)

    def _element(self, array: Any, index: Any) -> Any:
        """Point to one element; None unless int64 numbers tell which."""
        kind, at, context = self.typeof(array.name), self.typeof(index.name), self.context
        is_tuple = isinstance(at, types.BaseTuple)
        whole = [types.unliteral(number) for number in (at.types if is_tuple else [at])]
        if not isinstance(kind, types.Array) or whole != [Int] * kind.ndim:
            return None
        if kind.layout != "C" or not kind.aligned or context.enable_boundscheck:
            return None
        b, numbers = self.builder, [self.loadvar(index.name)]
        if is_tuple:
            numbers = [b.extract_value(numbers[0], axis) for axis in range(kind.ndim)]
        model, described = context.data_model_manager[kind], self.loadvar(array.name)
        shape = model.get(b, described, "shape")
        place = None
        for axis, number in enumerate(numbers):
            size = b.extract_value(shape, axis)
            negative = b.icmp_signed("<", number, number.type(0))
            number = b.select(negative, b.add(number, size), number)
            place = number if place is None else b.add(b.mul(place, size), number)
        return b.gep(model.get(b, described, "data"), [place])


class _Lowering(NativeLowering):  # type: ignore[misc]
    library = JITCodeLibrary
    lowering_class = _Lower

    def run_pass(self, state: Any) -> bool:
        state.library = self.library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        lowered: bool = super().run_pass(state)
        return lowered


@register_pass(mutates_CFG=True, analysis_only=False)
class _EntryLowering(_Lowering):
    _name = "entry_lowering"
    library = _EntryLibrary


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(_Lowering):
    _name = "kernel_lowering"
    library = _KernelLibrary

    def run_pass(self, state: Any) -> bool:
        state.flags.no_compile = True
        super().run_pass(state)
        key: Any = [].append  # Numba finds the code by a built-in function of its own
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=key)
        return True


class _Typing:
    """Numba's rules of types, each asked once: inference asks for every operator many times."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._known: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, arguments: Any, keywords: Any) -> Any:
        key = function, tuple(arguments), tuple(keywords.items())
        if key not in self._known:
            self._known[key] = self._context.resolve_function_type(function, arguments, keywords)
        return self._known[key]


@cache
def _typing(context: Any) -> _Typing:
    return _Typing(context)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Inference(NopythonTypeInference):  # type: ignore[misc]
    _name = "inference"

    def run_pass(self, state: Any) -> bool:
        usual = state.typingctx
        state.typingctx = _typing(usual)
        inferred: bool = super().run_pass(state)
        state.typingctx = usual
        return inferred


UNUSED = {
    "with_lifting",
    "nopython_rewrites",
    "dead_branch_prune",
    "inline_closure_likes",
    "make_function_op_code_to_jit_function",
    "inline_inlinables",
    "find_literally",
    "literal_unroll",
    "inline_overloads",
}
"""Passes for what no kernel has: closures, contexts, literals that pick the code."""


class _Passes(PassManager):  # type: ignore[misc]
    """The passes of a kernel, without a check of the code after each of them."""

    _ENFORCING = False


class _Compiler(CompilerBase):  # type: ignore[misc]
    own: ClassVar[dict[Any, Any]] = {
        NativeLowering: _EntryLowering,
        NopythonTypeInference: _Inference,
    }

    def define_pipelines(self) -> list[PassManager]:
        usual = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager = _Passes("evenload")
        for step, description in usual.passes:
            if step.name() not in UNUSED:
                manager.add_pass(self.own.get(step, step), description)
        manager.finalize()
        return [manager]


class _KernelCompiler(_Compiler):
    own: ClassVar[dict[Any, Any]] = {**_Compiler.own, NativeLowering: _KernelLowering}


KERNEL_OPTIONS = {
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _KernelCompiler,
}
ENTRY_OPTIONS = {"no_cfunc_wrapper": True, "pipeline_class": _Compiler}


def entry(*arguments: Any) -> Callable[[F], F]:
    """Mark a function that Python calls, with the types of its arguments."""

    def mark(function: F) -> F:
        marked: Any = Entry(function, arguments)
        return marked  # type: ignore[no-any-return]

    return mark


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
        self._lock = threading.Lock()

    def compile(self) -> None:
        """Compile or load, so that the first call does not have to."""
        with self._lock:
            if self._compiled is not None:
                return
            compiled = numba.njit(**OPTIONS, **ENTRY_OPTIONS)(self.__wrapped__)
            try:
                compiled._cache = _Cache(self.__wrapped__)
            except RuntimeError:  # how Numba says that it found no folder
                _warn_that_nothing_is_kept()
            if not isinstance(compiled._cache, _Cache):
                _compile_callees(self.__wrapped__)
            compiled.compile(self.arguments)
            compiled.disable_compile()
            self._compiled = compiled

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
        stacklevel=6,
    )


@cache
def _stamp_of_the_core() -> bytes:
    """Digest all sources of the core: an entry holds the code of kernels from other files too."""
    digest = hashlib.sha256(numba.__version__.encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.digest()


class _Cache(FunctionCache):  # type: ignore[misc]  # Numba has no types
    """Numba's cache of one function, in a file that tells when it is stale or damaged."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _File(Path(self._cache_path), self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            _compile_callees(self._py_func)
        return found


class _File:
    """Compiled code by key, one file each: a stamp, a digest, and what Numba made of it.

    Numba's own index of files is read without a check, so that one damaged byte stops every process
    until somebody deletes it by hand.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name

    def _path(self, key: Any) -> Path:
        return (
            self._folder / f"{self._name}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        )

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

    def flush(self) -> None:
        """Do what Numba asks for where it empties a cache."""
        for path in self._folder.glob(f"{self._name}.*"):
            path.unlink(missing_ok=True)
