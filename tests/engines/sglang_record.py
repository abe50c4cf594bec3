"""One rank that runs SGLang's own recorder and dumps it: RANK RANKS PORT FOLDER MODE...

What a mode dumps, and what was counted, is in a folder named for it.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "stubs")]
PASSES, BUFFER, LAYERS, EXPERTS, SLOTS, TOPK = 5, 8, 4, 8, 12, 2


def slots_of(row):
    slots = np.full((EXPERTS, SLOTS), -1)
    for expert in range(EXPERTS):
        found = np.flatnonzero(row == expert)
        slots[expert, : len(found)] = found
    return slots


def location(ranks):
    import torch
    from sglang.srt.eplb.expert_location import ExpertLocationMetadata

    rows = np.stack([np.roll(np.arange(SLOTS) % EXPERTS, layer) for layer in range(LAYERS)])
    slots = torch.tensor(np.stack([slots_of(row) for row in rows]))
    map_ = torch.tensor(rows)
    return rows, ExpertLocationMetadata(
        map_, map_, slots, slots, (slots != -1).sum(-1), ranks, None
    )


def forward(recorder, number, rows, counted, rng):
    """Route some tokens through each layer but the first, which is dense."""
    import torch
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    tokens = int(rng.integers(3, 9))
    batch = SimpleNamespace(
        input_ids=torch.arange(tokens),
        positions=torch.arange(tokens),
        extend_seq_lens_cpu=[tokens],
        forward_mode=ForwardMode.DECODE if number % 2 else ForwardMode.EXTEND,
    )
    with recorder.with_forward_pass(number, batch):
        for layer in range(1, LAYERS):
            chosen = np.stack([rng.permutation(SLOTS)[:TOPK] for _ in range(tokens)])
            with recorder.with_current_layer(layer):
                recorder.on_select_experts(topk_ids=torch.tensor(chosen, dtype=torch.int32))
            np.add.at(counted[number, layer], rows[layer][chosen.ravel()], 1)


def record(mode, rank, ranks, folder):
    """Record some passes in one mode, and dump them."""
    from sglang.srt.eplb.expert_distribution import ExpertDistributionRecorder
    from sglang_world import configured

    os.environ["SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR"] = str(folder)
    folder.mkdir(exist_ok=True)
    counted = np.zeros((PASSES, LAYERS, EXPERTS), np.int64)
    rng = np.random.default_rng(rank)
    with configured(
        expert_distribution_recorder_mode=mode,
        expert_distribution_recorder_buffer_size=BUFFER,
        chunked_prefill_size=16,
    ):
        rows, metadata = location(ranks)
        recorder = ExpertDistributionRecorder.init_new(metadata, rank)
        recorder.start_record()
        for number in range(PASSES):
            forward(recorder, number, rows, counted, rng)
        recorder.dump_record("file")
    np.save(folder / f"counted_{rank}.npy", counted)


def main(rank, ranks, port, folder, *modes):
    import torch
    from sglang_world import join, leave

    torch.cpu.empty_cache = lambda: None  # the recorder calls it, and a CPU's torch has none
    join(int(rank), int(ranks), int(port))
    for mode in modes:
        record(mode, int(rank), int(ranks), Path(folder) / mode)
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
