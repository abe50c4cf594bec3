"""Quality and speed side by side with the published planners: the main table."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import in_short, ours, overhead, packing
from benchmarks.loads import (
    NUM_EXPERTS,
    NUM_GPUS,
    NUM_LAYERS,
    NUM_SLOTS,
    Case,
    main_cases,
    real_cases,
)
from benchmarks.measure import interleaved, ratio, summary
from benchmarks.peers import PUBLISHED, Planner, published
from benchmarks.quality import judge, placed, share_at_least
from benchmarks.tables import number, table, times
from evenload import solve

TITLE = "Quality and speed"
SHAPE = f"{NUM_LAYERS} layers x {NUM_EXPERTS} experts -> {NUM_SLOTS} slots on {NUM_GPUS} GPUs"
REFERENCES = ("DeepSeek EPLB", "SGLang 0.5.23", "vLLM 0.33.0")
HEAD = (
    "planner", "ms", "min - max", "vs DeepSeek EPLB", "vs SGLang 0.5.23", "vs vLLM 0.33.0",
    "balancedness", "worst layer", "duplicates", "moves",
)  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every planner on every load.

    Parameters
    ----------
    quick : bool
        Few rounds and one seed: shows that it runs, not what it reaches.
    say : callable
        Told what is being measured.
    """
    planners, missing = published()
    planners += ours.planners()
    rounds = 3 if quick else 11
    main, real = main_cases(quick), real_cases()
    packed = [case for case in main if case.num_groups == 1][: 2 if quick else None]
    result: dict[str, Any] = {"rounds": rounds, "missing": missing}
    result["main"] = [_measure(case, planners, rounds, say) for case in main]
    result["real"] = [_measure(case, planners, rounds, say) for case in real]
    say("the packing alone")
    result["packing"] = [packing.compare(case, rounds) for case in packed]
    say("the whole call against its kernels")
    result["overhead"] = [row for case in packed for row in overhead.compare(case, 5 * rounds)]
    return result


def _measure(
    case: Case, planners: list[Planner], rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    say(case.name)
    answers = {p.name: placed(case, p.plan(*case.arguments)) for p in planners}
    seconds = interleaved({p.name: partial(p.plan, *case.arguments) for p in planners}, rounds)
    rows = []
    for name, placement in answers.items():
        against = {
            other: ratio(seconds[other], seconds[name]) for other in REFERENCES if other in seconds
        }
        rows.append({"name": name, "ms": summary(seconds[name]), "faster": against}
                    | judge(case, placement))  # fmt: skip
    auto, published_settings = (
        answers[ours.label(solver)].balancedness(case.load)
        for solver in ("auto", "iterated-greedy")
    )
    plan = solve(case.load, case.cluster, num_groups=case.num_groups)
    return {
        "name": case.name,
        "size": _size(case),
        "num_groups": case.num_groups,
        "planners": rows,
        "bound": float(plan.bound.mean()),
        "auto_ran": plan.solver,
        "auto_at_least": share_at_least(auto, published_settings),
    }


def _size(case: Case) -> str:
    layers, experts = case.load.shape
    slots, gpus = case.cluster.num_slots, case.cluster.num_gpus
    return f"{layers} x {experts} -> {slots} slots, {gpus} GPUs"


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    parts = [f"Shape of the first tables: {SHAPE}. Medians of {result['rounds']} interleaved "
             "rounds; a ratio is the median of the ratios within a round."]  # fmt: skip
    parts += ["\n".join(f"- {name}: {source}." for name, (_, source) in PUBLISHED.items())]
    parts += [f"Not run: {sentence}" for sentence in result["missing"]]
    parts += [in_short.render([c for c in result["main"] if c["num_groups"] == 1], REFERENCES)]
    parts += [_render_case(case) for case in result["main"] + result["real"]]
    if not result["real"]:
        parts.append(
            "The measured loads are not beside this checkout, so their tables are missing."
        )
    parts += ["### The packing alone, compiled against torch on the CPU",
              packing.render(result["packing"])]  # fmt: skip
    parts += ["### The whole call against its kernels", overhead.render(result["overhead"])]
    return "\n\n".join(parts)


def _render_case(case: dict[str, Any]) -> str:
    note = (
        f"Proven bound on the balancedness, mean over layers: {case['bound']:.5f}. auto ran "
        f"{case['auto_ran']}; it is at least as good as iterated-greedy on "
        f"{case['auto_at_least']:.1%} of the layers."
    )
    rows = [_row(planner) for planner in case["planners"]]
    return f"### {case['name']} ({case['size']})\n\n{table(HEAD, rows)}\n\n{note}"


def _row(planner: dict[str, Any]) -> list[str]:
    ms = planner["ms"]
    return [
        planner["name"],
        number(ms["median"]),
        f"{number(ms['min'])} - {number(ms['max'])}",
        *(times(planner["faster"].get(name)) for name in REFERENCES),
        f"{planner['mean']:.5f}",
        f"{planner['worst']:.5f}",
        str(planner["duplicates"]),
        str(planner["moves"]),
    ]
