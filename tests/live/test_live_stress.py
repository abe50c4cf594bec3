"""Ranks as processes that are killed, stopped, woken and joined: the rest is right.

`make live-stress` runs more of the same seeds.
"""

import pytest
from live_trials import KINDS, Trials, make_spec

SEEDS = range(len(KINDS) * 2)


@pytest.fixture(scope="module")
def verdicts():
    """All trials, some side by side."""
    trials = Trials()
    yield {v.spec["seed"]: v for v in trials.run_all([make_spec(s, 4) for s in SEEDS], 2)}
    trials.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rest_goes_on_and_nothing_is_wrong(verdicts, seed):
    verdict = verdicts[seed]
    assert not verdict.faults, verdict.text
    assert verdict.struck or verdict.spec["kind"] == "flip"
