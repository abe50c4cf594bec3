"""The same bytes whatever the threads, the process and the hash seed."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from evenload import Cluster, solve, threads

COMMON = """
import hashlib, sys
import numpy as np
from evenload import Cluster, solve
from evenload.cost import ExpertTime

SOLVERS = ("greedy", "iterated-greedy", "local-search", "joint")
# Two and three slots per GPU, GPUs that differ, and groups that may leave their node.
HARDER = (
    (Cluster(48, slots_per_gpu=2), {}),
    (Cluster(32, slots_per_gpu=3), {}),
    (Cluster(8, 2, num_slots=90, speed=[1, 2] * 4, alive=[True] * 7 + [False]), {}),
    (Cluster(8, 2, num_slots=90, speed=[1, 2] * 4), {"num_groups": 4, "topology": "strict"}),
    (Cluster(16, 4, num_slots=90), {"num_groups": 8, "topology": "prefer"}),
)

def loads():
    rng = np.random.default_rng(11)
    return rng.integers(0, 1000, (58, 256)) ** 2 * (rng.integers(0, 40, (58, 256)) + 1)

def plans():
    load = loads()
    for solver in SOLVERS:
        yield solve(load, Cluster(32, num_slots=288), solver=solver)
        plan = solve(load, Cluster(32, 4, num_slots=288), num_groups=8, solver=solver)
        yield plan
    for cluster, options in HARDER:
        yield solve(load[:20, :64], cluster, effort=60, **options)
    curve = ExpertTime([(1, 3.0), (100, 3.1), (200, 6.0)])
    for cluster, groups in ((HARDER[0][0], 1), (HARDER[2][0], 1), (HARDER[3][0], 4)):
        how = {"expert_time": curve, "tokens_per_batch": 300, "top_k": 4, "effort": 200}
        yield solve(load[:20, :64], cluster, num_groups=groups, **how)
    trace = np.stack([load, np.roll(load, 1, axis=0), load + np.roll(load, 2, axis=0)])
    yield solve(trace, plan.placement.cluster, current=plan.placement, effort=200)

def digest():
    sha = hashlib.sha256()
    for plan in plans():
        for part in (plan.placement.physical_to_logical, plan.placement.logical_to_physical,
                     plan.balancedness, plan.bound):
            sha.update(part.tobytes())
    return sha.hexdigest()
"""


def run_script(script, num_threads=2, hash_seed="0"):
    """Start `script` after the common part; the standard output of a process that did not fail."""
    env = {**os.environ, "EVENLOAD_NUM_THREADS": str(num_threads), "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def digest():
    """SHA-256 of all plans with one thread."""
    return run_script("print(digest())", num_threads=1)


@pytest.mark.parametrize(("num_threads", "hash_seed"), [(2, "1"), (5, "4242")])
def test_threads_and_hash_seed_change_nothing(digest, num_threads, hash_seed):
    assert run_script("print(digest())", num_threads, hash_seed) == digest


# The parent has solved before, so its pool of threads is there when the child is made.
FORK = """
import multiprocessing
expected = digest()
if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send(digest()))
    child.start()
    print(expected, here.recv() if here.poll(60) else "nothing")
    child.join(10)
    print(child.exitcode, digest() == expected)
    child.kill()  # one that hangs would be waited for
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork is safe on Linux only")
def test_works_in_a_child_after_fork(digest):
    assert run_script(FORK) == [*digest, *digest, "0", "True"]


# Nothing is compiled or loaded when the threads meet at the first call.
AT_ONCE = """
import threading
meet, results = threading.Barrier(4), []

def work():
    meet.wait()
    results.append(digest())

together = [threading.Thread(target=work) for _ in range(4)]
for thread in together: thread.start()
for thread in together: thread.join()
print(len(results), *set(results))
"""


def test_first_calls_from_several_threads_at_once(digest):
    assert run_script(AT_ONCE) == ["4", *digest]


# --- threads ----------------------------------------------------------------------------------


@pytest.fixture
def many_threads(monkeypatch):
    """Spread work over three threads, however few cores there are."""
    monkeypatch.setattr(threads, "num_threads", lambda: 3)


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize("solver", ["greedy", "iterated-greedy", "local-search", "joint"])
def test_works_from_several_python_threads(solver):
    rng = np.random.default_rng(5)
    jobs = [rng.lognormal(0, 1, (40, 64)) for _ in range(6)]

    def work(load):
        return solve(load, Cluster(16, num_slots=320), solver=solver).placement

    alone = [work(load) for load in jobs]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, jobs * 2)) == alone * 2


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 58])
@pytest.mark.parametrize("steps", [1, 2 * threads.STEPS_A_THREAD, 10**6])
def test_spread_covers_every_row_once(num_rows, steps):
    seen, workers = np.zeros(num_rows, int), set()

    def run(first, end):
        seen[first:end] += 1
        workers.add((threading.get_ident(), first))

    threads.spread(num_rows, steps, run)
    assert seen.tolist() == [1] * num_rows
    assert len(workers) == min(3, num_rows, max(1, steps // threads.STEPS_A_THREAD))


@pytest.mark.usefixtures("many_threads")
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_in_any_thread_is_raised(failing):
    def run(first, end):
        if first <= failing < end:
            raise ArithmeticError(f"row {failing}")

    with pytest.raises(ArithmeticError, match=f"row {failing}"):
        threads.spread(3, 10**6, run)


@pytest.mark.usefixtures("many_threads")
def test_an_interrupt_does_not_wait_for_the_other_threads():
    """They may wait for a lock that the interrupted thread left taken."""
    go_on, ended = threading.Event(), []

    def run(first, end):
        if first == 0:
            raise KeyboardInterrupt
        ended.append(go_on.wait(10))

    try:
        with pytest.raises(KeyboardInterrupt):
            threads.spread(3, 10**6, run)
        assert ended == []
    finally:
        go_on.set()


@pytest.fixture
def _fresh_num_threads():
    threads.num_threads.cache_clear()
    yield
    threads.num_threads.cache_clear()


@pytest.mark.usefixtures("_fresh_num_threads")
@pytest.mark.parametrize("wanted", ["1", "5", "64"])
def test_the_environment_sets_the_threads(monkeypatch, wanted):
    monkeypatch.setenv("EVENLOAD_NUM_THREADS", wanted)
    assert threads.num_threads() == int(wanted)


@pytest.mark.usefixtures("_fresh_num_threads")
@pytest.mark.parametrize("wanted", ["0", "-1", "two", "", "1.5", "²"])
def test_an_illegal_number_of_threads_is_named(monkeypatch, wanted):
    monkeypatch.setenv("EVENLOAD_NUM_THREADS", wanted)
    with pytest.raises(ValueError, match=f"EVENLOAD_NUM_THREADS='{wanted}'.*use 1 or more"):
        threads.num_threads()


@pytest.mark.usefixtures("_fresh_num_threads")
def test_threads_stay_few_where_nothing_is_said(monkeypatch):
    monkeypatch.delenv("EVENLOAD_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 96)
    threads.use_at_most(threads.MOST_THREADS)  # a plug-in that was registered has fewer
    assert threads.num_threads() == threads.MOST_THREADS
