"""An expert-parallel engine around a `Balancer`: one process of it is one rank."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import AllreduceOptions, AllToAllOptions, ReduceOp, TCPStore

from evenload import Cluster, Placement
from evenload.live import Balancer, Membership, Policy, Report
from evenload.splitting import WaterFilling

from .model import Config, Model, Request, expert, make_request

RANKS, SLOTS, SPARE = 4, 8, 2  # 32 slots for 16 experts: each has two copies
BATCH = 6  # requests that a rank answers at a time


class Engine:
    """Serves requests of a queue in the store until all are answered.

    Parameters
    ----------
    port : int
        Of the store.
    rank : int
    joins : bool
        Whether the others serve already.
    num_requests : int
    """

    def __init__(self, port: int, rank: int, joins: bool, num_requests: int) -> None:
        self.rank, self.num_requests = rank, num_requests
        self.store = TCPStore("127.0.0.1", port, None, False)
        self.config = Config()
        self.model = Model(self.config)
        c = self.config
        cluster = Cluster(RANKS, slots_per_gpu=SLOTS)
        start = Placement.trivial(c.num_hidden_layers, c.num_experts, cluster)
        rows = SLOTS + SPARE
        tensors = [
            [torch.zeros(rows, 2 * c.moe_intermediate_size, c.hidden_size),
             torch.zeros(rows, c.hidden_size, c.moe_intermediate_size)]
            for _ in range(c.num_hidden_layers)
        ]  # fmt: skip
        if not joins:
            own = start.physical_to_logical[:, rank * SLOTS : (rank + 1) * SLOTS]
            for layer, experts in enumerate(own.tolist()):
                for slot, number in enumerate(experts):
                    self.restore(layer, number, [tensor[slot] for tensor in tensors[layer]])
        members = Membership(self.store, rank, range(RANKS), joins=joins, beat=0.1, limit=2.0)
        policy = Policy(every=24, options={"survive": "gpu", "move_cost": 0.001})
        self.balancer = Balancer(
            self.store, members, start, tensors, policy, self.restore, model="tiny-qwen3-moe"
        )
        self.load = np.zeros((c.num_hidden_layers, c.num_experts))
        self.splits: dict[int, Any] = {}  # of each layer: its map, and how it is split
        self.requests: list[Request] = []
        self.tokens = self.generation = 0

    def restore(self, layer: int, number: int, out: list[Tensor]) -> None:
        """Write an expert as the checkpoint has it."""
        for tensor, weight in zip(out, self.model.expert_weights(layer, number), strict=True):
            tensor.copy_(weight)

    # ---- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Answer requests until there are none: a step is one token of each."""
        in_a_row = 0
        while in_a_row < 5:
            load, self.load = self.load, np.zeros_like(self.load)
            self._hear(self.balancer.step(load))
            self._take_requests()
            failed = self._forward()
            if failed == "over":
                return
            in_a_row = in_a_row + 1 if failed else 0
            if failed:
                self._hear(self.balancer.recover(failed))
        raise RuntimeError(f"{in_a_row} forwards failed in a row: {failed}")

    def _hear(self, report: Report) -> None:
        self._tell(report)
        if report.recovered:
            self._ask_again(report)
        self._admit(report)

    def _forward(self) -> str:
        """Run one step with the others; say why it failed, or that all is answered.

        What an exception holds would keep the connections open, so that it goes no further.
        """
        try:
            if self._all_are_through():
                return "over"
            logits = self.model.step(self.requests, self._experts)
        except RuntimeError as error:
            return str(error) or "failed"
        for request, row in zip(self.requests, logits, strict=True):
            request.take(row)
        self.tokens += len(self.requests)
        for request in [r for r in self.requests if r.done]:
            self.store.set(f"answer/{request.number}", json.dumps(request.answer))
            self.store.add("answered", 1)
            self.requests.remove(request)
        self.store.set(f"tokens/{self.rank}", str(self.tokens))
        return ""

    def _all_are_through(self) -> bool:
        """Whether no rank has anything to do, and none will."""
        done = not self.requests and self.store.add("next", 0) >= self.num_requests
        done = done and self.store.queue_len("again") == 0 and not self.store.check(["hold"])
        flag, options = torch.tensor([int(done)]), AllreduceOptions()
        options.reduceOp = ReduceOp.MIN
        self._group().allreduce([flag], options).wait()
        return bool(flag)

    def _group(self) -> Any:
        group = self.balancer.group
        if group is None:
            raise RuntimeError("the group of this generation is closed")
        return group

    # ---- requests ----------------------------------------------------------------------------

    def _take_requests(self) -> None:
        while len(self.requests) < BATCH:
            if self.store.queue_len("again") > 0 and self.rank == min(self.balancer.members.ranks):
                number = int(self.store.queue_pop("again"))
            elif self.store.add("next", 0) < self.num_requests:
                number = self.store.add("next", 1) - 1
                if number >= self.num_requests:
                    return
            else:
                return
            self.store.set(f"taken/{number}", str(self.rank))
            self.requests.append(make_request(number, self.config))

    def _ask_again(self, report: Report) -> None:
        """Queue what ranks that are gone have not answered."""
        if self.rank != min(report.ranks):
            return
        for number in range(min(self.num_requests, self.store.add("next", 0))):
            if self.store.check([f"answer/{number}"]) or not self.store.check([f"taken/{number}"]):
                continue
            if int(self.store.get(f"taken/{number}")) not in report.ranks:
                self.store.set(f"taken/{number}", str(self.rank))
                self.store.queue_push("again", str(number))

    def _admit(self, report: Report) -> None:
        missing = set(range(RANKS)).difference(report.ranks)
        if missing and self.rank == min(report.ranks) and not self.balancer.members.called:
            for rank in missing:
                self.balancer.admit(rank)

    def _tell(self, report: Report) -> None:
        """Tell the demonstration what happened, in plain lines."""
        if self.rank != min(report.ranks):
            return
        said = [text for text in (report.reason, report.off) if text]
        if report.generation != self.generation:
            self.generation = report.generation
            seconds = ", ".join(f"{name} {took:.2f} s" for name, took in report.seconds.items())
            said.append(
                f"generation {report.generation}: ranks {list(report.ranks)} go on ({seconds}); "
                f"{len(report.restored)} experts from the checkpoint"
            )
        if report.balancedness is not None and report.moved:
            before, after = report.balancedness
            said.append(f"plan: balance {before:.2f} -> {after:.2f}, {report.moved} experts move "
                        f"({report.num_bytes / 1e6:.2f} MB)")  # fmt: skip
        if report.flipped:
            said.append(f"step {report.step}: layers {list(report.flipped)} changed over")
        self.store.set("generation", f"{report.generation}: {list(report.ranks)}")
        for line in said:
            self.store.set(f"said/{self.store.add('said', 1)}", line)

    # ---- experts on other ranks --------------------------------------------------------------

    def _experts(self, layer: int, x: Tensor, chosen: Tensor) -> Tensor:
        """Have each token's experts computed where the map of this step has them."""
        ranks, numbers = self.balancer.members.ranks, chosen.reshape(-1)
        goes = self._slots(layer, numbers, len(ranks), ranks.index(self.rank))
        places = torch.tensor([ranks.index(slot // SLOTS) for slot in goes], dtype=torch.int64)
        order = torch.argsort(places, stable=True)
        sizes = torch.bincount(places, minlength=len(ranks)).tolist()
        copies = x.repeat_interleave(chosen.shape[1], dim=0)[order]
        slots = torch.tensor(goes, dtype=torch.int64)[order]
        theirs = self._all_to_all(torch.tensor(sizes), [1] * len(ranks), [1] * len(ranks)).tolist()
        tokens = self._all_to_all(copies, theirs, sizes)
        wanted = self._all_to_all(slots, theirs, sizes)
        made = self._all_to_all(self._compute(layer, tokens, wanted), sizes, theirs)
        result = torch.empty_like(copies)
        result[order] = made
        return result.view(*chosen.shape, x.shape[1])

    def _slots(self, layer: int, numbers: Tensor, world: int, place: int) -> list[int]:
        """Count this rank's tokens, and return the slot for each copy: every rank splits alike.

        Ranks tell each other how many tokens they have for each expert. Of what a replica gets of
        all of them, each rank takes the part that comes after the ranks before it.
        """
        counts = torch.bincount(numbers, minlength=self.config.num_experts)
        self.load[layer] += counts.numpy()
        told = self._all_to_all(counts.repeat(world), [len(counts)] * world, [len(counts)] * world)
        every = told.view(world, -1)
        split, slot_of = self._split(layer)
        ends = split.quotas(every.sum(dim=0).numpy())[0].cumsum(axis=1)
        replicas = split.placement.logical_to_physical[0]
        passed, goes = every[:place].sum(dim=0).tolist(), []
        for number in numbers.tolist():
            slot = replicas[number, np.searchsorted(ends[number], passed[number], side="right")]
            goes.append(slot_of[number, int(slot) // SLOTS])
            passed[number] += 1
        return goes

    def _split(self, layer: int) -> tuple[WaterFilling, dict[tuple[int, int], int]]:
        """Return how a layer's tokens are split, and the slot of an expert on a rank."""
        row = self.balancer.map[layer]
        kept = self.splits.get(layer)
        if kept is None or not np.array_equal(kept[0], row):
            slot_of = {}
            for slot in np.flatnonzero(row >= 0)[::-1].tolist():
                slot_of[int(row[slot]), slot // SLOTS] = slot
            full = row.reshape(RANKS, SLOTS).copy()
            for experts in full:  # a rank that joins has gaps: as good as one expert more than once
                experts[experts < 0] = experts.max()
            alive = [bool(experts.max() >= 0) for experts in full]
            cluster = Cluster(RANKS, slots_per_gpu=SLOTS, alive=alive)
            split = WaterFilling(Placement([full.reshape(-1)], cluster, self.config.num_experts))
            kept = self.splits[layer] = row.copy(), (split, slot_of)
        return kept[1]

    def _compute(self, layer: int, tokens: Tensor, slots: Tensor) -> Tensor:
        """Compute tokens [n, H] on this rank's slots; the table says which row each reads."""
        weights, table = self.balancer.weights.tensors[layer], self.balancer.tables[layer]
        made = torch.empty_like(tokens)
        for slot in sorted(set(slots.tolist())):
            mine = (slots == slot).nonzero()[:, 0]
            row = int(table[slot - self.rank * SLOTS])
            made[mine] = expert(tokens[mine], weights[0][row], weights[1][row])
        return made

    def _all_to_all(self, sent: Tensor, receives: list[int], sends: list[int]) -> Tensor:
        out = sent.new_empty(sum(receives), *sent.shape[1:])
        work = self._group().alltoall_base(out, sent, receives, sends, AllToAllOptions())
        work.wait()
        return out
