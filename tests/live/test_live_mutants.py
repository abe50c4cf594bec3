"""The trials find out what is left out of the protocol: each mutant fails for one of its seeds.

Two of a mutant's seeds or more showed it when they were looked for; deaths come at other moments on
a busy machine, so that one seed is not enough to rely on.
"""

import pytest
from live_mutants import NAMES
from live_trials import Trials, make_spec

SEEDS = {
    "no vote": (0, 9, 44, 2),
    "no store": (9, 42, 31, 20),
    "any step": (0, 11, 2, 12),
    "no sums": (21, 43, 54, 32),
    "dead source": (3, 1, 2, 12),
}


@pytest.fixture(scope="module")
def trials():
    run = Trials()
    yield run
    run.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_is_found(trials, name):
    said = []
    for seed in SEEDS[name]:
        verdict = trials.run(make_spec(seed, 4) | {"mutation": name}, 30.0)
        if verdict.faults:
            return
        said.append(verdict.text)
    pytest.fail(f"{name} passes as right: {said}")
