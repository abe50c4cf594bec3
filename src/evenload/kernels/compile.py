"""How kernels are compiled: without the interpreter lock, cached on disk where that is possible."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

OPTIONS = {"nogil": True, "error_model": "numpy"}


@cache
def _warn_once() -> None:
    warnings.warn(
        "no folder for Numba's cache can be written, so every process compiles anew (seconds); "
        "set NUMBA_CACHE_DIR to a writable folder",
        RuntimeWarning,
        stacklevel=5,
    )


@cache
def _stamp_of_all_kernels() -> str:
    """Digest the sources: unlike times, it survives being copied into an image."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _watch_all_kernels(compiled: Any) -> None:
    """Make cached code stale when any kernel changes.

    Numba looks at the file of the cached function only, and would run on with the old code of the
    kernels that it calls from other files. The attributes are not public: without them the cache
    works as Numba made it.
    """
    cache_file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _stamp_of_all_kernels()


def kernel(function: Kernel) -> Kernel:
    """Compile a plain loop with Numba on first use, releasing the interpreter lock.

    No ``fastmath`` and no ``parallel``: results must be the same bytes on every machine, and
    Numba's own threads neither survive a fork nor get on with torch's. Where no cache folder can be
    written the kernel still works and one `RuntimeWarning` says what that costs.
    """
    try:
        compiled: Kernel = numba.njit(function, cache=True, **OPTIONS)
    except RuntimeError:
        _warn_once()
        compiled = numba.njit(function, cache=False, **OPTIONS)
    _watch_all_kernels(compiled)
    return compiled


def inlined(function: Kernel) -> Kernel:
    """Compile a small step as a part of each kernel that takes it.

    For steps of an inner loop that take a tuple of many arrays: handing those to a function of its
    own counts references, which costs more than the step.
    """
    compiled: Kernel = numba.njit(function, inline="always", **OPTIONS)
    return compiled
