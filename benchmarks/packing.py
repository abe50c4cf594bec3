"""The packing alone: its compiled backend against the batched torch backend, on the CPU."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.loads import Case
from benchmarks.measure import interleaved, ratio, summary
from benchmarks.peers import require_torch
from benchmarks.tables import number, table, times
from evenload import eplb

HEAD = ("load", "torch ms", "compiled ms", "compiled is faster by", "same maximum loads")


def compare(case: Case, rounds: int) -> dict[str, Any]:
    """Time both backends at the published settings and compare the heaviest packs.

    The torch backend is timed in float32, as such code is run; the maximum loads are compared in
    float64, where both do the same arithmetic.
    """
    torch = require_torch()
    num_packs = case.cluster.num_gpus
    weight = slot_load(case)
    tensor = torch.from_numpy(weight)
    pack = partial(eplb.balanced_packing, num_packs=num_packs)
    seconds = interleaved(
        {
            "torch": partial(pack, tensor.float(), backend="torch"),
            "compiled": partial(pack, weight, backend="compiled"),
        },
        rounds,
    )
    compiled = max_load(weight, pack(weight, backend="compiled")[0], num_packs)
    batched = max_load(weight, pack(tensor, backend="torch")[0].numpy(), num_packs)
    return {
        "name": case.name,
        "torch": summary(seconds["torch"]),
        "compiled": summary(seconds["compiled"]),
        "ratio": ratio(seconds["torch"], seconds["compiled"]),
        "largest_difference": float(np.max(np.abs(compiled / batched - 1))),
        "agree": bool(np.allclose(compiled, batched, rtol=1e-6, atol=0)),
    }


def slot_load(case: Case) -> NDArray[np.float64]:
    """Return what each slot carries after replication, [L, S]."""
    slots, _, count = eplb.replicate_experts(case.load, case.cluster.num_slots)
    return np.take_along_axis(case.load / count, slots, axis=1)


def max_load(
    weight: NDArray[np.float64], pack_index: NDArray[np.int64], num_packs: int
) -> NDArray[np.float64]:
    """Return the weight of the heaviest pack of each row, [X]."""
    rows = np.arange(len(weight))[:, None] * num_packs
    packs = np.bincount((rows + pack_index).ravel(), weight.ravel(), len(weight) * num_packs)
    heaviest: NDArray[np.float64] = packs.reshape(len(weight), num_packs).max(axis=1)
    return heaviest


def render(results: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    rows = [
        (
            result["name"],
            number(result["torch"]["median"]),
            number(result["compiled"]["median"]),
            times(result["ratio"]),
            "yes" if result["agree"] else f"no, {result['largest_difference']:.1e} apart",
        )
        for result in results
    ]
    return table(HEAD, rows)
