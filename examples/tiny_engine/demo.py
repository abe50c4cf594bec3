"""`make live-demo`: answers requests, moves experts, kills a rank, goes on, and takes it back."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import time
from typing import Any

# torch asks DNS who connects to its store, and both ends wait for the answer.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
FOLDER = os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="evenload-"))

REQUESTS = int(os.environ.get("REQUESTS", "160"))
VICTIM = 2


def serve_store(pipe: Any) -> None:
    """Serve the store until this process is ended: it outlives every rank."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    pipe.send(store.port)
    signal.pause()


def serve_rank(port: int, rank: int, joins: bool) -> None:
    """Run one rank until all requests are answered."""
    import torch

    torch.set_num_threads(1)
    from .engine import Engine

    Engine(port, rank, joins, REQUESTS).run()
    os._exit(0)


class Demo:
    """Starts the processes, ends one of them, and says what it sees."""

    def __init__(self) -> None:
        from torch.distributed import TCPStore

        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["examples.tiny_engine.engine"])
        here, there = self.context.Pipe()
        self.server = self.context.Process(target=serve_store, args=(there,), daemon=True)
        self.server.start()
        self.port = here.recv()
        self.store = TCPStore("127.0.0.1", self.port, None, False)
        self.ranks: dict[int, Any] = {}
        self.began, self.shown = time.monotonic(), 0

    def start(self, rank: int, joins: bool = False) -> None:
        """Start the process of a rank."""
        arguments = self.port, rank, joins
        self.ranks[rank] = self.context.Process(target=serve_rank, args=arguments, daemon=True)
        self.ranks[rank].start()

    def say(self, text: str) -> None:
        """Print a line with the time."""
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def answered(self) -> int:
        """Return how many requests are."""
        return int(self.store.add("answered", 0))

    def until(self, answers: int) -> None:
        """Wait for so many answers, and print what the ranks say meanwhile."""
        shown, tokens, since = self.answered(), self._tokens(), time.monotonic()
        while True:
            self.pass_on()
            now, number = time.monotonic(), self.answered()
            if now - since > 3.0 or number >= answers:
                speed = max(self._tokens() - tokens, 0) / max(now - since, 1e-9)
                self.say(f"{number} of {REQUESTS} requests answered, {speed:.0f} tokens a second")
                shown, tokens, since = number, self._tokens(), now
            if number >= answers:
                return
            if not any(process.is_alive() for process in self.ranks.values()):
                raise SystemExit(f"all ranks have ended with {shown} answers")
            time.sleep(0.05)

    def pass_on(self) -> None:
        """Print what the ranks have said since."""
        while self.store.check([f"said/{self.shown + 1}"]):
            self.shown += 1
            self.say(self.store.get(f"said/{self.shown}").decode())

    def _tokens(self) -> int:
        keys = [f"tokens/{rank}" for rank in self.ranks]
        return sum(int(self.store.get(key)) for key in keys if self.store.check([key]))

    def compare(self) -> bool:
        """Answer every request again in this process, without a balancer, and compare."""
        from .model import Config, Model, answer_alone

        self.say("answering all of them again in one process, without a balancer")
        right = answer_alone(Model(Config()), list(range(REQUESTS)))
        told = [json.loads(self.store.get(f"answer/{number}")) for number in range(REQUESTS)]
        wrong = [number for number in range(REQUESTS) if told[number] != right[number]]
        same = REQUESTS - len(wrong)
        self.say(f"{same} of {REQUESTS} answers are, token for token, those of a single process")
        return not wrong


def show_metrics() -> None:
    """Print what Prometheus would scrape, where its client is installed."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
    except ImportError:
        print("metrics: install evenload[metrics] to see them")
        return
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    wanted = ("rebalances_total", "moves_total", "moved_bytes_total", "balancedness_predicted{")
    for line in generate_latest(registry).decode().splitlines():
        if any(name in line for name in wanted) and not line.startswith("#"):
            print("         ", line)


def main() -> int:
    """Run the demonstration; 1 if an answer differs."""
    demo = Demo()
    demo.store.set("hold", "1")  # ranks wait for more, until this is gone
    demo.say("a Qwen3-MoE with 3 layers x 16 experts, random weights, served by 4 processes")
    for rank in range(4):
        demo.start(rank)
    demo.until(REQUESTS * 2 // 5)
    os.kill(demo.ranks[VICTIM].pid, signal.SIGKILL)
    demo.say(f"rank {VICTIM} is killed; its requests are asked again")
    demo.until(REQUESTS * 3 // 5)
    demo.start(VICTIM, joins=True)
    demo.say(f"a new process wants to join as rank {VICTIM}")
    demo.until(REQUESTS)
    for _ in range(200):
        if f"[{', '.join(map(str, range(4)))}]" in demo.store.get("generation").decode():
            break
        time.sleep(0.1)
    demo.store.delete_key("hold")
    for process in demo.ranks.values():
        process.join(60.0)
    demo.pass_on()
    right = demo.compare()
    show_metrics()
    demo.server.terminate()
    return 0 if right else 1
