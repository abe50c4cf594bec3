"""One rank that rebalances inside SGLang, twice a round: RANK RANKS PORT SETTINGS...

SETTINGS are the environment variables of a round in JSON. Prints both maps' digests after a line
that says which round it is.
"""

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "stubs")]


def rebalance_twice(rank):
    from sglang.srt.eplb import expert_location as location
    from sglang_world import MODEL, configured, loads

    from evenload.plugins.sglang import planner

    planner.cache_clear()
    with configured(eplb_algorithm="evenload"):
        metadata = location.compute_initial_expert_location_metadata(MODEL, moe_ep_rank=rank)
        location.set_global_expert_location_metadata(metadata)
        for seed in (0, 1):
            new = location.ExpertLocationMetadata.init_by_eplb(MODEL, loads(seed=seed))
            same = bool((new.physical_to_logical_map == metadata.physical_to_logical_map).all())
            raw = new.physical_to_logical_map_cpu.numpy().tobytes()
            word = "kept" if same else "new"
            sys.stdout.write(f"map {seed} {word} {hashlib.sha256(raw).hexdigest()}\n")
            metadata.update(new, list(range(metadata.num_layers)))


def main(rank, ranks, port, *rounds):
    from sglang_world import join, leave

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    join(rank, ranks, port)
    from sglang.srt.plugins import load_plugins

    load_plugins()
    for number, settings in enumerate(map(json.loads, rounds)):
        sys.stdout.write(f"\nROUND {number}\n")
        os.environ.update(settings)
        rebalance_twice(rank)
        for name in settings:
            del os.environ[name]
    leave()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:])
