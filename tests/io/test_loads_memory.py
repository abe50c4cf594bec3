"""A large dump is read from its places in the file, and not held."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

_READ = """
import sys
from evenload.io import read_load
def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
read_load(sys.argv[1])
before = peak()
file = read_load(sys.argv[2])
print(peak() - before, file.num_windows)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
@pytest.mark.parametrize(("tokens", "share"), [(512, 0.15), (16, 0.3)])
def test_memory_does_not_grow_with_the_dump(tmp_path, tokens, share):
    from benchmarks.memory import write_dump

    small, large = tmp_path / "small.pt", tmp_path / "large.pt"
    write_dump(small, 1, tokens)
    write_dump(large, 3e7, tokens)
    run = [sys.executable, "-c", _READ, str(small), str(large)]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    grown, windows = map(int, done.stdout.split())
    assert windows > 20
    assert grown < share * large.stat().st_size
