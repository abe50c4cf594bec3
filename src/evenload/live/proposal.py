"""A plan on its way: made on one rank, read from the store by all, and checked by each of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evenload.arrays import Int
from evenload.ballots import digest, of_array
from evenload.cluster import Cluster
from evenload.live.chain import chain, check_link
from evenload.moves import transfers


def pack(array: Int) -> str:
    """Return a map of any shape as text, on every machine alike."""
    return base64.b64encode(array.astype("<i4").tobytes()).decode()


def unpack(text: str, num_slots: int) -> Int:
    """Return what `pack` made a text of, as int64 [..., S]."""
    flat = np.frombuffer(base64.b64decode(text), "<i4")
    return flat.reshape(-1, num_slots).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Link:
    """One layer's way from a map to the next: what serves before, after, and what moves."""

    layer: int
    before: Int  #: [S]
    after: Int  #: [S]
    moves: Int  #: [M, 3]: expert, rank that sends or -1 for storage, rank that receives

    def arriving(self, rank: int) -> list[int]:
        """Return the experts that a rank receives."""
        return [int(expert) for expert, _, target in self.moves.tolist() if target == rank]

    @property
    def restored(self) -> list[tuple[int, int]]:
        """Layer and expert of each copy that comes from storage."""
        return [(self.layer, int(e)) for e, source, _ in self.moves.tolist() if source < 0]


@dataclass(frozen=True, eq=False)
class Proposal:
    """Links in the order in which they are taken, for a map that all ranks have."""

    base: str  #: digest of the map that it starts from
    alive: tuple[bool, ...]  #: whether each GPU is, where it ends
    layers: list[int]  #: of each of the N links
    maps: Int  #: after each of them, [N, S]
    facts: dict[str, Any] = field(default_factory=dict)  #: for the reports

    @classmethod
    def make(
        cls, rows: Int, target: Int, cluster: Cluster, room: Sequence[int], facts: dict[str, Any]
    ) -> Proposal:
        """Plan the links from the map that runs to a target, both int64 [L, S].

        `room` is how many experts each GPU can receive at once, [G]. Layers that stay are left out.
        """
        layers, maps = [], [np.empty((0, rows.shape[1]), np.int64)]
        for layer in range(len(rows)):
            links = chain(rows[layer], target[layer], cluster, room)
            layers += [layer] * len(links)
            maps += [link[None] for link in links]
        return cls(digest_of(rows), cluster.alive, layers, np.concatenate(maps), facts)

    def encode(self) -> str:
        """Return it as a text with a digest."""
        body = json.dumps(
            {"base": self.base, "alive": self.alive, "layers": self.layers,
             "maps": pack(self.maps), "facts": self.facts}
        )  # fmt: skip
        return f"{digest(body.encode()).hex()} {body}"

    @classmethod
    def decode(cls, text: str, num_slots: int) -> Proposal:
        """Read what `encode` wrote; a `ValueError` where the digest is of something else."""
        told, _, body = text.partition(" ")
        if digest(body.encode()).hex() != told:
            raise ValueError("a plan does not have its digest; the store may be another's")
        raw = json.loads(body)
        maps = unpack(raw["maps"], num_slots)
        return cls(raw["base"], tuple(raw["alive"]), raw["layers"], maps, raw["facts"])

    def links(self, rows: Int, cluster: Cluster) -> list[Link]:
        """Return the links with who sends what: the same on all ranks, for the same map [L, S]."""
        running, found = rows.copy(), []
        old = everybody(cluster)
        for layer, after in zip(self.layers, self.maps, strict=True):
            before = running[layer]
            pair = before[None].copy(), np.ascontiguousarray(after[None])
            moves = transfers(pair[0], old, pair[1], cluster)
            found.append(Link(layer, before.copy(), after, moves[:, [1, 2, 3]]))
            running[layer] = after
        return found

    def fault(self, rows: Int, cluster: Cluster, num_experts: int) -> str:
        """Say why this rank must not follow it; an empty text if it may."""
        if self.base != digest_of(rows):
            return "it starts from another map than this rank's"
        if self.alive != cluster.alive:
            return "it is for other ranks than are here"
        running = rows.copy()
        for layer, after in zip(self.layers, self.maps, strict=True):
            if not 0 <= layer < len(rows):
                return f"there is no layer {layer}"
            why = check_link(running[layer], after, cluster, num_experts)
            if why:
                return f"layer {layer}: {why}"
            running[layer] = after
        return ""


def digest_of(rows: Int) -> str:
    """Return the digest of a map."""
    return of_array(rows.astype(np.int64)).hex()


def everybody(cluster: Cluster) -> Cluster:
    """Return the cluster with all GPUs alive: a map may tell what a dead one held."""
    return Cluster(**{name: v for name, v in cluster.arguments.items() if name != "alive"})
