"""Ranks as processes that are killed, stopped, woken and joined: the rest is right.

`make live-stress` runs more of the same seeds.
"""

import pytest
from live_trials import KINDS, STEPS, Trials, make_spec, steps_spec

SEEDS = range(len(KINDS) * 5)


@pytest.fixture(scope="module")
def verdicts():
    """All trials, some side by side."""
    trials = Trials()
    yield {v.spec["seed"]: v for v in trials.run_all([make_spec(s) for s in SEEDS], 4)}
    trials.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rest_goes_on_and_nothing_is_wrong(verdicts, seed):
    verdict = verdicts[seed]
    assert not verdict.faults, verdict.text
    assert verdict.struck or verdict.spec["kind"] == "flip"


def test_there_are_never_two_maps_in_a_step():
    """Ranks compare their maps in each step, while experts move all the time."""
    trials = Trials()
    verdict = trials.run(steps_spec(STEPS), 900.0)
    trials.close()
    assert not verdict.faults, verdict.text
    done = list(verdict.results.values())
    assert [result["end"] for result in done] == ["done"] * 4
    assert all(result["steps"] == STEPS and result["moved"] > 100 for result in done)
