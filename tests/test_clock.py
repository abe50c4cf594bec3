"""The stopwatch that leaves kernels out."""

import numba
import numpy as np

from evenload.clock import Stopwatch


def test_kernels_are_timed_apart():
    @numba.njit
    def kernel(x):
        return x.sum()

    with Stopwatch() as first:
        kernel(np.ones(3))
    with Stopwatch() as second:
        kernel(np.ones(3))
    assert first.kernels >= first.compiling > 0.0
    assert second.kernels == second.compiling == 0.0
    assert min(first.seconds, second.seconds) > 0.0


def test_an_error_leaves_no_listener_behind():
    from numba.core.event import _registered

    before = {kind: list(listeners) for kind, listeners in _registered.items()}
    try:
        with Stopwatch():
            raise RuntimeError
    except RuntimeError:
        pass
    assert {kind: there for kind, there in _registered.items() if there} == {
        kind: there for kind, there in before.items() if there
    }
