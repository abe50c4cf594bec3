"""Staging and a change-over beneath a CUDA graph, on one device: ``python tests/live/on_gpu.py``.

Never ran: no GPU was at hand when it was written. Without CUDA it says so and ends.
"""

import sys
import time

import numpy as np
import torch

from evenload.live.rows import Rows

SLOTS, SPARE, SIDE, ROUNDS = 8, 4, 2048, 200


def main() -> int:
    """Replay a graph that reads the table, flip between replays, and compare and time."""
    if not torch.cuda.is_available():
        sys.stdout.write("skipped: torch finds no CUDA device\n")
        return 0
    weights = torch.randn(SLOTS + SPARE, SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    rows = Rows([[weights]], np.arange(SLOTS)[None])
    x = torch.randn(SLOTS, 16, SIDE, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(x)

    def forward() -> None:
        torch.bmm(x, weights[rows.tables[0]], out=out)

    forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    staging, took = torch.cuda.Stream(), {True: [], False: []}
    for number in range(ROUNDS):
        moves = number % 2 == 1
        began = time.perf_counter()
        if moves:  # an expert arrives in a spare row, and takes the place of the first slot's
            row, new = rows.free(0)[0], SLOTS + number
            with torch.cuda.stream(staging):
                rows.wait_until_free()
                weights[row].copy_(torch.randn_like(weights[row]))
            torch.cuda.current_stream().wait_stream(staging)
            slots = np.array([new, *range(1, SLOTS)])
            rows.flip(0, slots, {new: row})
        graph.replay()
        torch.cuda.synchronize()
        took[moves].append(time.perf_counter() - began)
        wanted = torch.bmm(x, weights[rows.tables[0]])
        assert torch.equal(out, wanted), "the graph reads an old table"
    stall = 1e6 * (np.median(took[True]) - np.median(took[False]))
    sys.stdout.write(
        f"{torch.cuda.get_device_name()}: a step with a move takes {stall:.0f} µs more\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
