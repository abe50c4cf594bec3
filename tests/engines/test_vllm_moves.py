"""Experts that the real vLLM moves between processes, and a bit that is flipped on the way."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RANK = Path(__file__).parent / "vllm_moves.py"
RANKS = 3
ROUNDS = {"at once": 0, "at once, spoilt": 1, "by layer": 2, "by layer, spoilt": 3}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank said in each round, as (log, right, told)."""
    store = tmp_path_factory.mktemp("moves") / "store"
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(RANK), str(rank), str(RANKS), str(store)],
            env={**os.environ, "PYTHONHASHSEED": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    said = [re.findall(r"(.*?)^SAID (\w+) ([^\n]*)", out, re.M | re.DOTALL) for out in outputs]
    assert all(len(part) == len(ROUNDS) for part in said), outputs
    return said


@pytest.mark.parametrize("how", ["at once", "by layer"])
def test_a_move_of_vllm_keeps_the_bytes(ranks, how):
    rounds = [rank[ROUNDS[how]] for rank in ranks]
    assert [(right, told) for _, right, told in rounds] == [("True", "[]")] * len(ranks)
    assert "experts have the same bytes after the move, layers [0, 1, 2, 3, 4]" in rounds[0][0]


@pytest.mark.parametrize("how", ["at once, spoilt", "by layer, spoilt"])
def test_a_flipped_bit_is_told_to_every_rank(ranks, how):
    rounds = [rank[ROUNDS[how]] for rank in ranks]
    assert [right for _, right, _ in rounds].count("False") == 1
    assert rounds[1][1] == "False"
    told = {told for *_, told in rounds}
    assert len(told) == 1
    (text,) = ast.literal_eval(told.pop())
    assert text.startswith("a rebalance did not keep the experts' weights: layer 3: expert ")
    assert re.search(r" and now slot \d+ \(rank 1\) holds no expert's weights", text)
    assert all("evenload: a rebalance did not keep" in log for log, *_ in rounds[:2])
