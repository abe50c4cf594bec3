"""One rank of a trial: an engine reduced to what can be checked at each step.

A forward is one all-reduce over the forward's group, which compares the maps of all ranks, and a
look at the bytes of every slot. Started by `live_trials`, in processes of a forkserver.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import live_mutants
import numpy as np
import torch
from torch.distributed import AllreduceOptions, PrefixStore, ReduceOp, TCPStore

from evenload import Cluster, Placement
from evenload.live import membership
from evenload.live.balancer import Balancer, LostError
from evenload.live.membership import FencedError, Membership
from evenload.live.proposal import digest_of
from evenload.live.transport import BrokenError, Message, TorchTransport

BEAT, LIMIT, TIMEOUT, GRACE = 0.05, 1.0, 5.0, 20.0
PAUSE = 0.004  # seconds of a forward: ranks share two cores with others


def row_bytes(layer: int, expert: int, size: int) -> torch.Tensor:
    """What an expert's weights are, for all ranks and for the checkpoint."""
    draw = np.random.default_rng(1000 * layer + expert)
    return torch.from_numpy(draw.integers(0, 256, size).astype(np.uint8))


IN_RECOVERY = ("lost", "agreeing", "agreed", "reconnected", "repairing", "restoring", "serving")
SIZES = (192, 20)  # bytes of an expert in each of its two tensors


def empty_tensors(num_layers: int, rows: int) -> list[list[torch.Tensor]]:
    return [[torch.zeros(rows, size, dtype=torch.uint8) for size in SIZES]
            for _ in range(num_layers)]  # fmt: skip


class RandomPolicy:
    """Any legal map, so that more is tried than a planner ever wants; `copies` of each expert."""

    every = 4

    def __init__(self, seed: int, copies: int) -> None:
        self.draw, self.copies = random.Random(seed), copies

    def plan(self, load, current, cluster):
        del load
        rows = np.full(current.rows.shape, -1)
        for layer in range(len(rows)):
            rows[layer] = self._row(current.num_experts, cluster)
        return rows

    def _row(self, num_experts, cluster):
        """Deal copies out to the GPUs with most room, so that two of an expert lie apart."""
        wanted = [
            e for _ in range(self.copies) for e in self.draw.sample(range(num_experts), num_experts)
        ]
        slots = cluster.num_living_slots
        while len(wanted) < slots:
            wanted.append(self.draw.randrange(num_experts))
        held = {g: [] for g in cluster.living_gpus}
        for expert in wanted[:slots]:
            free = [g for g in held if len(held[g]) < cluster.slots[g]]
            apart = [g for g in free if expert not in held[g]] or free
            least = min(len(held[g]) for g in apart)
            held[self.draw.choice([g for g in apart if len(held[g]) == least])].append(expert)
        row = np.full(cluster.num_slots, -1)
        for g, experts in held.items():
            row[cluster.gpu_of_slot == g] = self.draw.sample(experts, len(experts))
        return row

    def repair(self, load, current, cluster):
        """Keep what is there, and put what is lost where another copy, or a copy more, was."""
        del load
        rows = np.where(cluster.living_slot, current.rows, -1)
        if cluster.num_living_slots < current.num_experts:
            raise ValueError("too few slots are left")
        for layer, row in enumerate(rows):
            gaps = np.flatnonzero(cluster.living_slot & (row < 0))  # of a rank that joins
            row[gaps] = [self.draw.randrange(current.num_experts) for _ in gaps]
            lost = sorted(set(range(current.num_experts)) - set(row.tolist()))
            for expert in lost:
                slots = [s for s in np.flatnonzero(cluster.living_slot).tolist()
                         if (row == row[s]).sum() > 1]  # fmt: skip
                rows[layer, self.draw.choice(slots)] = expert
        return rows

    def ahead(self, load, current):
        if len(current.cluster.living_gpus) < 3:
            return {}
        found = {}
        for gpu in current.cluster.living_gpus:
            alive = [a and g != gpu for g, a in enumerate(current.cluster.alive)]
            left = Cluster(**(current.cluster.arguments | {"alive": alive}))
            found[gpu] = self.repair(load, current, left)
        return found


class TornTransport(TorchTransport):
    """Votes by messages from rank to rank, so that a death can reach some of them and not others.

    gloo's all-reduce cannot be stopped half-way from outside.
    """

    hook = staticmethod(lambda point: None)
    votes = 0

    def most(self, numbers):
        """Turn what posting a receive on a broken pair raises into what the protocol knows."""
        try:
            return self._by_messages(numbers)
        except BrokenError:
            raise
        except RuntimeError as error:
            failure = str(error)
        self.close()
        raise BrokenError(failure)

    def _by_messages(self, numbers):
        if self.votes == 0:
            self.votes = 1  # the first is part of connecting
            return super().most(numbers)
        self.votes += 1
        me, mine = self.me, torch.tensor(numbers, dtype=torch.int64).view(torch.uint8)
        others = [rank for rank in self.ranks if rank != me]
        got = {rank: torch.zeros_like(mine) for rank in others}
        tag = (1 << 24) + self.votes
        works = (
            [self.group.recv([got[r]], self.ranks.index(r), tag) for r in others]
            if self.group
            else []
        )
        failure = "" if self.group else "closed"
        for rank in others:
            if failure:
                break
            failure = self._exchange([Message(rank, tag, mine)], [])
            self.hook("torn")
        for work in works if not failure else ():
            failure = failure or waited(work)
        del works
        if failure:
            self.close()
            raise BrokenError(failure)
        every = [numbers, *(value.view(torch.int64).tolist() for value in got.values())]
        return [max(column) for column in zip(*every, strict=True)]


class FlippingTransport(TorchTransport):
    """Changes one bit of one message to one rank, once."""

    left = 0

    def exchange(self, sent, received):
        super().exchange(sent, received)
        weights = [message for message in received if message.tensor.numel() == SIZES[0]]
        if weights:
            FlippingTransport.left -= 1
            if FlippingTransport.left == 0:
                weights[-1].tensor[100] ^= 4


def waited(work) -> str:
    try:
        work.wait()
    except RuntimeError as error:
        return str(error)
    return ""


class Engine:
    """The loop around a `Balancer`, and all that it checks."""

    def __init__(self, spec, rank, joins, folder) -> None:
        self.spec, self.rank, self.folder = spec, rank, Path(folder)
        self.name = f"{rank}{'j' if joins else ''}"
        self.store = TCPStore("127.0.0.1", spec["port"], None, False)
        self.counts: dict[str, int] = {}
        self.lost: list[tuple[int, int]] = []  # seen lost, each time anew
        self.restored: list[tuple[int, int]] = []
        self.faults: list[str] = []
        self.seconds: list[dict[str, float]] = []
        self.maps: dict[str, str] = {}
        self.balancer = None
        self.moved = self.recoveries = 0
        self.reasons: set[str] = set()
        self.off, self.slow = "", False
        kills = spec["kills"]
        self.mine = [k for k in kills if k["rank"] == rank and k.get("point")
                     and k.get("joiner", False) == joins]  # fmt: skip
        draw = random.Random(spec["seed"])
        cluster = Cluster(spec["ranks"], slots_per_gpu=spec["slots"])
        policy = RandomPolicy(spec["seed"] + 77 * rank, spec["copies"])
        start = RandomPolicy(draw.randrange(1 << 30), spec["copies"])
        rows = np.stack([start._row(spec["experts"], cluster) for _ in range(spec["layers"])])
        self.placement = Placement(rows, cluster, spec["experts"])
        tensors = empty_tensors(spec["layers"], spec["slots"] + spec["spare"])
        if not joins:
            own = rows[:, rank * spec["slots"] : (rank + 1) * spec["slots"]]
            for layer, experts in enumerate(own.tolist()):
                for slot, expert in enumerate(experts):
                    self._fill(layer, expert, [tensor[slot] for tensor in tensors[layer]])
        live_mutants.install(spec.get("mutation", ""))
        prefix = f"trial{spec['seed']}-{spec['try']}"
        self.notes = PrefixStore(f"{prefix}/notes", self.store)
        if spec.get("torn"):
            self._tear()
        if spec.get("flip", {}).get("rank") == rank:
            FlippingTransport.left = spec["flip"]["nth"]
            membership.TorchTransport = FlippingTransport
        self.tensors = tensors
        self.members = Membership(
            self.store, rank, range(spec["ranks"]), beat=BEAT, timeout=TIMEOUT,
            limit=LIMIT * spec["ranks"] / 4, grace=GRACE, joins=joins, prefix=prefix,
        )  # fmt: skip
        self.balancer = Balancer(
            self.store, self.members, self.placement, tensors, policy, self._restore,
            spec.get("budget"), hook=self._hook,
        )  # fmt: skip

    def _tear(self) -> None:
        engine = self

        class Torn(TornTransport):
            hook, me = staticmethod(engine._hook), engine.rank

        membership.TorchTransport = Torn

    def _fill(self, layer, expert, out) -> None:
        for tensor, size in zip(out, SIZES, strict=True):
            tensor.copy_(row_bytes(layer, expert, size))

    def _restore(self, layer, expert, out) -> None:
        if self.balancer is not None and (layer, expert) not in self.lost:
            self.faults.append(f"restored {layer, expert}, which was not lost")
        self._fill(layer, expert, out)

    def _hook(self, point) -> None:
        self.counts[point] = self.counts.get(point, 0) + 1
        if point == "repairing":
            self._see_lost()
        for kill in self.mine:
            if kill["point"] == point and kill["nth"] == self.counts[point]:
                (self.folder / f"part-{self.name}").write_text(point)
                (self.folder / f"part-{self.name}").rename(self.folder / f"struck-{self.name}")
                os.kill(os.getpid(), getattr(signal, kill["signal"]))

    def _see_lost(self) -> None:
        """Tell from the map itself which experts no living rank holds."""
        if self.balancer is None:  # it starts, and a rank was so slow that it was left behind
            self.slow = self.counts["repairing"] > 1
            return
        mover = self.balancer._mover
        for layer, row in enumerate(mover.map):
            living = {
                int(row[s]) for s in range(len(row)) if mover.cluster.alive[s // self.spec["slots"]]
            }
            self.lost += [(layer, e) for e in range(self.spec["experts"]) if e not in living]

    # ---- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        spec, load = self.spec, np.ones((self.spec["layers"], self.spec["experts"]))
        report, over = self.balancer._report(), ""
        self.notes.set("serving", "1")
        while True:
            report = self._noted(self.balancer.step(load))
            if report.step % 8 == 0 and self.notes.check(["over"]):
                over = self.notes.get("over").decode()
            if report.step % 8 == 0 and self.rank == min(report.ranks):
                self._admit(report)
            living = json.loads(over) if over else None
            done = living is not None and sorted(report.ranks) == living
            done = done or report.step >= spec.get("steps", 1 << 60)
            self._check_slots()
            verdict = self._forward(done)
            if verdict is None:
                self._noted(self.balancer.recover())
            elif verdict:
                return
            time.sleep(spec.get("pause", PAUSE))

    def _noted(self, report):
        self.moved += report.moved
        self.restored += report.restored
        self.recoveries += report.recovered
        self.reasons |= {report.reason} - {""}
        self.off = report.off
        if report.seconds:
            self.seconds.append(report.seconds)
        return report

    def _admit(self, report) -> None:
        for rank in self.spec.get("joiners", ()):
            if rank not in report.ranks and not self.members.called:
                with contextlib.suppress(ValueError):
                    self.balancer.admit(rank)

    def _forward(self, done) -> bool | None:
        """Compare maps with all ranks; None where it failed, else whether all are done."""
        digest = int(digest_of(self.balancer.map)[:12], 16)
        tensor = torch.tensor([digest, -digest, -int(done)])
        options = AllreduceOptions()
        options.reduceOp = ReduceOp.MAX
        failed = ""
        try:
            group = self.balancer.group
            group.allreduce([tensor], options).wait()
        except (RuntimeError, AttributeError) as error:
            failed = str(error) or "failed"
        del group
        if failed:
            return None
        most, least, undone = tensor.tolist()
        if most != -least:
            self.faults.append(f"step {self.balancer._mover.number}: ranks have different maps")
        step = f"{self.members.now.number}/{self.balancer._mover.number}"  # one is done again
        self.maps[step] = digest_of(self.balancer.map)
        return undone == -1

    def _check_slots(self) -> None:
        balancer, own = self.balancer, self.balancer._mover.own
        for layer, experts in enumerate(balancer.map[:, own].tolist()):
            table = balancer.tables[layer].tolist()
            for slot, expert in enumerate(experts):
                if expert < 0:
                    continue
                tensors = balancer.weights.tensors[layer]
                for tensor, size in zip(tensors, SIZES, strict=True):
                    if not torch.equal(tensor[table[slot]], truth(layer, expert, size)):
                        self.faults.append(f"layer {layer} slot {slot}: not expert {expert}")

    def result(self, end: str) -> dict:
        every = set(range(self.spec["experts"]))
        if end == "done":
            for layer, row in enumerate(self.balancer.map.tolist()):
                if not every <= set(row):
                    self.faults.append(f"layer {layer}: experts {every - set(row)} are nowhere")
            more = len(self.restored) > len(self.lost)  # a generation that broke saw the same ones
            if not self.slow and (more or set(self.lost) != set(self.restored)):
                self.faults.append(f"lost {self.lost}, restored {self.restored}")
        return {
            "end": end, "faults": self.faults[:5], "map": digest_of(self.balancer.map),
            "moved": self.moved, "restored": self.restored, "lost": self.lost,
            "seconds": self.seconds, "steps": len(self.maps), "recoveries": self.recoveries,
            "reasons": sorted(self.reasons), "off": self.off, "maps": self.maps,
        }  # fmt: skip


_truth: dict[tuple[int, int, int], torch.Tensor] = {}


def truth(layer, expert, size):
    key = layer, expert, size
    if key not in _truth:
        _truth[key] = row_bytes(*key)
    return _truth[key]


def rank_main(spec, rank, joins, folder) -> None:
    """Run one rank to its end, and leave what became of it in a file."""
    assert "live_warm" in sys.modules, "the forkserver has not loaded what ranks share"
    torch.set_num_threads(1)
    name = f"{rank}{'j' if joins else ''}"
    trace = (Path(folder) / f"trace-{name}").open("w")
    faulthandler.register(signal.SIGUSR1, trace, all_threads=True)
    engine = None
    try:
        engine = Engine(spec, rank, joins, folder)
        engine.run()
        result = engine.result("done")
    except FencedError as error:
        result = (
            engine.result("fenced")
            if engine
            else {"end": "fenced", "faults": [], "why": str(error)}
        )
    except LostError as error:
        result = {"end": "lost", "faults": [], "why": str(error)}
    except BaseException as error:
        import traceback

        result = {"end": "failed", "faults": [traceback.format_exc()], "why": repr(error)}
    path = Path(folder) / f"result-{name}"
    path.with_suffix(".part").write_text(json.dumps(result))
    path.with_suffix(".part").rename(path)
    os._exit(0)


def store_main(pipe) -> None:
    """Serve a store until this process is killed."""
    server = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    pipe.send(server.port)
    while True:
        time.sleep(3600)
