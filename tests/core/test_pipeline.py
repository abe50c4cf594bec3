"""Kernels through our own pipeline and through Numba's, where parts of it are missing."""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import programs
import pytest
from numba import types
from numba.core.lowering import Lower

from evenload.core import compile, pipeline
from evenload.core.bound import quick_times
from evenload.core.compile import Entry, Flag2, Float1, Float2, Int, Int1, Int2, step
from evenload.core.grid import sort_keys

SCRIPT = """
import json, sys
import numpy as np
import numba.core.{module}
del numba.core.{module}.{name}
from evenload.core import compile
from evenload.core.bound import quick_times
load = np.array(json.loads(sys.argv[1]))
time = np.empty(len(load))
quick_times(load, 9, np.arange(4.0), *np.arange(4) * np.array([[3], [3]]), 1, time)
print(json.dumps([compile.KERNEL_OPTIONS, time.tolist()]))
"""


def load():
    return -np.sort(-np.random.default_rng(0).lognormal(0, 1, (5, 7)))


@pytest.mark.parametrize(
    ("module", "name"), [("typed_passes", "NativeLowering"), ("codegen", "JITCodeLibrary")]
)
def test_results_are_the_same_without_what_a_future_numba_may_lack(module, name, tmp_path):
    script = SCRIPT.format(module=module, name=name)
    process = programs.start(script, json.dumps(load().tolist()), NUMBA_CACHE_DIR=str(tmp_path))
    options, time = programs.printed(process)
    assert options == {}
    ours = np.empty(5)
    quick_times(load(), 9, np.arange(4.0), *np.arange(4) * np.array([[3], [3]]), 1, ours)
    assert compile.KERNEL_OPTIONS
    assert time == ours.tolist()


def test_a_numba_without_a_method_that_is_overridden_is_told_at_import(monkeypatch):
    monkeypatch.delattr(Lower, "lower_setitem")
    with pytest.raises(ImportError, match=r"no Lower\.lower_setitem"):
        importlib.reload(pipeline)


shared = step(Int1, Int, Int1)(sort_keys.py_func)


def first(keys, scratch):
    shared(keys, keys.size, scratch)


def second(keys, scratch):
    shared(keys, keys.size, scratch)
    keys[0] += 1


def test_threads_compile_entries_that_share_kernels_at_once(monkeypatch):
    class NoFolder:
        def __init__(self, function):
            raise RuntimeError

    monkeypatch.setattr(compile, "_Cache", NoFolder)
    monkeypatch.setattr(compile, "_warn_that_nothing_is_kept", lambda: None)
    barrier = Barrier(2)

    def run(function):
        entry, keys = Entry(function, (Int1, Int1)), np.array([3, 1, 2])
        barrier.wait()
        entry(keys, np.empty(3, np.int64))
        return keys.tolist()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, [first, second])) == [[1, 2, 3], [2, 2, 3]]


def read(ints, floats, flags, row, out):
    out[0] = ints[2, row] + ints[row, 3]
    out[1] = floats[row + 2]
    out[2] = flags[row, 2 - row]
    flags[2, 0] = 7
    ints[row][3] = row


def test_elements_are_those_of_numpy():
    for row in range(3):
        made = []
        for run in (read, Entry(read, (Int2, Float1, Flag2, Int, Float1))):
            ints, floats = np.arange(12).reshape(3, 4), np.arange(5) / 3
            flags, out = np.arange(9, dtype=np.uint8).reshape(3, 3), np.empty(3)
            run(ints, floats, flags, row, out)
            made.append([a.tolist() for a in (ints, floats, flags, out)])
        assert made[0] == made[1]


CHECKED = """
import hashlib, json, os
import numpy as np
from evenload import Cluster, Placement, solve
from evenload.core.compile import Entry, Int, Int1

def get(array, i):
    return array[i]

if "NUMBA_BOUNDSCHECK" in os.environ:
    for i in (-1, 3):
        try:
            Entry(get, (Int1, Int))(np.arange(3), i)
        except IndexError:
            continue
        raise SystemExit(f"{i} passes")
rng, told = np.random.default_rng(0), hashlib.sha256()
load = rng.lognormal(0.0, 1.5, (4, 5, 16))
clusters = [Cluster(8, 2, slots_per_gpu=k) for k in (2, 3, 4)]
clusters += [Cluster(4, 2, slots=[3, 9, 7, 5], speed=[1, 2, 1, 3], alive=[True, True, False, True])]
for cluster in clusters:
    plan = solve(load[0], cluster)
    plans = [plan, solve(load[1], cluster, current=plan.placement),
             solve(load, cluster, current=plan.placement, max_moves=3)]
    if cluster.all_alive:
        plans += [solve(load[0], cluster, solver=name)
                  for name in ("greedy", "local-search", "iterated-greedy")]
        plans += [solve(load[2], cluster, num_groups=4, topology=kept)
                  for kept in ("strict", "prefer")]
    for plan in plans:
        told.update(plan.placement.physical_to_logical.tobytes())
        told.update(plan.bound.tobytes() + plan.split.tobytes())
print(json.dumps(told.hexdigest()))
"""


def test_no_kernel_looks_outside_of_its_arrays(tmp_path):
    """None asks for the last element by -1 either, which compiled code would look for before."""
    told = [
        programs.printed(programs.start(CHECKED, **more))
        for more in ({}, {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)})
    ]
    assert told[0] == told[1]


def test_other_layouts_and_indices_are_left_to_numba():
    def column(rows, which, out):
        turned = rows.T
        out[0] = turned[1, 0] + turned[0][which[0]]

    rows, out = np.arange(6.0).reshape(2, 3), np.empty(1)
    Entry(column, (Float2, types.uint8[::1], Float1))(rows, np.array([1], np.uint8), out)
    assert out.tolist() == [1.0 + 3.0]
