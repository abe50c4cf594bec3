"""Numba's compiler without what kernels do not need: a third of the time, and faster code.

All that leans on parts of Numba that are not public is here and in `compile._Cache`. Where one of
them is gone, importing this fails, and `compile` does without.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from llvmlite.binding import Linkage, parse_assembly
from numba import types
from numba.core.base import BaseContext
from numba.core.cgutils import do_boundscheck, normalize_ir_text
from numba.core.codegen import CPUCodegen, JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.typed_passes import NativeLowering, NopythonTypeInference
from numba.core.typing.context import BaseContext as Rules

OURS = {  # what is overridden or called below, and might change without a name of a module doing so
    JITCodeLibrary: (
        *("add_ir_module", "enable_object_caching", "finalize", "_get_module_for_linking"),
        *("_optimize_functions", "_optimize_final_module"),
    ),
    CPUCodegen: ("_module_pass_manager",),
    Lower: ("lower_getitem", "lower_setitem", "loadvar", "typeof"),
    NativeLowering: ("lowering_class", "run_pass"),
    BaseContext: ("insert_user_function", "cast", "pack_value", "unpack_value"),
    Rules: ("resolve_function_type",),
    DefaultPassBuilder: ("define_nopython_pipeline",),
}
for _owner, _names in OURS.items():
    for _name in _names:
        if not hasattr(_owner, _name):
            raise ImportError(f"this Numba has no {_owner.__name__}.{_name}")


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

    Numba copies the description of the array to the stack each time, which LLVM's first passes then
    take a quarter of its time to undo. And it lets -1 mean the last element, which no kernel asks
    for (a test sees to that): leaving it out makes the search an eighth faster.
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
        given = [types.unliteral(number) for number in (at.types if is_tuple else [at])]
        if not isinstance(kind, types.Array) or given != [types.int64] * kind.ndim:
            return None
        if kind.layout != "C" or not kind.aligned:
            return None
        b, numbers = self.builder, [self.loadvar(index.name)]
        if is_tuple:
            numbers = [b.extract_value(numbers[0], axis) for axis in range(kind.ndim)]
        model, described = context.data_model_manager[kind], self.loadvar(array.name)
        shape = model.get(b, described, "shape")
        if context.enable_boundscheck:  # by NUMBA_BOUNDSCHECK=1
            for axis, number in enumerate(numbers):
                do_boundscheck(context, b, number, b.extract_value(shape, axis))
        place = numbers[0]
        for axis, number in enumerate(numbers[1:], 1):
            place = b.add(b.mul(place, b.extract_value(shape, axis)), number)
        return b.gep(model.get(b, described, "data"), [place], inbounds=True)


class _Lowering(NativeLowering):  # type: ignore[misc]
    library: Any = JITCodeLibrary
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


_typing = cache(_Typing)


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
