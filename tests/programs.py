"""Scripts run by a Python of their own, and what they compile."""

import json
import os
import subprocess
import sys

COUNTING = """
import json
from numba.core import event

compiled, counts = [], {}

class Listener(event.Listener):
    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        compiled.append(f"{function.__module__}.{function.__qualname__}")

    def on_end(self, event):
        pass

event.register("numba:compile", Listener())

def count(name, run):
    compiled.clear()
    result = run()
    counts[name] = list(compiled)
    return result
"""


def start(script, *args, **env):
    """Start a script; `env` is added to the environment, or taken out of it where it is None."""
    env = {name: value for name, value in {**os.environ, **env}.items() if value is not None}
    return subprocess.Popen(
        [sys.executable, "-c", script, *args],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process):
    """Return the JSON that a script prints; it must not fail."""
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return json.loads(out)


def compilations(script, folder):
    """Return what a script compiles in what it counts; kernels of evenload once at most in each.

    Parameters
    ----------
    script : str
        What comes after `COUNTING`.
    folder : Path
        Of what is kept on disk.

    Returns
    -------
    ours, every : dict of str to list of str
        Kernels of evenload, and all functions, by the name that the script counts them under.
    """
    script = f"{COUNTING}{script}print(json.dumps(counts))"
    every = printed(start(script, NUMBA_CACHE_DIR=str(folder)))
    ours = {
        name: [kernel for kernel in compiled if kernel.startswith("evenload.")]
        for name, compiled in every.items()
    }
    assert all(len(compiled) == len(set(compiled)) for compiled in ours.values()), ours
    return ours, every
