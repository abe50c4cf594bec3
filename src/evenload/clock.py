"""The time that work takes, apart from what Numba takes to load or compile kernels for it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Any


class Stopwatch(ExitStack):
    """Times a ``with`` block, and the loading of kernels in it separately.

    A kernel is loaded from Numba's cache or compiled when it is first called, which takes far
    longer than the call. Threads that wait for the same kernel count once.
    """

    seconds = 0.0  #: wall time of the block without `kernels`
    kernels = 0.0  #: wall time in which kernels were loaded or compiled
    compiling = 0.0  #: the part of it in which kernels were compiled, because no cache had them

    def __enter__(self) -> Stopwatch:
        from numba.core.event import install_timer

        for event, name in ("numba:compiler_lock", "kernels"), ("numba:compile", "compiling"):
            self.enter_context(install_timer(event, partial(setattr, self, name)))
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        took = time.perf_counter() - self._started
        super().__exit__(*error)  # tells kernels and compiling
        self.seconds = took - self.kernels
