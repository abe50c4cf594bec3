"""What ``on_gpu.json`` tells, as a section of the benchmarks' page: no GPU and no torch needed."""

from collections.abc import Mapping
from typing import Any

from benchmarks.measure import number, origin, table
from evenload.cost.presets import (
    FLOPS_A_WEIGHT,
    HARDWARE,
    MATRICES,
    READING,
    UTILISATION,
    WEIGHT_BYTES,
)

# Words in torch's name of a GPU, and the hardware preset with it.
GPUS = {"H200": "h200-ib", "H100 80GB HBM3": "h100-ib", "H100 PCIe": "h100-pcie",
        "L40S": "l40s-pcie"}  # fmt: skip
SHOWN = (("triton", 1), ("triton", 8), ("torch", 8))  # versions of water-filling, and rounds
THEIRS = "SGLang LPLBSolver"
FEW, MANY = 16, 512  # tokens of each expert where its time is reading, and computing


def render(sections: Mapping[str, Any]) -> str:
    """Return the page's part on what was measured on a GPU."""
    parts = ["## On a GPU", "Kept in [on_gpu.json](on_gpu.json). Functions were called by "
             "themselves: no engine and no plug-in ran on a GPU."]  # fmt: skip
    for name, told in (("splitting", splitting), ("expert-time", expert_time)):
        if name in sections:
            parts += [told(sections[name]), f"{origin(sections[name])}."]
    return "\n\n".join(parts)


def splitting(section: Mapping[str, Any]) -> str:
    """Compare water-filling with SGLang's solver on one layer, and tell what all layers take."""
    result, rows = section["result"], []
    found = result["results"]
    for case in dict.fromkeys(row["case"] for row in found):
        own = [row for row in found if row["case"] == case]
        for way, rounds in (*SHOWN, (THEIRS, None)):
            told = [row for row in own if row["way"] == way and row.get("rounds") == rounds]
            alone = next(row for row in told if row["layers"] == 1)
            every = next((row for row in told if row["layers"] > 1), None)
            name = THEIRS if rounds is None else f"water-filling in {way}, rounds: {rounds}"
            reached = f"{alone['balancedness']:.4f}" if "balancedness" in alone else ""
            rows.append([case, name, _us(alone), _us(every), reached])
    ours = [row for row in found if row["way"] != THEIRS]
    same = sum(row["same_as_cpu"] and row["same_in_graph"] for row in ours)
    parts = [
        "### The split of a batch",
        f"Microseconds for a batch of {result['tokens']:,} tokens with lognormal loads: the median "
        f"of {result['repeats']} times {result['calls']} replays of a CUDA graph. SGLang's solver "
        f"is `LPLBSolver._solve`, which takes one layer. In {same} of {len(ours)} runs "
        "water-filling gave exactly the CPU's integers, from the graph too, without waiting for "
        "the host. The version in torch operations is for where there is no Triton. Replicas are "
        "dealt out at random, so balance here tells nothing of planned placements.",
        table(("case", "by", "one layer", "all layers, one call", "balancedness of that layer"),
              rows),
        *(f"{row['way']}, {row['case']}: {row['note']}." for row in found if "note" in row),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _us(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return "not run" if "not_run" in row else number(row["us_in_graph"]["median"])


def expert_time(section: Mapping[str, Any]) -> str:
    """Hold what experts took to what a roofline assumes of the data sheet's figures."""
    gpu = section["machine"]["gpu"]
    sheet = HARDWARE[next(name for words, name in GPUS.items() if words in gpu)]
    rows = []
    for told in section["result"]["results"]:
        if "not_run" in told:
            rows.append([told["model"], told["dtype"], "not run", *[""] * 4])
            continue
        weights = MATRICES * int(told["about"]["hidden"]) * int(told["about"]["intermediate"])
        active = max(active for active, _, _ in told["us_of_all_active"])
        took = {n: us / 1e6 for a, n, us in told["us_of_all_active"] if a == active}
        read = active * weights * WEIGHT_BYTES[told["dtype"]] / took[FEW]
        computed = active * MANY * weights * FLOPS_A_WEIGHT / took[MANY]
        parts = [f"{read / sheet.memory_bandwidth:.2f}",
                 f"{computed / sheet.flops(told['dtype']):.2f}"]  # fmt: skip
        us = [number(1e6 * took[n] / active) for n in (FEW, MANY)]
        rows.append([told["model"], told["dtype"], str(active), us[0], parts[0], us[1], parts[1]])
    head = (
        "experts of", "type", "active", f"us, {FEW} tokens each", "of the memory's bandwidth",
        f"us, {MANY} tokens each", "of the peak operations",
    )  # fmt: skip
    text = (
        "### The time of an expert",
        "All active experts together, divided by their number, by torch's grouped products. "
        f"[Rooflines](../explanation/seconds.md) assume {READING} of the data sheet's bandwidth, "
        f"and {UTILISATION} of its operations.",
        table(head, rows),
    )
    return "\n\n".join(text)
