"""Decode: active experts on the fullest GPU, and its time, in batches of real tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import table
from benchmarks.planners import published
from benchmarks.problems import DATA, counted, is_here
from evenload import Cluster, Placement, solve
from evenload.batches import judge_batches
from evenload.cost import ExpertTime
from evenload.splitting.stragglers import even_quotas, straggler_seconds

TITLE = "Decode"
HARDWARE, GPUS, BATCHES, DRAWN = "h200-ib", 8, (16, 64, 256), 64
CASES = (("qwen3-30b-a3b", 144), ("deepseek-v2-lite", 72), ("deepseek-v2-lite", 80),
         ("gpt-oss-20b", 40))  # fmt: skip
REQUESTS = {"gpt-oss-20b": "request", "deepseek-v2-lite": "sequence"}  # others have one request
THEIRS, IN_ORDER = "DeepSeek EPLB", "in order, no redundancy"
TOKENS, ONE, ONE_BY_TIME = "evenload by tokens", "evenload for one", "evenload for one, by time"
BY_TIME = "evenload by time"
MOST_ABOVE = 0.04

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Half:
    """Tokens of half of the requests."""

    topk: Int  #: experts of each token, [tokens, L, k]
    request: Int  #: of each token
    num_experts: int

    @property
    def load(self) -> NDArray[np.float64]:
        """Tokens of each expert, [L, E]."""
        return counted(self.topk, self.num_experts)

    def batches(self, size: int, number: int, rng: np.random.Generator) -> Int:
        """Draw batches of one token of each of so many requests, counted: [B, L, E].

        Where there are fewer requests, each gives as many tokens as any other, or one more.
        """
        _, first, tokens = np.unique(self.request, return_index=True, return_counts=True)
        found = []
        for _ in range(number):
            turns = [rng.permutation(len(first)) for _ in range(-(-size // len(first)))]
            some = np.concatenate(turns)[:size]
            at = first[some] + (rng.random(size) * tokens[some]).astype(int)
            found.append(counted(self.topk[at], self.num_experts))
        return np.stack(found).astype(np.int64)


def halves(name: str, rng: np.random.Generator) -> tuple[Half, Half]:
    """Divide a model's requests, drawn by lot; of one request its tokens."""
    with np.load(DATA / f"{name}.npz") as arrays:
        topk, E = arrays["topk"].astype(np.int64), arrays["load"].shape[2]
        key = REQUESTS.get(name)
        request = np.arange(len(topk)) if key is None else arrays[key].astype(np.int64)
    drawn = rng.permutation(int(request.max()) + 1)
    early = drawn[request] < len(drawn) // 2
    return Half(topk[early], request[early], E), Half(topk[~early], request[~early], E)


def shared_evenly(place: Placement, counts: Int, time: ExpertTime) -> tuple[float, float, float]:
    """Return most active experts on a GPU and its seconds, mean over batches and layers.

    And the active experts of the GPU that has most on average over the batches, mean over layers.

    Tokens go to the replicas in turn; which one is first changes from batch to batch.
    """
    L = len(place.logical_to_physical)
    gpu = np.arange(L)[:, None, None] * GPUS + place.cluster.gpu_of_slot[place.logical_to_physical]
    shared = [even_quotas(place, count, b) > 0 for b, count in enumerate(counts)]
    active = np.stack([
        np.bincount(gpu.ravel(), each.ravel(), L * GPUS).reshape(L, GPUS) for each in shared
    ])  # fmt: skip
    return (
        float(active.max(axis=2).mean()),
        float(straggler_seconds(place, counts, time, [("even", 1.0)]).mean()),
        float(active.mean(axis=0).max(axis=1).mean()),
    )


def least_active(counts: Int, cluster: Cluster) -> NDArray[np.float64]:
    """Return the least mean of active replicas per GPU where tokens are shared evenly, [L].

    Of any placement that fills all slots: of r replicas of an expert with n tokens min(n, r) are
    active, since tokens are whole. `counts` [B, L, E] are batches. The best numbers of replicas are
    found by dynamic programming, because an expert's first further replica costs most.
    """
    spare = cluster.num_living_slots - counts.shape[2]
    more = np.arange(spare + 1)
    best = np.tile(np.where(more == 0, 0.0, np.inf), (counts.shape[1], 1))
    for e in range(counts.shape[2]):
        own = np.minimum(counts[:, :, e, None], more + 1).mean(axis=0)  # [L, spare + 1]
        split = [best[:, : n + 1] + own[:, n::-1] for n in range(spare + 1)]
        best = np.stack([costs.min(axis=1) for costs in split], axis=1)
    return best[:, spare] / len(cluster.living_gpus)


def plans(half: Half, cluster: Cluster, batch: int, time: ExpertTime) -> dict[str, Any]:
    """Return placements for the load of half of the requests, and CPU seconds that ours took."""
    L, E, load = half.topk.shape[1], half.num_experts, half.load
    theirs, missing = published(THEIRS)
    made = {IN_ORDER: (0.0, Placement.trivial(L, E, Cluster(GPUS, num_slots=E)))}
    for peer in theirs:
        rows = peer.plan(load, cluster.num_slots, 1, 1, GPUS)
        made[THEIRS] = (0.0, Placement(rows, cluster, E))
    drawn = {"tokens_per_batch": batch, "top_k": half.topk.shape[2]}
    asked: dict[str, dict[str, Any]] = {
        TOKENS: {},
        BY_TIME: {"expert_time": time, **drawn},
        ONE: {"dispatch": "one", **drawn},
        ONE_BY_TIME: {"dispatch": "one", "expert_time": time, **drawn},
    }
    solve(load[:1], cluster, **asked[ONE_BY_TIME])  # loads what was compiled
    for name, how in asked.items():
        began = process_time()
        place = solve(load, cluster, **how).placement
        made[name] = (process_time() - began, place)
    return {"made": made, "missing": missing}


def measure(name: str, slots: int, batch: int) -> dict[str, Any]:
    """Plan for half of the requests, and judge in batches of the other half."""
    rng = np.random.default_rng(0)
    seen, unseen = halves(name, rng)
    counts = unseen.batches(batch, DRAWN, rng)
    cluster, time = Cluster(GPUS, num_slots=slots), ExpertTime.preset(HARDWARE, name)
    found = plans(seen, cluster, batch, time)
    rows, bound = [], None
    for planner, (seconds, place) in found["made"].items():
        alone = planner == IN_ORDER
        if planner not in (ONE, ONE_BY_TIME):
            active, waits, steady = shared_evenly(place, counts, time)
            rows.append({"planner": planner, "dispatch": "any" if alone else "even",
                         "active": active, "steady": steady, "us": 1e6 * waits,
                         "plan_s": seconds})  # fmt: skip
        if planner != BY_TIME and not alone:
            bound = judge_batches(place, counts)
            timed = judge_batches(place, counts, time, batch)
            assert timed.seconds is not None
            rows.append({"planner": planner, "dispatch": "one",
                         "active": float(bound.active.mean()),
                         "us": 1e6 * float(timed.seconds.mean()), "plan_s": seconds})  # fmt: skip
    assert bound is not None
    return {
        "model": name, "slots": slots, "batch": batch, "time": time.source,
        "per_gpu": float((counts > 0).sum(axis=2).mean()) / GPUS,
        "bound": float(bound.active_bound.mean()),
        "even_bound": float(least_active(counts, cluster).mean()),
        "rows": rows, "missing": found["missing"],
    }  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Judge every case in batches of each size."""
    results = []
    for name, slots in CASES[-1:] if quick else CASES:
        for batch in BATCHES[:1] if quick else BATCHES:
            if is_here(name):
                say(f"{name}, {slots} slots, batches of {batch}")
                results.append(measure(name, slots, batch))
    return {"cases": results}


def of(case: dict[str, Any], planner: str, dispatch: str) -> dict[str, Any]:
    """Return what a planner reaches; nothing where it was not there."""
    asked = (planner, dispatch)
    found = [row for row in case["rows"] if (row["planner"], row["dispatch"]) == asked]
    return found[0] if found else {}


def _held_to(cases: list[dict[str, Any]]) -> str:
    above, costly, proven, slower, wasteful = [], [], [], [], []
    gaps = {}
    for case in cases:
        told = f"{case['model']} at {case['slots']} slots in batches of {case['batch']}"
        ordered, one = of(case, IN_ORDER, "any")["active"], of(case, ONE, "one")["active"]
        above += [told] if one > ordered + 1e-9 else []
        gaps[told] = one / case["bound"] - 1.0
        proven += [told] if case["even_bound"] > ordered else []
        steady = of(case, BY_TIME, "even")["steady"] / case["even_bound"] - 1.0
        wasteful += [f"{told} ({steady:.1%})"] if steady > MOST_ABOVE else []
        sooner = [row["us"] for row in case["rows"] if row["dispatch"] == "even"]
        costly += [told] if min(sooner) >= of(case, IN_ORDER, "any")["us"] else []
        shared, timed = of(case, BY_TIME, "even")["us"], of(case, ONE_BY_TIME, "one")["us"]
        slower += [told] if timed > shared else []
    wide = [f"{told} ({gap:.1%})" for told, gap in gaps.items() if gap > MOST_ABOVE]
    return "\n".join([
        "- Planned for one replica, above in order without redundancy: "
        f"{', '.join(above) or 'none'}.",
        f"- More than {MOST_ABOVE:.0%} above the bound: {', '.join(wide) or 'none'}; on average "
        f"{np.mean(list(gaps.values())):.1%}.",
        "- Planned by time for even sharing, the GPU that has most active experts on average is "
        f"more than {MOST_ABOVE:.0%} above the least of all slots filled: "
        f"{', '.join(wasteful) or 'none'}.",
        "- Under even sharing **buy none**, since no plan for it takes less time than experts in "
        f"order without redundancy: {', '.join(costly) or 'nowhere'}. Proven for every placement "
        f"that fills all slots: {', '.join(proven) or 'nowhere'}.",
        "- One replica takes longer than even sharing planned by time, since GPUs no longer wait "
        f"for weights: {', '.join(slower) or 'nowhere'}.",
    ])  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    cases = result["cases"]
    if not cases:
        return "The recorded tokens that this needs are not here."
    rows = []
    for case in cases:
        label = f"{case['model']}, {case['slots']}, {case['batch']}"
        rows += [[label, row["planner"], row["dispatch"], f"{row['active']:.2f}",
                  f"{row['steady']:.2f}" if "steady" in row else "",
                  f"{row['us']:.1f}", f"{row['plan_s']:.2f}" if row["plan_s"] else ""]
                 for row in case["rows"]]  # fmt: skip
        rows.append([label, "at least", "one", f"{case['bound']:.2f}", "", "", ""])
        rows.append([label, "at least, all slots filled", "even", "",
                     f"{case['even_bound']:.2f}", "", ""])  # fmt: skip
    sources = sorted({f"{case['model']}: {case['time']}" for case in cases})
    missing = sorted({f"Not run: {why}" for case in cases for why in case["missing"]})
    head = ("model, slots, tokens of a batch", "planned", "dispatch", "active experts",
            "on one GPU, on average", "us of a layer", "CPU s to plan")  # fmt: skip
    return "\n\n".join([
        f"Most active experts on one of {GPUS} GPUs, and the slowest GPU's microseconds, mean over "
        f"layers and {DRAWN} batches. Plans know half of the requests; the batches have a token of "
        "each of so many of the other half (Qwen3's record is one request, of which half of the "
        "tokens are known). `even` deals an expert's tokens to its replicas in turn; `one` uses "
        "one replica of each active expert, chosen so that the fullest GPU has fewest, and for the "
        "microseconds so that the last GPU is done early. The bound is the mean of active experts "
        "per GPU, rounded up in each batch. The next column is of the GPU that has most active "
        "experts on average over the batches, which is what a plan for even sharing can level. The "
        "default planners of vLLM and SGLang follow DeepSeek's.",
        "![active experts by batch](../figures/decode.png)",
        _held_to(cases),
        table(head, rows),
        f"Times by {HARDWARE} ({'; '.join(sources)}). No GPU ran these batches.",
        *missing,
    ])  # fmt: skip


BARS = ((IN_ORDER, "any", "tab:gray"), (THEIRS, "even", "tab:red"), (TOKENS, "even", "tab:orange"),
        (BY_TIME, "even", "tab:olive"), (TOKENS, "one", "tab:cyan"),
        (ONE, "one", "tab:blue"))  # fmt: skip


def draw(result: dict[str, Any], file: Path | BinaryIO) -> None:
    """Write active experts by batch and way, a panel for each model and number of slots."""
    from matplotlib.figure import Figure

    cases = result["cases"]
    shapes = list(dict.fromkeys((case["model"], case["slots"]) for case in cases))
    figure = Figure(figsize=(10, 6), layout="constrained", dpi=150)
    panels = figure.subplots(2, 2).ravel()
    for axes, shape in zip(panels, shapes, strict=False):
        own = [case for case in cases if (case["model"], case["slots"]) == shape]
        for i, (planner, dispatch, colour) in enumerate(BARS):
            at = [n + (i - 2.5) * 0.14 for n in range(len(own))]
            high = [of(case, planner, dispatch).get("active", np.nan) for case in own]
            label = planner if dispatch == "any" else f"{planner}, {dispatch}"
            axes.bar(at, high, 0.13, color=colour, label=label if axes is panels[0] else None)
        for n, case in enumerate(own):
            axes.hlines(case["bound"], n - 0.42, n + 0.42, color="black", linewidth=1.2,
                        label="bound, one" if axes is panels[0] and n == 0 else None)  # fmt: skip
        axes.set_xticks(range(len(own)), [f"{case['batch']} tokens" for case in own])
        axes.set_ylim(bottom=0.0)
        axes.set_title(f"{shape[0]}, {shape[1]} slots on {GPUS} GPUs", fontsize=10)
        axes.grid(visible=True, axis="y", alpha=0.25)
    for axes in panels[len(shapes) :]:
        axes.remove()
    panels[0].set_ylabel("active experts on the fullest GPU")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(file, format="png")
