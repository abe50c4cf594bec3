"""What engines record, written for the tests of reading it."""

import numpy as np
import pytest

RNG = np.random.default_rng(11)


def slot_maps(layers, slots, experts, rng=RNG):
    """Every expert once, further slots with any of them, in any order: int64 [L, S]."""
    rows = []
    for _ in range(layers):
        extra = rng.integers(0, experts, slots - experts)
        rows.append(rng.permutation(np.concatenate([np.arange(experts), extra])))
    return np.stack(rows)


def dump_stat(path, counts, **more):
    torch = pytest.importorskip("torch")

    torch.save(
        {
            "rank": 0,
            "logical_count": torch.from_numpy(np.asarray(counts, np.int32)),
            "average_utilization_rate_over_window": None,
            **more,
        },
        path,
    )
    return path


def dump_passes(path, rank, passes, slots, *, tokens=None, key="primary", modes=None):
    """One rank's dump: `passes` is {number: counts [L, S]}; with `tokens` it is per_token.

    `modes` are the passes' forward modes, 1 for extending by prompts.
    """
    torch = pytest.importorskip("torch")

    records = []
    for mode, (number, counts) in zip(modes or [1] * len(passes), passes.items(), strict=True):
        record = {"forward_pass_id": number, "rank": rank, "gatherer_key": key}
        if tokens is not None:
            record |= {
                "input_ids": list(range(tokens)),
                "positions": list(range(tokens)),
                "extend_seq_lens": [tokens],
                "forward_mode": mode,
                "topk_ids_of_layer": torch.full((len(counts), tokens, 8), -1, dtype=torch.int32),
                "misc_objects": [{"layer_id": 0, "num_tokens_per_expert": [1, 2]}],
            }
        record["global_physical_count"] = torch.from_numpy(np.asarray(counts, np.int32))
        records.append(record)
    maps = torch.from_numpy(np.asarray(slots, np.int64))
    torch.save({"records": records, "last_physical_to_logical_map": maps}, path)
    return path


def dump_iterations(folder, ranks, experts):
    """TensorRT-LLM's folder: `ranks` is a list of {(iteration, layer): counts [E]}."""
    import json

    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    meta = {"num_experts": experts, "num_experts_per_token": 2}
    (folder / "meta_info.json").write_text(json.dumps(meta))
    for rank, counts in enumerate(ranks):
        named = {f"{i}_{layer}": np.asarray(c) for (i, layer), c in counts.items()}
        save_file(named, folder / f"rank{rank}.safetensors")
    return folder
