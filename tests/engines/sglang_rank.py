"""One rank that rebalances inside SGLang, some times a round: RANK RANKS PORT ROUND...

ROUND is in JSON: the environment variables of a round, and the arguments of `play`. Prints, after a
line that says which round it is, what became of the map at each rebalance, and a digest of each of
its layers.
"""

import hashlib
import json
import logging
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "stubs")]
LATE = 14.0  # seconds, of which the others wait 10
LONGEST = 60.0  # that rank 0 stays for the others


def fail(request, settings):
    """Plan nothing: what memory that runs out does."""
    raise MemoryError("no room")


def die(request, settings):
    """End this rank where it would plan."""
    sys.stdout.flush()
    os._exit(1)


def elastic(alive, ranks):
    """Put SGLang's state of elastic ranks in place, by which of them this one sees; or none."""
    import torch
    from sglang.srt.elastic_ep.elastic_ep import ElasticEPState, ElasticEPStateManager

    state = None
    if alive is not None:
        sees = torch.tensor([int(rank in alive) for rank in range(ranks)], dtype=torch.int32)
        state = ElasticEPState(sees, sees.clone(), sees.clone(), ranks)
    ElasticEPStateManager._instance = state


def rebalance(does, tokens):
    """Rebalance once as SGLang's manager does; what became of the map."""
    from sglang.srt.eplb import expert_location as location
    from sglang_world import MODEL

    from evenload.plugins import plan, planner, sglang

    if does == "late":
        time.sleep(LATE)
    if does == "pauses":
        sglang.planner().stop("by hand")
    planner.plan_map = {"raises": fail, "dies": die}.get(does, plan.plan_map)
    switch = Path(os.environ.get("EVENLOAD_KILL_SWITCH", os.devnull))
    if does == "killed":
        switch.touch()
    new = location.ExpertLocationMetadata.init_by_eplb(
        MODEL, tokens.flip(2) if does == "differs" else tokens
    )
    if does == "killed":
        switch.unlink()
    metadata = location.get_global_expert_location_metadata()
    rows = zip(new.physical_to_logical_map_cpu, metadata.physical_to_logical_map_cpu, strict=True)
    same = all(bool((row == old).all()) for row, old in rows)
    digests = [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:12]
               for row in new.physical_to_logical_map_cpu]  # fmt: skip
    metadata.update(new, list(range(metadata.num_layers)))
    return f"{'kept' if same else 'new'} {' '.join(digests)}"


def play(rank, ranks, does="", seeds=(0, 1), steps=20, alive=None, joins=None, waits=300.0):
    """Start as a server does, and rebalance on a load for each of the `seeds`.

    At the second of them it ``raises``
    long), ``differs`` (its load does), ``dies`` (between its two ballots), is ``killed`` (by the
    file, there for that one only) or ``pauses``. `alive` makes it an elastic rank; those are the
    ranks that it sees at each. All have met again before the one that `joins` counts.
    """
    from sglang.srt.eplb import expert_location as location
    from sglang_world import MODEL, configured, loads
    from torch import distributed

    from evenload.plugins import peers
    from evenload.plugins.sglang import planner

    distributed.barrier()
    planner.cache_clear()
    name, backend = ("evenload", None) if alive is None else ("elasticity_aware", "mooncake")
    with configured(eplb_algorithm=name, elastic_ep_backend=backend):
        location.set_global_expert_location_metadata(
            location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=rank)
        )
        group = peers.of_world(planner().settings.agree_timeout, False)
        for number, seed in enumerate(seeds):
            elastic(None if alive is None else alive[number], ranks)
            if number == joins:  # as SGLang does it where a rank comes back
                location.broadcast_global_expert_location_metadata(MODEL, rank, src_rank=0)
            if alive is not None and rank not in alive[number]:
                group.joins = True  # what comes in its place is a new process
                continue
            group.timeout = waits if number == 1 else 300.0
            said = rebalance(does if number == 1 else "", loads(steps, seed))
            sys.stdout.write(f"map {number} {said}\n")
    elastic(None, ranks)


def main(rank, ranks, port, *rounds):
    """Play all rounds; rank 0 has the store, and stays until all who live are through."""
    from sglang_world import join

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    join(rank, ranks, port)
    from sglang.srt.plugins import load_plugins
    from torch.distributed import distributed_c10d

    load_plugins()
    for number, said in enumerate(map(json.loads, rounds)):
        sys.stdout.write(f"\nROUND {number}\n")
        settings = {key: value for key, value in said.items() if key.isupper()}
        os.environ.update(settings)
        play(rank, ranks, **{key: value for key, value in said.items() if key not in settings})
        for key in settings:
            del os.environ[key]
    sys.stdout.flush()
    store = distributed_c10d._get_default_store()
    store.set(f"through/{rank}", "1")
    others = [f"through/{other}" for other in range(ranks)]
    end = time.monotonic() + LONGEST
    while rank == 0 and time.monotonic() < end and sum(map(store.check, zip(others))) < ranks - 1:
        time.sleep(0.1)
    time.sleep(1.0 if rank == 0 else 0.0)
    os._exit(0)  # a barrier would wait for one that died, and gloo's threads abort the process


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
