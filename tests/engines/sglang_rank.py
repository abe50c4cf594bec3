"""One rank that rebalances twice inside SGLang and prints both maps' digests: RANK RANKS PORT."""

import hashlib
import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "stubs")]


def main(rank, ranks, port):
    from sglang_world import MODEL, configured, join, loads

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    join(rank, ranks, port)
    from sglang.srt.plugins import load_plugins

    load_plugins()
    from sglang.srt.eplb import expert_location as location

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


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
