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
from evenload.seconds import layer_seconds
from evenload.synth import two_phase_trace

TITLE = "Two phases"
SEEN, SERVED = 16, 4  # windows that are planned from, and those after them that are judged
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of decode, beside 1 for prefill
BY_TIME = "both, by time"
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
    def curve(self) -> ExpertTime:
        """Time of one expert."""
        return ExpertTime.preset(HARDWARE, self.model)

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
    told, seconds = dict[str, Any](), 0.0
    for phase, windows in served.items():
        straggler, batch = [], []
        for load in windows:
            gpu_load = np.asarray(placement.gpu_load(load))
            straggler.append(straggler_time(gpu_load, placement.cluster.capacity))
            how = {"tokens_per_batch": case.batch[phase], "top_k": case.top_k}
            batch.append(layer_seconds(placement, load, case.curve, **how).sum())
            batches = load[0].sum() / (case.batch[phase] * case.top_k)
            seconds += batches * batch[-1]
        figures = {"straggler": np.mean(straggler), "ms": 1e3 * np.mean(batch)}
        told[phase] = {name: round(float(figure), 5) for name, figure in figures.items()}
    return {**told, "seconds": round(float(seconds), 7)}


def measure(case: Case, seed: int) -> dict[str, Any]:
    """Plan a two-phase trace for one phase, for the sum and for both: by tokens and by time."""
    shape = SEEN + SERVED, case.layers, case.experts
    trace = {name: t.astype(float) for name, t in two_phase_trace(*shape, seed=seed).items()}
    seen = {name: load[:SEEN] for name, load in trace.items()}
    served = {name: load[SEEN:] for name, load in trace.items()}
    cluster = Cluster(case.gpus, num_slots=case.slots)
    plans = {
        "in order": Placement.trivial(*shape[1:], cluster),
        "the sum": solve(seen["prefill"] + seen["decode"], cluster).placement,
    }
    for phase, load in seen.items():
        plans[f"{phase} alone"] = solve(load, cluster).placement
    for weight in WEIGHTS:
        how = {"phase_weight": {"prefill": 1.0, "decode": weight}}
        plans[f"both, decode {weight:g}"] = solve(seen, cluster, **how).placement
    times = {"expert_time": case.curve, "top_k": case.top_k}
    for phase, load in seen.items():
        how = {**times, "tokens_per_batch": case.batch[phase]}
        plans[f"{phase} alone, by time"] = solve(load, cluster, **how).placement
    how = {**times, "tokens_per_batch": case.batch}
    plans[BY_TIME] = solve(seen, cluster, **how).placement
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
            "curve": case.curve.source,
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

    The one by tokens, at equal weights, in the straggler times of both phases together; or the one
    by time in the seconds of all batches.
    """
    lost = []
    for trace in case["traces"]:
        plans = trace["plans"]
        for name in (name for name in plans if "alone" in name):
            equal, alone = plans["both, decode 1"], plans[name]
            waits = [sum(plan[phase]["straggler"] for phase in PHASES) for plan in (equal, alone)]
            if waits[0] > waits[1] or plans[BY_TIME]["seconds"] > alone["seconds"]:
                lost.append(f"{case['name']}, seed {trace['seed']}: {name}")
    return lost


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    head = ("plan for", "prefill straggler", "decode straggler", "prefill ms", "decode ms",
            "seconds of all", "to both, by time")  # fmt: skip
    lost = [name for case in result["cases"] for name in losses(case)]
    count = 4 * sum(len(case["traces"]) for case in result["cases"])
    parts = [
        "Traces of both phases (`synth.two_phase_trace`): prefill has 15 times decode's tokens, "
        f"other experts are popular in each, and both drift. Plans from {SEEN} windows are judged "
        f"on the {SERVED} after them, under even sharing; means over seeds. `straggler` is the "
        "straggler time in tokens; `ms` the experts' time of one batch on the slowest GPU, summed "
        "over the layers, by the curve of one expert; and `seconds of all` weighs both by the "
        "batches that the trace has. Plans are by tokens, those named so by time. Nothing was run "
        "on a GPU. In the straggler times of both phases together the plan at equal weights, or in "
        f"the seconds of all the one by time, loses to {len(lost)} of {count} plans for one phase"
        f"{': ' + '; '.join(lost) if lost else ''}.",
        "![prefill against decode](../figures/phases.png)",
    ]
    for case in result["cases"]:
        batch = case["batch"]
        parts.append(
            f"{case['name']}; {batch['prefill']:,} tokens per batch of prefill, "
            f"{batch['decode']:,} of decode; curve: {case['curve']}."
        )
        base = _mean(case, BY_TIME, "seconds")
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
         "both, decode 1": "r*", BY_TIME: "kx"}  # fmt: skip


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
