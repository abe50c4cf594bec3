"""A model served by SGLang's own engine answers the same, token for token, while experts move.

SGLang's CPU build of its kernels, ``sglang-kernel-cpu``, is on no package index, and calls for
Intel's AMX; so this is its plain PyTorch. `sglang_serve.py` says what stands in for what. All else
is SGLang's own: scheduler, router, recorder, manager, and the move of weights over gloo.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sglang_serve.py")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Answers by transformers and in each round, and the log."""
    folder = tmp_path_factory.mktemp("model")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, check=False,
    )  # fmt: skip
    found = re.search(r"^ANSWERS (.*)$", ended.stdout, re.MULTILINE)
    assert found, ended.stdout[-5000:]
    return json.loads(found[1]), ended.stdout


def test_greedy_answers_are_the_same_token_for_token_while_experts_move(served):
    (expected, *rounds), log = served
    assert len(expected[0]) == 12
    assert all(said == expected for said in rounds)
    moves = [int(count) for count in re.findall(r"evenload \(auto\): .* (\d+) moves", log)]
    assert len(moves) >= 2
    assert all(moves[:2])
    assert log.count("rebalance end") >= 2 * len(moves)


def test_nothing_failed_while_serving(served):
    _, log = served
    assert "Traceback" not in log
    kept = re.findall(r"the old map stays: (.*)", log)
    assert all("paused" in why for why in kept), kept
