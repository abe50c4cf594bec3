"""Load files that the tests of reading them share."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from evenload.io import FileFormatError, read_load

RNG = np.random.default_rng(7)
TRACE = RNG.integers(0, 1000, (5, 3, 8))
LOAD = TRACE.sum(axis=0)


def complains(path, message, error=FileFormatError, **options):
    """Reading `path` must fail with exactly this message, `{path}` standing for the file."""
    with pytest.raises(error, match=f"^{re.escape(message.format(path=path))}$"):
        read_load(path, **options)


def save(path: Path, array) -> Path:
    if path.suffix == ".npz":
        np.savez(path, load=array)
    elif path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".csv":
        np.savetxt(path, array, delimiter=",", fmt="%d")
    else:
        path.write_text(json.dumps(array.tolist()))
    return path
