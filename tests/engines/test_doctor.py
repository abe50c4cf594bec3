"""`evenload doctor` beside the real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_node_with_the_engine_plans(engine):
    command = [sys.executable, "-m", "evenload", "doctor", "--engine", engine, "--json"]
    asked = os.environ | {"EVENLOAD_VLLM": "1"}
    how = {"capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run(command, env=asked, check=False, **how)
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["problems"]) == (0, [])
    assert (facts["hook"], facts["group_of_ranks"]) == ("found", "found")
    assert "leaked" not in done.stderr
