"""One plan for prefill and decode: what each phase takes, by how much it counts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import table
from evenload import Cluster, Placement, solve
from evenload.cost import ExpertTime
from evenload.plan import straggler_time
from evenload.synth import two_phase_trace

TITLE = "Two phases"
SEEN, SERVED = 16, 4  # windows that are planned from, and those after them that are judged
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of decode, beside 1 for prefill
BY_SECONDS = "by seconds"
HARDWARE = "h200-ib"
PHASES = ("prefill", "decode")

Load = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A model on GPUs, and the tokens of one batch over all of them in each phase."""

    model: str
    layers: int
    experts: int
    top_k: int
    gpus: int
    slots: int
    prefill: int
    decode: int
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def batch(self) -> dict[str, int]:
        """Tokens of a batch by phase."""
        return {"prefill": self.prefill, "decode": self.decode}


CASES = (
    Case("gpt-oss-20b", 24, 32, 4, 8, 40, 8192, 512),
    Case("qwen3-30b-a3b", 48, 128, 8, 16, 144, 16384, 1024),
    Case("deepseek-v3", 58, 256, 8, 32, 288, 32768, 4096),
)
QUICK = (Case("gpt-oss-20b", 3, 32, 4, 8, 40, 8192, 512, (0,)),)


def judge(case: Case, placement: Placement, served: dict[str, Load]) -> dict[str, Any]:
    """Return what a placement takes for the windows served, under even sharing, by phase.

    Returns
    -------
    dict
        `straggler`: the straggler time, mean over the windows. `ms`: milliseconds of one batch's
        experts on the slowest GPU, summed over the layers, by the expert's curve; and `seconds` of
        all batches of all windows and phases.
    """
    curve, told = ExpertTime.preset(HARDWARE, case.model), {}
    cluster, count = placement.cluster, np.asarray(placement.replica_count)
    slots, seconds = np.asarray(placement.physical_to_logical), 0.0
    for phase, windows in served.items():
        straggler, batch = [], []
        for load in windows:
            gpu_load = np.asarray(placement.gpu_load(load))
            straggler.append(straggler_time(gpu_load, cluster.capacity))
            each = np.take_along_axis(load / count, slots, axis=1)
            how = {"tokens_per_batch": case.batch[phase], "top_k": case.top_k}
            time = curve.expected_seconds(each, **how).reshape(len(load), cluster.num_gpus, -1)
            batch.append(time.sum(axis=2).max(axis=1).sum())
            batches = load[0].sum() / (case.batch[phase] * case.top_k)
            seconds += batches * batch[-1]
        figures = {"straggler": np.mean(straggler), "ms": 1e3 * np.mean(batch)}
        told[phase] = {name: round(float(figure), 5) for name, figure in figures.items()}
    return {**told, "seconds": round(float(seconds), 7)}


def _decode_part(case: Case, seen: dict[str, Load]) -> float:
    """Return the seconds that decode's experts take, over those of prefill's."""
    curve, seconds = ExpertTime.preset(HARDWARE, case.model), {}
    for phase, windows in seen.items():
        batch, load = case.batch[phase], windows.sum(axis=0)
        time = curve.expected_seconds(load, tokens_per_batch=batch, top_k=case.top_k).sum()
        seconds[phase] = time * load.sum() / batch
    return float(seconds["decode"] / seconds["prefill"])


def measure(case: Case, seed: int) -> dict[str, Any]:
    """Plan a two-phase trace for one phase, for the sum and for both at every weight."""
    shape = SEEN + SERVED, case.layers, case.experts
    trace = {name: t.astype(float) for name, t in two_phase_trace(*shape, seed=seed).items()}
    seen = {name: load[:SEEN] for name, load in trace.items()}
    served = {name: load[SEEN:] for name, load in trace.items()}
    cluster = Cluster(case.gpus, num_slots=case.slots)
    plans = {
        "in order": Placement.trivial(*shape[1:], cluster),
        "prefill alone": solve(seen["prefill"], cluster).placement,
        "decode alone": solve(seen["decode"], cluster).placement,
        "the sum": solve(seen["prefill"] + seen["decode"], cluster).placement,
    }
    weights = {f"{weight:g}": weight for weight in WEIGHTS}
    weights[BY_SECONDS] = _decode_part(case, seen)
    for name, weight in weights.items():
        how = {"phase_weight": {"prefill": 1.0, "decode": weight}}
        plans[f"both, decode {name}"] = solve(seen, cluster, **how).placement
    return {"seed": seed, "plans": {n: judge(case, plan, served) for n, plan in plans.items()}}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every case."""
    results = []
    for case in QUICK if quick else CASES:
        traces = []
        for seed in case.seeds:
            say(f"{case.model}, seed {seed}")
            traces.append(measure(case, seed))
        results.append({
            "name": f"{case.model}, {case.layers} x {case.experts} -> {case.slots}/{case.gpus}",
            "batch": case.batch,
            "curve": ExpertTime.preset(HARDWARE, case.model).source,
            "traces": traces,
        })  # fmt: skip
    return {"cases": results}


def _mean(case: dict[str, Any], plan: str, *keys: str) -> float:
    found = [trace["plans"][plan] for trace in case["traces"]]
    for key in keys:
        found = [each[key] for each in found]
    return float(np.mean(found))


def losses(case: dict[str, Any]) -> list[str]:
    """Name the plans for one phase, by seed, that a plan for both loses to.

    At equal weights in the straggler times of both phases together, or, weighted by seconds, in
    the seconds of all batches.
    """
    lost = []
    for trace in case["traces"]:
        plans = trace["plans"]
        equal, timed = plans["both, decode 1"], plans[f"both, decode {BY_SECONDS}"]
        for name in ("prefill alone", "decode alone"):
            alone = plans[name]
            waits = [sum(plan[phase]["straggler"] for phase in PHASES) for plan in (equal, alone)]
            if waits[0] > waits[1] or timed["seconds"] > alone["seconds"]:
                lost.append(f"{case['name']}, seed {trace['seed']}: {name}")
    return lost


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    head = ("plan for", "prefill straggler", "decode straggler", "prefill ms", "decode ms",
            "seconds of all", "to both, by seconds")  # fmt: skip
    lost = [name for case in result["cases"] for name in losses(case)]
    count = 2 * sum(len(case["traces"]) for case in result["cases"])
    parts = [
        "Traces of both phases (`synth.two_phase_trace`): prefill has 15 times decode's tokens, "
        f"other experts are popular in each, and both drift. Plans from {SEEN} windows, by tokens, "
        f"are judged on the {SERVED} after them, under even sharing; means over seeds. `straggler` "
        "is the straggler time in tokens; `ms` the experts' time of one batch on the slowest GPU, "
        "summed over the layers, by the curve of one expert; and `seconds of all` weighs both by "
        "the batches that the trace has. Nothing was run on a GPU. `by seconds` is decode's "
        "weight beside 1 for prefill where each counts by the time that its experts take. In the "
        "straggler times of both phases together the plan at equal weights, or in seconds the one "
        f"by seconds, loses to {len(lost)} of {count} plans for one phase"
        f"{': ' + '; '.join(lost) if lost else ''}.",
        "![prefill against decode](../figures/phases.png)",
    ]
    for case in result["cases"]:
        batch = case["batch"]
        parts.append(
            f"{case['name']}; {batch['prefill']:,} tokens per batch of prefill, "
            f"{batch['decode']:,} of decode; curve: {case['curve']}."
        )
        base = _mean(case, f"both, decode {BY_SECONDS}", "seconds")
        parts.append(table(head, [
            [
                name,
                *(f"{_mean(case, name, phase, 'straggler'):.4f}" for phase in PHASES),
                *(f"{_mean(case, name, phase, 'ms'):.3f}" for phase in PHASES),
                f"{_mean(case, name, 'seconds'):.4f}",
                f"{_mean(case, name, 'seconds') / base - 1.0:+.2%}",
            ]
            for name in case["traces"][0]["plans"]
        ]))  # fmt: skip
    return "\n\n".join(parts)


MARKS = {"prefill alone": "bs", "decode alone": "gD", "the sum": "m^",
         "both, decode 1": "r*", f"both, decode {BY_SECONDS}": "kx"}  # fmt: skip


def draw(result: dict[str, Any], file: Path | BinaryIO) -> None:
    """Write a row for each case: straggler times, and milliseconds, of decode against prefill."""
    from matplotlib.figure import Figure

    cases = result["cases"]
    figure = Figure(figsize=(9.6, 3.6 * len(cases)), layout="constrained", dpi=150)
    grid = figure.subplots(len(cases), 2, squeeze=False)
    for row, case in zip(grid, cases, strict=True):
        for axes, key, unit in zip(
            row, ("straggler", "ms"), ("straggler time", "ms per batch"), strict=True
        ):
            swept = [f"both, decode {weight:g}" for weight in WEIGHTS]
            x, y = ([_mean(case, name, phase, key) for name in swept] for phase in PHASES)
            axes.plot(x, y, "r-", linewidth=1)
            axes.plot(x, y, "ro", markersize=4, label="both, decode's weight 0.01 to 100")
            for name, mark in MARKS.items():
                axes.plot(*(_mean(case, name, p, key) for p in PHASES), mark, label=name,
                          markersize=9 if mark == "r*" else 6)  # fmt: skip
            axes.set_title(case["name"], fontsize=9)
            axes.set_xlabel(f"prefill, {unit}", fontsize=8)
            axes.set_ylabel(f"decode, {unit}", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.grid(visible=True, alpha=0.25)
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle("One plan for two phases, on the windows after: lower left is better")
    figure.savefig(file, format="png")
