"""Seeded trials: ranks that die, stop, wake and join, and what must hold of those that are left."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from live_ranks import IN_RECOVERY, rank_main, store_main

from evenload.live.states import POINTS

# torch asks DNS who connects to its store, and both ends wait for the answer: 5 s and more where
# there is none.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

STEPS = 10_000  # in a row, in which maps are compared
KILL, STOP = "SIGKILL", "SIGSTOP"
BOUND = 240.0  # seconds until a trial hangs: it takes two, and much longer on a busy machine
KINDS = (
    "point",
    "point",
    "point",
    "random",
    "two",
    "recovery",
    "stop",
    "wake",
    "join",
    "torn",
    "flip",
)


def make_spec(seed: int, ranks: int = 0) -> dict:  # noqa: PLR0912
    """Draw a trial: who dies where, how many ranks there are, what they hold, whom they admit."""
    draw = random.Random(seed)
    ranks = ranks or (8 if draw.random() < 0.1 else 4)
    kind = KINDS[seed % len(KINDS)]
    copies = draw.choice([1, 2])
    experts = draw.choice([6, 8])
    slots = -(-experts * copies // ranks) + draw.choice([1, 2])
    while slots * (ranks - 2) < experts:  # two may die
        slots += 1
    spec = {
        "seed": seed, "ranks": ranks, "kind": kind, "copies": copies, "experts": experts,
        "slots": slots, "spare": draw.choice([1, 2, 3]), "layers": draw.choice([1, 2, 3]),
        "kills": [], "joiners": [],
    }  # fmt: skip
    if draw.random() < 0.3:
        spec["budget"] = 212 * spec["spare"]
    others = draw.sample(range(ranks), ranks)
    first, second = others[:2]
    points = [p for p in POINTS if p not in IN_RECOVERY]
    point = points[(seed // len(KINDS)) % len(points)]
    rank = 0 if point == "proposing" else first
    kill = {"rank": rank, "signal": KILL, "point": point, "nth": draw.randrange(1, 6)}
    anytime = {"rank": first, "signal": KILL, "after": draw.uniform(0.0, 0.6)}
    if kind == "point":
        spec["kills"] = [kill]
    elif kind == "random":
        spec["kills"] = [anytime]
    elif kind == "two":
        later = {"rank": second, "signal": KILL, "after": draw.uniform(0.0, 1.5)}
        spec["kills"] = [anytime, later]
    elif kind == "recovery":
        where = draw.choice(IN_RECOVERY)
        again = {"rank": second, "signal": KILL, "point": where, "nth": 2}
        spec["kills"] = [anytime, again]
    elif kind == "stop":
        spec["kills"] = [kill | {"signal": STOP, "wake": None}]
    elif kind == "wake":
        spec["kills"] = [kill | {"signal": STOP, "wake": draw.choice([0.2, 1.0, 2.5, 5.0])}]
    elif kind == "join":
        spec["kills"] = [anytime]
        spec["joiners"] = [first]
        if draw.random() < 0.4:
            where = draw.choice(points + list(IN_RECOVERY))
            struck = {"rank": first, "signal": KILL, "point": where, "nth": 1, "joiner": True}
            if draw.random() < 0.5:
                struck = {"rank": second, "signal": KILL, "point": where, "nth": 9}
            spec["kills"].append(struck)
    elif kind == "flip":
        spec["flip"] = {"rank": first, "nth": draw.randrange(1, 4)}
    else:
        spec["torn"] = True
        spec["kills"] = [kill | {"point": "torn", "nth": draw.randrange(1, 12 * ranks)}]
    return spec


def steps_spec(steps: int) -> dict:
    """Return a trial without deaths, in which maps are compared in so many steps in a row."""
    return make_spec(0, 4) | {"kills": [], "steps": steps, "pause": 0.0}


@dataclass
class Verdict:
    """What became of a trial."""

    spec: dict
    faults: list[str] = field(default_factory=list)
    results: dict[str, dict] = field(default_factory=dict)
    struck: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """One line."""
        said = "; ".join(self.faults) if self.faults else "right"
        return f"seed {self.spec['seed']} ({self.spec['kind']}, {self.spec['ranks']} ranks): {said}"


class Trials:
    """A forkserver that has torch loaded, and a store in a process of its own."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["live_warm"])
        # It passes over what it cannot import, silently, and does not know this one's path.
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(path)):
            forkserver.ensure_running()
        self.folder = Path(tempfile.mkdtemp(prefix="evenload-live-"))
        self.store, self.port = self.start_store()
        self.number, self.lock = 0, threading.Lock()

    def start_store(self):
        here, there = self.context.Pipe()
        process = self.context.Process(target=store_main, args=(there,), daemon=True)
        process.start()
        assert here.poll(60.0), "the store does not start"
        return process, here.recv()

    def close(self) -> None:
        self.store.kill()
        self.store.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run_all(self, specs: list[dict], side_by_side: int = 3) -> Iterator[Verdict]:
        """Run trials, some at a time: they wait more than they work."""
        with ThreadPoolExecutor(side_by_side) as pool:
            yield from pool.map(self.run, specs)

    def run(self, spec: dict, bound: float = BOUND) -> Verdict:
        """Run one trial to its end, and judge it."""
        with self.lock:
            self.number += 1
            spec = {"port": self.port, "try": self.number, **spec}
        trial = _Trial(self, spec, self.folder / str(spec["try"]), bound)
        try:
            return trial.run()
        finally:
            trial.end()


class _Trial:
    def __init__(self, trials: Trials, spec: dict, folder: Path, bound: float) -> None:
        from torch.distributed import PrefixStore, TCPStore

        self.trials, self.spec, self.folder = trials, spec, folder
        folder.mkdir()
        self.began = time.monotonic()
        self.deadline = self.began + bound
        client = TCPStore("127.0.0.1", spec["port"], None, False)
        self.notes = PrefixStore(f"trial{spec['seed']}-{spec['try']}/notes", client)
        self.processes: dict[str, multiprocessing.Process] = {}
        self.verdict = Verdict(spec)
        self._times: list[float] = []  # at which ranks were hit

    def start(self, rank: int, joins: bool = False) -> None:
        process = self.trials.context.Process(
            target=rank_main, args=(self.spec, rank, joins, str(self.folder)), daemon=True
        )
        process.start()
        self.processes[f"{rank}{'j' if joins else ''}"] = process

    def run(self) -> Verdict:
        for rank in range(self.spec["ranks"]):
            self.start(rank)
        pending = [dict(kill) for kill in self.spec["kills"]]
        joiners, stopped, first = list(self.spec["joiners"]), {}, None
        while time.monotonic() < self.deadline:
            now = time.monotonic()
            if first is None and self._serving():
                first = now
            if first is not None:
                pending = [kill for kill in pending if not self._strike(kill, now - first, stopped)]
                for rank in list(joiners):
                    if not self.processes[str(rank)].is_alive():
                        joiners.remove(rank)
                        self.start(rank, joins=True)
            self._wake(stopped, now)
            ends_itself = "steps" in self.spec
            if (
                not ends_itself
                and first is not None
                and not pending
                and not joiners
                and not self._waking(stopped)
            ):
                settled = now - max([first, *self._times])
                if settled > (1.5 if "flip" in self.spec else 0.3):
                    self._tell_over(stopped)
            if not [n for n, p in self.processes.items() if p.is_alive() and n not in stopped]:
                break
            time.sleep(0.02)
        else:
            self._tell_of_hang(stopped)
        self.verdict.seconds = time.monotonic() - self.began
        self._judge(stopped)
        return self.verdict

    def _serving(self) -> bool:
        return self.notes.check(["serving"])

    def _strike(self, kill, age, stopped) -> bool:
        """Do what is to be done from here; whether this kill is over."""
        name = f"{kill['rank']}{'j' if kill.get('joiner') else ''}"
        process = self.processes.get(name)
        if process is None:
            return age > 15.0
        mark = self.folder / f"struck-{name}"
        if kill.get("point"):
            if mark.exists():
                self.verdict.struck.append(f"{name} at {mark.read_text()}")
                self._hit(name, kill, stopped)
                return True
            if not process.is_alive():
                return True
            if age < kill.get("patience", 3.0):
                return False
        elif age < kill["after"]:
            return False
        if process.is_alive():  # its point was never reached: any other will do
            os.kill(process.pid, getattr(signal, kill["signal"]))
            self.verdict.struck.append(f"{name} at any time")
            self._hit(name, kill, stopped)
        return True

    def _hit(self, name, kill, stopped) -> None:
        now = time.monotonic()
        self._times = [*self._times, now]
        if kill["signal"] == STOP:
            wake = kill.get("wake")
            stopped[name] = None if wake is None else now + wake

    def _waking(self, stopped) -> bool:
        return any(when is not None for when in stopped.values())

    def _wake(self, stopped, now) -> None:
        for name, when in list(stopped.items()):
            if when is not None and now > when:
                del stopped[name]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.processes[name].pid, signal.SIGCONT)
                self._times = [*self._times, now]

    def _tell_over(self, stopped) -> None:
        """Say who is expected to be left; ranks end together once these are the group."""
        left = sorted({int(name.rstrip("j")) for name, process in self.processes.items()
                       if process.is_alive() and name not in stopped})  # fmt: skip
        self.notes.set("over", json.dumps(left))

    def _tell_of_hang(self, stopped) -> None:
        for name, process in self.processes.items():
            if process.is_alive() and name not in stopped:
                os.kill(process.pid, signal.SIGUSR1)
                time.sleep(0.3)
                where = (self.folder / f"trace-{name}").read_text()
                self.verdict.faults.append(f"rank {name} hangs:\n{where}")

    def _judge(self, stopped) -> None:
        faults = self.verdict.faults
        for path in sorted(self.folder.glob("result-*")):
            if path.suffix == ".part":
                continue
            self.verdict.results[path.name.removeprefix("result-")] = json.loads(path.read_text())
        killed = {entry.split(" ")[0] for entry in self.verdict.struck}
        killed |= {path.name.removeprefix("struck-") for path in self.folder.glob("struck-*")}
        for name in self.processes:
            result = self.verdict.results.get(name)
            if result is None:
                if name not in killed and name not in stopped and not faults:
                    faults.append(f"rank {name} ended without a word")
                continue
            faults += [f"rank {name}: {fault}" for fault in result["faults"]]
            gone = len(
                [n for n in self.processes if self.verdict.results.get(n, {}).get("end") != "lost"]
            )
            left = (self.spec["ranks"] - gone) * self.spec["slots"]
            if result["end"] == "lost" and left >= self.spec["experts"]:
                faults.append(f"rank {name}: {result['why']}, and {left} slots are left")
            if result["end"] == "failed" and not result["faults"]:
                faults.append(f"rank {name}: {result['why']}")
        done = {n: r for n, r in self.verdict.results.items() if r["end"] == "done"}
        lost = any(result["end"] == "lost" for result in self.verdict.results.values())
        if not done and not faults and not lost:
            faults.append("no rank came to the end")
        if len({r["map"] for r in done.values()}) > 1:
            faults.append(
                f"ranks end with different maps: { {n: r['map'][:8] for n, r in done.items()} }"
            )
        steps: dict[str, dict[str, str]] = {}
        for name, result in self.verdict.results.items():
            for step, digest in result.get("maps", {}).items():
                steps.setdefault(step, {}).setdefault(digest, name)
        two = [step for step, maps in steps.items() if len(maps) > 1]
        if two:
            faults.append(f"two maps in steps {two[:5]}")

    def end(self) -> None:
        for process in self.processes.values():
            if process.is_alive():
                process.kill()
            process.join()
        shutil.rmtree(self.folder, ignore_errors=True)
