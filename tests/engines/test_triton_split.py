"""The Triton kernel of `evenload.splitting`: on a GPU if there is one, else in the interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_gives_the_whole_numbers_of_the_compiled_loops():
    pytest.importorskip("triton", reason="Triton is not installed")
    words = [sys.executable, str(Path(__file__).with_name("triton_split.py"))]
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        words, env=os.environ | interpret, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
