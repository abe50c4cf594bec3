"""How an engine picks a replica for each token: what part of its expert's tokens each one gets.

- ``"even"``: every replica of an expert gets as many (vLLM; SGLang without an all-to-all backend);
- ``"live"``: what makes the slowest GPU fastest, found for every batch (SGLang's ``lp``,
  DeepSeek's LPLB), see `evenload.core.split`;
- ``"nearest"``, ``"static"``: every rank has its own way, by where the replicas are. A rank takes
  the first replica on its own GPU; else the first on its node, unless the node has all of them;
  else ``"nearest"`` shares evenly among all, and ``"static"`` deals whole ranks out to them;
- ``"copy"``: as ``"live"``, and then GPUs with room fetch copies of experts for every microbatch
  (MoonEP, UltraEP, LLEP), see `evenload.copying`. Only planned for: a plan's balancedness is what
  there is before that, and after it every GPU is within the slack;
- ``"one"``: in each batch one replica of every expert with tokens, chosen so that the fullest GPU
  has least to do (METRO, arXiv 2512.09277), see `evenload.splitting.OneReplica`. Only planned for:
  a load alone does not say what a replica gets, see `evenload.batches`.

Source of ``"nearest"`` and ``"static"``: SGLang 0.5.23, ``srt/eplb/expert_location.py``. The first
is what its dispatch ``dynamic`` makes of a map given at the start (``--init-expert-location``) with
an all-to-all backend; the second is its dispatch of that name after a rebalance.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np

from evenload.arrays import Float, Int, check_weights, refuse, to_numpy
from evenload.checks import in_range, one_of, part
from evenload.cluster import Cluster

DISPATCHES = ("even", "live", "nearest", "static")
PLANNED = (*DISPATCHES, "copy", "one")  # what a replica gets of a load is not fixed under these two
BY_PLACE = ("nearest", "static")
PLANNERS = ("auto", "incremental")  # solvers that plan for all; others do for "even" alone
TIMERS = (*PLANNERS, "exact")  # solvers that plan by time
TIMED = ("even", "live")  # under which seconds are known, see `evenload.seconds`
SEED = 42  # SGLang's
SLACK, MOST_SLACK = 0.05, 100.0  # what copying leaves above a GPU's part: the default, and at most


def check_dispatch(
    dispatch: Any, live_share: Any, tokens_from: Any, copy_slack: Any, cluster: Cluster
) -> tuple[str, float, Float | None, float]:
    """Return the four as plain values, or raise `ValueError` for what does not go together."""
    word = one_of("dispatch", dispatch, PLANNED)
    share = part("live_share", live_share, above_zero=False)
    if share == 0.0 and word == "live":
        raise ValueError(
            "live_share=0.0 with dispatch 'live' is never live; use more than 0, or dispatch 'even'"
        )
    if share != 1.0 and word != "live":
        raise ValueError(
            f"live_share={share} is for dispatch 'live', and the dispatch is {word!r}; use "
            "dispatch 'live', or a live_share of 1.0"
        )
    slack = check_slack("copy_slack", copy_slack)
    if slack != SLACK and word != "copy":
        raise ValueError(
            f"copy_slack={slack} is for dispatch 'copy', and the dispatch is {word!r}; use "
            f"dispatch 'copy', or a copy_slack of {SLACK}"
        )
    return word, share, check_tokens_from(tokens_from, word, cluster), slack


def check_timed(dispatch: str) -> None:
    """Raise `ValueError` unless the seconds of experts are known under a dispatch."""
    if dispatch not in TIMED:
        raise ValueError(
            f"dispatch={dispatch!r} is beyond expert_time; use dispatch 'even' or 'live', or leave "
            "expert_time out"
        )


def check_slack(name: str, slack: Any) -> float:
    """Take the tokens that a GPU may have beyond its part of all, over that part."""
    return in_range(name, slack, 0.0, MOST_SLACK)


def check_tokens_from(tokens_from: Any, dispatch: str, cluster: Cluster) -> Float | None:
    """Copy how many tokens start on each GPU, float64 [G], or raise `ValueError`; None is equal."""
    if tokens_from is None:
        return None
    if dispatch not in BY_PLACE:
        raise ValueError(
            f"tokens_from is for dispatch 'nearest' or 'static', and the dispatch is {dispatch!r}; "
            "use one of these, or leave tokens_from out"
        )
    array = to_numpy("tokens_from", tokens_from)[0]
    if array.shape != (cluster.num_gpus,):
        raise ValueError(
            f"tokens_from has shape {array.shape}, and there are {cluster.num_gpus} GPUs; use a "
            "number for each"
        )
    tokens = check_weights("tokens_from", array).copy()
    dead = (tokens > 0.0) & ~np.array(cluster.alive)
    refuse("tokens_from", tokens, dead, "is of a GPU that is not alive; use 0")
    if not tokens.any():
        raise ValueError("tokens_from is 0 for every GPU; use more than 0 for one or more")
    return tokens


class Chosen(NamedTuple):
    """The replica that each rank takes, for the P experts that have several."""

    layer: Int  #: [P]
    expert: Int  #: [P]
    replicas: Int  #: of each, [P]
    choice: Int  #: in the order of ``logical_to_physical``; -1 where it may be any: [P, G]


def near_replicas(slots: Int, cluster: Cluster) -> Chosen:
    """Choose the near replica of each rank, -1 where none is: dispatch ``"nearest"``.

    `slots` are those of each expert, [L, E, X], padded with -1 at the end.
    """
    found = []
    for layer, of_expert in enumerate(slots):  # one by one: [P, G] for all would be large
        count = (of_expert >= 0).sum(axis=1)
        expert = np.flatnonzero(count > 1)
        held, count = of_expert[expert], count[expert]
        row, rank = (at[::-1] for at in np.nonzero(held >= 0))  # so that the first is written last
        gpu = cluster.gpu_of_slot[held[row, rank]]
        own = np.full((len(expert), cluster.num_gpus), -1)
        own[row, gpu] = rank
        node = cluster.node_of_gpu[gpu]
        near = np.full((len(expert), cluster.num_nodes), -1)
        near[row, node] = rank
        few = np.bincount(row * cluster.num_nodes + node, minlength=near.size).reshape(near.shape)
        near[few == count[:, None]] = -1  # all are there, which narrows nothing
        choice = np.where(own >= 0, own, near[:, cluster.node_of_gpu])
        found.append((np.full(expert.size, layer), expert, count, choice))
    return Chosen(*(np.concatenate(part) for part in zip(*found, strict=True)))


def dealt_out(near: Chosen) -> Chosen:
    """Deal the ranks without a near replica out to all: dispatch ``"static"``.

    By SGLang's own random numbers: these go on from layer to layer and from expert to expert, so
    the placement has to hold every layer that SGLang's map does, dense ones included, for its very
    choices. Dead ranks are dealt out like all others, as it does.
    """
    draw = random.Random(SEED)
    choice = near.choice.copy()
    for row, count in zip(choice, near.replicas.tolist(), strict=True):
        far = np.flatnonzero(row < 0)
        if far.size:
            rounds, rest = divmod(far.size, count)
            dealt = list(range(count)) * rounds + draw.sample(range(count), k=rest)
            draw.shuffle(dealt)
            row[far] = dealt
    return near._replace(choice=choice)


def parts_by_place(
    chosen: Chosen, slots: Int, cluster: Cluster, tokens_from: Float | None
) -> Float:
    """Return the part of its expert's tokens that each replica gets, float64 [L, E, X].

    Every rank has the same mix of experts. `tokens_from` [G] is as checked above.
    """
    weights = np.zeros(slots.shape)
    weights[:, :, 0] = 1.0
    P, X = chosen.layer.size, slots.shape[2]
    if P == 0:
        return weights
    tokens = np.array(cluster.alive, np.float64) if tokens_from is None else tokens_from
    tokens = tokens / tokens.max()
    tokens = tokens / tokens.sum()
    row, rank = np.nonzero(chosen.choice >= 0)
    at = row * X + chosen.choice[row, rank]
    near = np.bincount(at, tokens[rank], P * X).reshape(P, X)  # sums one by one, in order
    row, rank = np.nonzero(chosen.choice < 0)
    shared = np.bincount(row, tokens[rank], P) / chosen.replicas
    anywhere = np.where(np.arange(X) < chosen.replicas[:, None], shared[:, None], 0.0)
    weights[chosen.layer, chosen.expert] = near + anywhere
    return weights
