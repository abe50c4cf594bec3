"""The example's model: a token's logits have the same bits whatever else is computed with it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from examples.tiny_engine.model import (  # noqa: E402
    Config,
    Model,
    answer_alone,
    expert,
    make_request,
    product,
)


@pytest.fixture(scope="module")
def model():
    return Model(Config())


@pytest.mark.parametrize("seed", range(8))
def test_a_row_has_its_own_bits_in_any_batch(seed):
    draw = torch.Generator().manual_seed(seed)
    n, width, out = (int(torch.randint(1, most, (1,), generator=draw)) for most in (40, 97, 130))
    x, weight = torch.randn(n, width, generator=draw), torch.randn(out, width, generator=draw)
    whole = product(x, weight)
    order = torch.randperm(n, generator=draw)
    assert torch.equal(product(x[order], weight), whole[order])
    cut = int(torch.randint(0, n + 1, (1,), generator=draw))
    assert torch.equal(torch.cat([product(x[:cut], weight), product(x[cut:], weight)]), whole)
    torch.testing.assert_close(whole, x @ weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_logits_have_the_same_bits_under_random_splits_of_replicas(model, seed):
    """Each expert's tokens are dealt out to random replicas, which compute them apart."""
    draw = torch.Generator().manual_seed(seed)
    c = model.config

    def experts(replicas):
        def run(layer, x, chosen):
            made = x.new_empty(*chosen.shape, x.shape[1])
            for e in set(chosen.reshape(-1).tolist()):
                row, place = (chosen == e).nonzero(as_tuple=True)
                to = torch.randint(replicas, (len(row),), generator=draw)
                for replica in range(replicas):
                    mine = to == replica
                    part = expert(x[row[mine]], *model.expert_weights(layer, e))
                    made[row[mine], place[mine]] = part
            return made

        return run

    def logits(replicas, numbers):
        requests, found = [make_request(n, c) for n in numbers], []
        for _ in range(4):
            found.append(model.step(requests, experts(replicas)))
            for request, row in zip(requests, found[-1], strict=True):
                request.take(row)
        return torch.stack(found)

    whole = logits(1, range(11))
    assert torch.equal(logits(3, range(11)), whole)
    assert torch.equal(logits(4, [7, 2])[:, 0], whole[:, 7])


def test_a_batch_without_requests_runs_too(model):
    logits = model.step([], lambda layer, x, chosen: x.new_empty(*chosen.shape, x.shape[1]))
    assert logits.shape == (0, model.config.vocab_size)


def test_answers_in_a_batch_are_those_alone(model):
    assert answer_alone(model, [3, 9, 4])[1] == answer_alone(model, [9])[0]


def test_the_demonstration_answers_all_as_a_single_process_does(tmp_path):
    environment = os.environ | {"REQUESTS": "50", "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "examples.tiny_engine"], cwd=ROOT, env=environment, text=True,
        capture_output=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    before, _, after = done.stdout.partition("rank 2 is killed")
    assert re.search(r"generation \d+: ranks \[0, 1, 3\] go on", after), before + after
    assert re.search(r"generation \d+: ranks \[0, 1, 2, 3\] go on", after), after
    assert "50 of 50 answers are, token for token, those of a single process" in after
    assert "restored" not in done.stdout
