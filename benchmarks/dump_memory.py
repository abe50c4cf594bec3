"""What reading a large dump of SGLang's recorder takes: memory at its peak, and seconds.

    python -m benchmarks.dump_memory [GIGABYTES]

Writes a per_token dump of one rank of DeepSeek-V3's shape (61 layers, 3 of them dense, 288 slots),
2 GB by default, into the folder for temporary files, reads it as `evenload plan` does in a process
of its own, and removes it; with many tokens a pass, and with few. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LAYERS, DENSE, SLOTS, EXPERTS, TOKENS, WIDTH = 61, 3, 288, 256, 4096, 8

_READ = """
import sys, time, numpy, evenload.io as formats
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
before, started = peak(), time.perf_counter()
file = formats.read_load(sys.argv[1])
print(f"{file.num_windows} windows, {file.load.shape}: {peak() - before:.0f} MB more than the "
      f"{before:.0f} MB of NumPy, {time.perf_counter() - started:.1f} s")
"""


def write_dump(path: Path, num_bytes: float, tokens: int = TOKENS) -> None:
    """Write a per_token dump of about that size; its records share nothing."""
    import torch

    rng = np.random.default_rng(0)
    records = []
    for number in range(max(1, round(num_bytes / (LAYERS * tokens * WIDTH * 4)))):
        counts = rng.integers(0, 9, (LAYERS, SLOTS), np.int32)
        counts[:DENSE] = 0
        records.append(
            {
                "forward_pass_id": number,
                "rank": 0,
                "gatherer_key": "primary",
                "input_ids": rng.integers(0, 129280, tokens).tolist(),
                "positions": list(range(tokens)),
                "extend_seq_lens": [tokens],
                "forward_mode": 1,
                "topk_ids_of_layer": torch.zeros((LAYERS, tokens, WIDTH), dtype=torch.int32),
                "misc_objects": [],
                "global_physical_count": torch.from_numpy(counts),
            }
        )
    experts = torch.from_numpy(np.tile(np.arange(SLOTS) % EXPERTS, (LAYERS, 1)))
    torch.save({"records": records, "last_physical_to_logical_map": experts}, path)


def main() -> None:
    """Write, read, and print what it took."""
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    with tempfile.TemporaryDirectory() as folder:
        for tokens in (TOKENS, 64):
            path = Path(folder) / f"expert_distribution_recorder_{tokens}_0.pt"
            write_dump(path, gigabytes * 1e9, tokens)
            size = path.stat().st_size / 1e6
            run = subprocess.run(
                [sys.executable, "-c", _READ, str(path)], check=True, capture_output=True, text=True
            )
            print(f"{size:.0f} MB, {tokens} tokens a pass: {run.stdout.strip()}")
            path.unlink()


if __name__ == "__main__":
    main()
