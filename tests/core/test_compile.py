"""What Numba keeps on disk, and what happens where it cannot."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evenload

# Two kernels in two files, of which one calls a third file: quick to compile.
SCRIPT = """
import json, warnings
import numpy as np

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from evenload.kernels.evaluate import count_replicas
    from evenload.kernels.packs import Packs
    from evenload.kernels.swap import best_swap
    import evenload
    count = count_replicas(np.array([[0, 1, 1]]), 2).tolist()
    share, expert = np.array([[10, 4], [4, 1]]), np.array([[0, 1], [1, 2]])
    load = np.array([14, 5])
    packs = Packs(share, expert, load, np.array([5 << 1 | 1, 14 << 1 | 0]), 1)
    swap = best_swap(packs, 0, 1, 9)
print(json.dumps({
    "home": evenload.__file__,
    "count": count,
    "swap": swap,
    "warnings": [[w.category.__name__, str(w.message)] for w in caught],
    "hits": [sum(k.stats.cache_hits.values()) for k in (count_replicas, best_swap)],
    "misses": [sum(k.stats.cache_misses.values()) for k in (count_replicas, best_swap)],
}))
"""

COUNT = [[1, 2]]
SWAP = [9, -1, -1]  # the best exchange would be no legal one
UNCHECKED_SWAP = [3, 0, 0]  # what it would be if every exchange were legal


@pytest.fixture
def copy(tmp_path):
    """A copy of the package without anything compiled."""
    source, target = Path(evenload.__file__).parent, tmp_path / "copy" / "evenload"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def run(copy, **env):
    """Run the script on the copy, and return what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**kept, "PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Path(result["home"]).parent == copy
    return result


@pytest.mark.skipif(sys.platform == "win32", reason="the user's cache folder is found elsewhere")
def test_works_with_one_warning_where_no_folder_can_be_written(copy, tmp_path):
    """Folders below a regular file cannot be made, not even by root."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    (copy / "kernels" / "__pycache__").write_text("not a folder")
    nowhere = str(blocked / "below")
    result = run(copy, NUMBA_CACHE_DIR=nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere)
    assert (result["count"], result["swap"]) == (COUNT, SWAP)
    [(category, message)] = result["warnings"]
    assert category == "RuntimeWarning"
    assert "set NUMBA_CACHE_DIR to a writable folder" in message
    assert result["hits"] == [0, 0]


def test_a_second_process_compiles_nothing_until_a_kernel_changes(copy):
    first = run(copy)
    assert (first["count"], first["swap"]) == (COUNT, SWAP)
    assert first["warnings"] == []
    assert (first["hits"], first["misses"]) == ([0, 0], [1, 1])

    # Copying an image may cut the fractions of a second off all times.
    for file in (copy / "kernels").glob("*.py"):
        os.utime(file, (1e9, 1e9))
    second = run(copy)
    assert (second["count"], second["swap"]) == (COUNT, SWAP)
    assert (second["hits"], second["misses"]) == ([1, 1], [0, 0])

    # `swap` calls `fits` from this file, and Numba itself looks at the caller's file only.
    slots = copy / "kernels" / "slots.py"
    old = slots.read_text()
    new = old.replace("return slot_of(expert, k, expert[m, i]) < 0 and", "return True or")
    assert new != old
    slots.write_text(new)
    assert run(copy)["swap"] == UNCHECKED_SWAP


EVERYTHING = """
import importlib, json, pkgutil
import numpy as np
import evenload.kernels
from evenload import Cluster, Placement, eplb, solve
from evenload.ahead import warmup
from evenload.traffic import nodes_per_token

def compiled():
    found = set()
    for file in pkgutil.iter_modules(evenload.kernels.__path__):
        if not file.name.startswith("torch"):
            for kernel in vars(importlib.import_module("evenload.kernels." + file.name)).values():
                for types in getattr(kernel, "signatures", ()):
                    found.add(kernel.py_func.__name__ + str(types))
    return found

warmup()
before = compiled()
load = np.random.default_rng(0).lognormal(0.0, 1.2, (3, 24))
fixed = load.astype(np.float32)[:, ::-1]
fixed.setflags(write=False)
topk = np.arange(30).reshape(5, 3, 2) % 24
alive = [True] * 5 + [False]
for cluster, topology in (
    (Cluster(1, slots_per_gpu=24), "ignore"),
    (Cluster(2, slots_per_gpu=30), "ignore"),
    (Cluster(24, 4, slots_per_gpu=1), "ignore"),
    (Cluster(16, 4, slots_per_gpu=2), "ignore"),
    (Cluster(16, 4, slots_per_gpu=2), "strict"),
    (Cluster(16, 4, slots_per_gpu=2), "prefer"),
    (Cluster(12, 2, slots_per_gpu=3), "strict"),
    (Cluster(32, 4, slots_per_gpu=9), "ignore"),
    (Cluster(6, 2, slots_per_gpu=8, alive=alive), "ignore"),
    (Cluster(6, 2, slots_per_gpu=8, alive=alive), "strict"),
    (Cluster(4, 2, slots=[8, 7, 9, 8], speed=[1, 2, 1, 1]), "ignore"),
    (Cluster(4, 2, slots=[8, 7, 9, 8], speed=[1, 2, 1, 1]), "strict"),
    (Cluster(4, 2, num_slots=30), "prefer"),
):
    for solver in ("auto", "greedy", "iterated-greedy", "local-search", "joint"):
        for given in (load, fixed):
            try:
                plan = solve(given, cluster, num_groups=4, topology=topology, solver=solver)
            except ValueError:
                continue  # beyond this solver
            plan.summary(), plan.split, plan.away_share
            place = plan.placement
            place.logical_to_physical, place.balancedness(given, place.split(given))
            place.moves_from(Placement.trivial(3, 24, cluster))
            nodes_per_token(place, topk)
            Placement(place.physical_to_logical, cluster, 24).gpu_load(given)
for dtype in ("f2", "f4", "f8", "i4"):
    given = fixed.astype(dtype)
    eplb.balanced_packing(given, 4), eplb.replicate_experts(given, 30)
    eplb.rebalance_experts(given, 32, 4, 4, 8)
print(json.dumps([len(before), sorted(compiled() - before)]))
"""


def test_nothing_is_compiled_or_loaded_after_the_warmup():
    """Each kernel for each number type and layout of its arrays: what is new would be compiled."""
    command = [sys.executable, "-c", EVERYTHING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    num_compiled, new = json.loads(done.stdout)
    assert num_compiled > 20
    assert new == []
