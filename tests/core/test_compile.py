"""What is compiled and when, what is kept on disk, and what happens where that is damaged."""

import os
import shutil
import sys
from pathlib import Path

import programs
import pytest

import evenload

# An entry that calls a kernel from another file, and one that calls another in its place: quick to
# compile.
PROBE = """
from evenload.core.compile import Int, calling, entry, step
from evenload.core.grid import bit_length

@entry(Int)
def probe(number):
    return bit_length(number)

@entry(Int)
def other(number):
    return number + 1

@step(Int)
def double(number):
    return 2 * number

instead = entry(Int)(calling(probe, "instead", bit_length=double))
"""

SCRIPT = """
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import evenload
    from evenload.core.probe import instead, other, probe
    at_import = list(compiled)
    result = [probe(9), other(9), instead(9)]
print(json.dumps({
    "home": evenload.__file__,
    "at_import": at_import,
    "result": result,
    "compiled": [name.rpartition(".")[2] for name in compiled],
    "warnings": [[w.category.__name__, str(w.message)] for w in caught],
}))
"""

RESULT = [4, 10, 18]
ALL = ["bit_length", "probe", "other", "double", "instead"]


@pytest.fixture
def copy(tmp_path):
    """A copy of the package with nothing compiled, and the probe."""
    source, target = Path(evenload.__file__).parent, tmp_path / "copy" / "evenload"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "core" / "probe.py").write_text(PROBE)
    return target


def start(copy, **env):
    ours = dict.fromkeys(name for name in os.environ if name.startswith("NUMBA_"))
    path = {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return programs.start(programs.COUNTING + SCRIPT, **ours | path | env)


def end(process, copy):
    """Return what the script printed."""
    result = programs.printed(process)
    assert Path(result["home"]).parent == copy
    assert result["at_import"] == []
    assert result["result"] == RESULT
    return result


def run(copy, **env):
    return end(start(copy, **env), copy)


@pytest.mark.skipif(sys.platform == "win32", reason="the user's cache folder is found elsewhere")
def test_works_with_one_warning_where_no_folder_can_be_written(copy, tmp_path):
    """Folders below a regular file cannot be made, not even by root."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    (copy / "core" / "__pycache__").write_text("not a folder")
    nowhere = str(blocked / "below")
    result = run(copy, NUMBA_CACHE_DIR=nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere)
    [(category, message)] = result["warnings"]
    assert category == "RuntimeWarning"
    assert "set NUMBA_CACHE_DIR to a writable folder" in message
    assert result["compiled"] == ALL


def test_a_second_process_compiles_nothing_until_a_kernel_changes(copy):
    first = run(copy)
    assert first["warnings"] == []
    assert first["compiled"] == ALL

    # Copying an image may cut the fractions of a second off all times.
    for file in (copy / "core").glob("*.py"):
        os.utime(file, (1e9, 1e9))
    second = run(copy)
    assert second["warnings"] == []
    assert second["compiled"] == []

    # `probe` calls it from this file, and Numba itself looks at the caller's file only.
    grid = copy / "core" / "grid.py"
    old = grid.read_text()
    new = old.replace("    bits = 1\n", "    bits = 1 + 0\n")
    assert new != old
    grid.write_text(new)
    third = run(copy)
    assert third["warnings"] == []
    assert third["compiled"] == ALL
    assert run(copy)["compiled"] == []


DAMAGE = {
    "emptied": lambda kept: b"",
    "cut short": lambda kept: kept[:40],
    "truncated": lambda kept: kept[:-100],
    "one bit": lambda kept: kept[:100] + bytes([kept[100] ^ 1]) + kept[101:],
    "zeros": lambda kept: bytes(len(kept)),
    "garbage": lambda kept: b"not what was written" * 200,
}


def test_a_damaged_file_is_compiled_anew_with_one_warning(copy, tmp_path):
    folder = tmp_path / "cache"
    run(copy, NUMBA_CACHE_DIR=str(folder))
    (kept,) = folder.rglob("probe.probe-*.nbc")
    for name, damage in DAMAGE.items():
        kept.write_bytes(damage(kept.read_bytes()))
        result = run(copy, NUMBA_CACHE_DIR=str(folder))
        assert result["warnings"] == [
            ["RuntimeWarning", f"{kept} is damaged; it is compiled and written anew"]
        ], name
        assert result["compiled"] == ["bit_length", "probe"], name
    assert run(copy, NUMBA_CACHE_DIR=str(folder))["compiled"] == []


def test_four_processes_at_once_on_an_empty_cache(copy, tmp_path):
    folder = str(tmp_path / "cache")
    processes = [start(copy, NUMBA_CACHE_DIR=folder) for _ in range(4)]
    for process in processes:
        assert end(process, copy)["warnings"] == []
    assert run(copy, NUMBA_CACHE_DIR=folder)["compiled"] == []


# --- how much is compiled ---------------------------------------------------------------------

COUNTS = """
import numpy as np
from evenload import Cluster, Placement, eplb
from evenload.bounds import balancedness_bound
from evenload.problem import Problem

load, cluster = np.random.default_rng(0).lognormal(0, 1, (3, 24)), Cluster(6, 2, 6)

place = Placement.trivial(3, 24, cluster)
count("balancedness", lambda: place.balancedness(load))
count("bound", lambda: balancedness_bound(Problem.build(load, cluster)))
count("bound of groups", lambda: balancedness_bound(Problem.build(load, cluster, 4)))
count("split", lambda: place.split(load))
count("packing", lambda: eplb.balanced_packing(load, 4))
count("packing in float32", lambda: eplb.balanced_packing(load.astype("f4"), 4))
count("again", lambda: (
    eplb.balanced_packing(load[:, ::-1], 4), eplb.balanced_packing(load.astype("f2"), 8),
    eplb.balanced_packing(load.astype(int), 8), Placement.trivial(3, 24, cluster).split(load),
))
"""


def test_each_kernel_is_compiled_once(tmp_path):
    counts, _ = programs.compilations(COUNTS, tmp_path)
    most = {
        "balancedness": 1,
        "bound": 15,
        "bound of groups": 1,
        "split": 19,
        "packing": 13,
        "packing in float32": 11,
        "again": 0,
    }
    assert {name: len(compiled) for name, compiled in counts.items()} == most
