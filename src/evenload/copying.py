"""Balancers that copy experts for one microbatch: a reference, and how much slack saves how much.

Before a microbatch is computed, MoonEP, UltraEP and LLEP fetch copies of a few hot experts to GPUs
with room, so that no GPU is the straggler. Where experts live decides how many copies that takes:
``evenload.solve(..., dispatch="copy")`` plans for few.

Sources: MoonEP (https://github.com/MoonshotAI/MoonEP, ``tests/planning_reference.py``; an
all-to-all backend of vLLM 0.33.0); UltraEP (arXiv 2606.04101); LLEP (arXiv 2601.17111).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evenload.arrays import Float, Int, refuse
from evenload.checks import whole_number
from evenload.cluster import Cluster
from evenload.dispatch import SLACK, check_slack
from evenload.placement import Placement
from evenload.threads import spread

SLACKS = (0.0, 0.02, 0.05, 0.1)  # that advice is given for
ROUNDING = 2e-15  # of a part of all tokens, at most
GRID = 2.0**30  # tokens that a load without whole numbers is rounded to


@dataclass(frozen=True, eq=False)
class Copied:
    """Which GPU computes what in one microbatch of every layer, and what it fetches for that."""

    alloc: Int  #: tokens of each expert that each GPU computes, int64 [L, G, E]
    limit: Int  #: tokens that each GPU may have, int64 [L, G]
    resident: Any  #: whether an expert lives on a GPU, bool [L, G, E]

    @property
    def fetched(self) -> Any:
        """Whether a GPU fetches a copy of an expert, bool [L, G, E]."""
        return (self.alloc > 0) & ~self.resident

    @property
    def copies(self) -> Int:
        """Copies that each GPU fetches, int64 [L, G]."""
        return np.asarray(self.fetched.sum(axis=2, dtype=np.int64))

    @property
    def moved(self) -> Int:
        """Tokens of each layer that a copy computes, int64 [L]."""
        return np.asarray(np.where(self.resident, 0, self.alloc).sum(axis=(1, 2)))

    def balancedness(self, cluster: Cluster) -> Float:
        """Return what is reached on the GPUs, as `Placement.balancedness`: float64 [L]."""
        living = cluster.capacity > 0.0
        tokens = self.alloc.sum(axis=2)[:, living]
        last = (tokens / cluster.capacity[living]).max(axis=1)
        mean = tokens.sum(axis=1) / cluster.capacity.sum()
        return np.asarray(np.divide(mean, last, out=np.ones(len(last)), where=last > 0.0))

    @property
    def over(self) -> Int:
        """Tokens of each layer above the limits, int64 [L]: 0 unless `max_copies` was too few."""
        return np.asarray(np.maximum(self.alloc.sum(axis=2) - self.limit, 0).sum(axis=1))


def copy_experts(
    load: Any, homes: Placement, *, slack: float = SLACK, max_copies: int | None = None
) -> Copied:
    """Balance one microbatch by copying experts, in few copies.

    What the allocation keeps to is MoonEP's contract for one (as
    https://github.com/feliang-git/MoonEP documents it, ``docs/alloc_policy_contract.md``), for any
    homes and slack: no entry is negative; every expert's tokens are computed exactly once; no GPU
    has more than its limit; a GPU has segments for its residents and `max_copies` more, which is
    what buffers are sized by. Its fifth rule, that padded segments fit the buffer, follows from
    these.

    Parameters
    ----------
    load : integer array_like, [L, E] or [E]
        Tokens routed to each expert in the microbatch.
    homes : Placement
        Where experts live. Tokens of one that lives on several GPUs go to each of them as suits.
    slack : float, default 0.05
        Tokens that a GPU may have beyond its part of all, over that part: at most
        ``floor((1 + slack) x part)``, or the part rounded up where that is more. 0 is exact
        balance, what MoonEP does; it takes about as many copies as there are GPUs, less one,
        wherever experts live.
    max_copies : int, optional
        Copies that one GPU may fetch (4 prefetch slots in vLLM's MoonEP). Where these are too few
        some GPUs stay above their limit, see `Copied.over`. Default: no bound.

    Returns
    -------
    Copied
        The same input gives the same bytes everywhere.

    Raises
    ------
    ValueError
        For a load that is not of whole numbers, or not of the placement, and a negative slack.

    Notes
    -----
    The fewest copies are NP-hard to find. Greedy: always the pair of GPUs that wastes least room
    among those where one copy brings the giver to its limit; else the fullest gives to the least
    room that suffices, or the roomiest. The best of this and two plainer passes is kept, see
    `evenload.core.copying`.

    Examples
    --------
    >>> from evenload import Cluster
    >>> homes = Placement.trivial(1, 4, Cluster(2, slots_per_gpu=2))
    >>> done = copy_experts([50, 30, 10, 10], homes, slack=0.1)
    >>> done.alloc.tolist()
    [[[50, 5, 0, 0], [0, 25, 10, 10]]]
    >>> done.copies.tolist(), done.moved.tolist()
    ([[0, 1]], [25])
    """
    checked, _ = homes.check_load(load)
    whole = checked.astype(np.int64)
    refuse("load", checked, checked != whole, "is not a whole number of tokens; use counts")
    most = 2**62 if max_copies is None else whole_number("max_copies", max_copies)
    return copied(whole, homes, check_slack("slack", slack), most)


def copied(load: Int, homes: Placement, slack: float, most: int = 2**62) -> Copied:
    """Do what `copy_experts` says, for whole numbers [L, E] and a slack that were checked."""
    from evenload.core.copying import copy_layers

    L, E = load.shape
    resident = np.zeros((L, homes.cluster.num_gpus, E), np.uint8)
    living = np.flatnonzero(homes.cluster.living_slot)
    gpu = homes.cluster.gpu_of_slot[living]
    resident[np.arange(L)[:, None], gpu, homes.rows[:, living]] = 1
    part = load.sum(axis=1)[:, None] * (homes.cluster.capacity / homes.cluster.capacity.sum())
    # A part that is whole may be rounded to just beside that: 180.00000000000003 is not 181.
    near = ROUNDING * part
    limit = np.maximum(np.floor((1.0 + slack) * part + near), np.ceil(part - near)).astype(np.int64)
    alloc, over = np.empty(resident.shape, np.int64), np.empty(L, np.int64)

    def run(first: int, end: int) -> None:
        rows = slice(first, end)
        copy_layers(load[rows], resident[rows], limit[rows], most, alloc[rows], over[rows])

    spread(L, resident.size, run)
    return Copied(alloc, limit, resident.astype(bool))


def copies_by_slack(
    loads: Sequence[Any],
    homes: Placement,
    slacks: Sequence[float] = SLACKS,
    weight: Any = None,
) -> Float:
    """Count the copies of each layer and load at every slack, on average over the loads.

    Parameters
    ----------
    loads : sequence of array_like, [L, E] each
        Anything proportional to tokens.
    homes : Placement
    slacks : sequence of float, C of them
    weight : array_like, optional
        What each load counts. Default: all the same.

    Returns
    -------
    float64 ndarray, [C, L]
    """
    tokens = [on_grid(homes.check_load(load)[0]) for load in loads]
    count = [[copied(of, homes, slack).copies.sum(axis=1) for slack in slacks] for of in tokens]
    return np.asarray(np.average(np.array(count, np.float64), axis=0, weights=weight))


def copied_share(load: Float, homes: Placement, slack: float) -> Float:
    """Return the part of each layer's tokens that copies compute, float64 [L]."""
    tokens = on_grid(load)
    whole = np.maximum(tokens.sum(axis=1), 1)
    return np.asarray(copied(tokens, homes, slack).moved / whole)


def on_grid(load: Float) -> Int:
    """Return a load [L, E] as tokens: as it is if it is of whole numbers, else rounded to many."""
    if (load == np.floor(load)).all() and load.max(initial=0.0) < GRID:
        return np.asarray(load, np.int64)
    most = load.max(axis=1, keepdims=True)
    share = np.divide(load, most, out=np.zeros_like(load), where=most > 0.0)
    return np.asarray(np.rint(share * GRID), np.int64)
