"""The time that work takes, apart from what Numba takes to load or compile kernels for it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType


class Stopwatch:
    """Times a ``with`` block, and the loading of kernels in it separately.

    A kernel is loaded from Numba's cache or compiled when it is first called, which takes far
    longer than the call. Threads that wait for the same kernel count once.

    Attributes
    ----------
    seconds : float
        Wall time of the block without `kernels`.
    kernels : float
        Wall time in which kernels were loaded or compiled.
    compiling : float
        The part of it in which kernels were compiled, because no cache had them.
    """

    def __init__(self) -> None:
        self.seconds = self.kernels = self.compiling = 0.0

    def __enter__(self) -> Stopwatch:
        from numba.core.event import install_timer

        self._timers = ExitStack()
        self._timers.enter_context(install_timer("numba:compiler_lock", self._loaded))
        self._timers.enter_context(install_timer("numba:compile", self._compiled))
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        took = time.perf_counter() - self._started
        self._timers.close()
        self.seconds = took - self.kernels

    def _loaded(self, seconds: float) -> None:
        self.kernels = seconds

    def _compiled(self, seconds: float) -> None:
        self.compiling = seconds
