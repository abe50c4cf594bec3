"""One rank of the benchmark `live`: ``python -m benchmarks.live_rank PORT RANK FOLDER ROUNDS``."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed import AllreduceOptions, PrefixStore, TCPStore

from evenload import Cluster, Placement
from evenload.live import Balancer, Membership
from evenload.live.mover import Mover
from evenload.live.proposal import Proposal
from evenload.live.transport import Message, TorchTransport

RANKS, SLOTS, SPARE, EXPERTS, LAYERS = 4, 8, 4, 16, 3
EXPERT_BYTES = 42 << 20  # of DeepSeek-V3, in FP8
SIDE = 384  # of the matrices that stand in for a forward


class TimedMover(Mover):
    """Notes the CPU time of the thread that changes layers over."""

    took: list[float]

    def _flip(self, due: list[Any]) -> None:
        began = time.thread_time()
        super()._flip(due)
        if due:
            self.took.append((time.thread_time() - began) / len(due))


class TimedBalancer(Balancer):
    """A balancer with that mover."""

    mover = TimedMover


class Bench:
    """What one rank measures, beside the others at the same time."""

    def __init__(self, port: int, rank: int) -> None:
        self.rank = rank
        self.store = TCPStore("127.0.0.1", port, None, False)
        self.cluster = Cluster(RANKS, slots_per_gpu=SLOTS)
        self.here = Placement.trivial(LAYERS, EXPERTS, self.cluster)
        draw, rows = np.random.default_rng(0), []
        for row in self.here.rows:  # each GPU changes three of its experts for its neighbour's
            new = row.copy().reshape(RANKS, SLOTS)
            picked = draw.permutation(SLOTS)[:3]
            new[:, picked] = np.roll(new[:, picked], 1, axis=0)
            rows.append(new.reshape(-1))
        self.there = Placement(np.stack(rows), self.cluster, EXPERTS)
        self.balancers = {}
        for checksums in (True, False):
            tensors = [[torch.zeros(SLOTS + SPARE, EXPERT_BYTES, dtype=torch.uint8)]
                       for _ in range(LAYERS)]  # fmt: skip
            members = Membership(self.store, rank, range(RANKS), prefix=f"sums{checksums}")
            self.balancers[checksums] = TimedBalancer(
                self.store, members, self.here, tensors, checksums=checksums
            )
            self.balancers[checksums]._mover.took = []
        bare = PrefixStore("bare", self.store.clone())
        self.bare = TorchTransport(bare, rank, range(RANKS), 60.0)

    def meet(self) -> None:
        """Wait for all ranks."""
        self.bare.most([0])

    def exchange(self, target: Placement) -> float:
        """Send the same bytes in the same batches, and nothing else: seconds."""
        mover = self.balancers[False]._mover
        plan = Proposal.make(mover.map, target.rows, self.cluster, mover.room, {})
        links = plan.links(mover.map, self.cluster)
        self.meet()
        began = time.perf_counter()
        for link in links:
            free = iter(mover.weights.free(link.layer))
            sent, received = [], []
            for number, (expert, source, gpu) in enumerate(link.moves.tolist()):
                if source == self.rank:
                    view = mover.weights.views(link.layer, mover.weights.row_of[link.layer][expert])
                    sent.append(Message(gpu, number, view[0]))
                elif gpu == self.rank:
                    received.append(
                        Message(source, number, mover.weights.views(link.layer, next(free))[0])
                    )
            self.bare.exchange(sent, received)
        return time.perf_counter() - began

    def move(self, checksums: bool, target: Placement, forward: bool) -> tuple[float, list[float]]:
        """Move, with forwards above it or without: seconds until all is there, and of each step."""
        balancer, steps = self.balancers[checksums], []
        self.meet()
        began = time.perf_counter()
        if self.rank == 0:
            balancer.start(target)
        arrived = False
        while not arrived:
            step = time.perf_counter()
            balancer.step()
            arrived = np.array_equal(balancer.map, target.rows)
            arrived = self.forward(balancer, arrived, forward)
            steps.append(time.perf_counter() - step)
            if not forward:
                time.sleep(0.0005)
        return time.perf_counter() - began, steps

    def forward(self, balancer: Balancer, arrived: bool, computes: bool) -> bool:
        """Compute something, and agree with the others whether all have arrived."""
        if computes:
            matrix = torch.ones(SIDE, SIDE)
            for _ in range(4):
                matrix = (matrix @ matrix) * (1.0 / SIDE)
        flag, options = torch.tensor([int(arrived)]), AllreduceOptions()
        options.reduceOp = torch.distributed.ReduceOp.MIN
        balancer.group.allreduce([flag], options).wait()
        return bool(flag)

    def idle_steps(self) -> list[float]:
        """Return the seconds of steps under which nothing moves."""
        took = []
        self.meet()
        for _ in range(60):
            began = time.perf_counter()
            self.balancers[True].step()
            self.forward(self.balancers[True], True, True)
            took.append(time.perf_counter() - began)
        return took

    def die(self, folder: Path) -> dict[str, float]:
        """Lose the last rank, and say how long it took the others to go on."""
        balancer = self.balancers[True]
        self.meet()
        if self.rank == RANKS - 1:
            (folder / "died").write_text(repr(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            balancer.step()
            try:
                self.forward(balancer, True, True)
            except (RuntimeError, AttributeError):
                break
        seen = time.time() - float((folder / "died").read_text())
        report = balancer.recover()
        return {"noticed": seen, **report.seconds}


def main() -> None:
    """Measure all rounds, and write what this rank saw."""
    port, rank, folder, rounds = sys.argv[1:]
    torch.set_num_threads(1)
    bench = Bench(int(port), int(rank))
    told: dict[str, Any] = {"bare": [], "sums": [], "none": [], "background": [], "stall": []}
    for number in range(int(rounds) + 1):  # the first warms up
        there = bench.there if number % 2 == 0 else bench.here
        bare = bench.exchange(there)
        none = bench.move(False, there, False)[0]
        sums = bench.move(True, there, False)[0]
        if number:
            told["bare"].append(bare)
            told["none"].append(none)
            told["sums"].append(sums)
    target = bench.there if int(rounds) % 2 else bench.here
    idle = bench.idle_steps()
    for _ in range(int(rounds)):
        target = bench.here if target is bench.there else bench.there
        took, steps = bench.move(True, target, True)
        told["background"].append(took)
        told["stall"].append(max(steps) - float(np.median(idle)))
    told["idle"] = [float(np.median(idle)), max(idle)]
    told["flip"] = bench.balancers[True]._mover.took + bench.balancers[False]._mover.took
    told["death"] = bench.die(Path(folder))
    path = Path(folder) / f"rank{rank}"
    path.with_suffix(".part").write_text(json.dumps(told))
    path.with_suffix(".part").rename(path.with_suffix(".json"))
    os._exit(0)


if __name__ == "__main__":
    main()
