"""Quality and speed side by side with the published planners: the main table."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Calls, interleaved, number, ratio, summary, table, times
from benchmarks.planners import PUBLISHED, Planner, ours, published, require_torch
from benchmarks.problems import (
    NUM_EXPERTS,
    NUM_GPUS,
    NUM_LAYERS,
    NUM_SLOTS,
    Case,
    main_cases,
    real_cases,
)
from evenload import Placement, eplb, solve
from evenload.solvers import get_solver

TITLE = "Quality and speed"
OURS = "evenload "
REFERENCES = ("DeepSeek EPLB", "SGLang 0.5.23", "vLLM 0.33.0")
HEAD = ("planner", "ms", "min - max", *(f"vs {name}" for name in REFERENCES), "balancedness",
        "worst layer", "duplicates", "moves")  # fmt: skip


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every planner on every load; quick shows that it runs, not what it reaches."""
    planners, missing = published()
    planners += ours("greedy", "iterated-greedy", "auto", label=OURS)
    rounds = 3 if quick else 11
    main, real = main_cases(quick), real_cases()
    packed = [case for case in main if case.num_groups == 1][: 2 if quick else None]
    result: dict[str, Any] = {"rounds": rounds, "missing": missing}
    result["main"] = [_measure(case, planners, rounds, say) for case in main]
    result["real"] = [_measure(case, planners, rounds, say) for case in real]
    say("the packing alone")
    result["packing"] = [packing(case, rounds) for case in packed]
    say("the whole call against its solver")
    result["overhead"] = [row for case in packed for row in overhead(case, 5 * rounds)]
    return result


def _measure(
    case: Case, planners: list[Planner], rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    say(case.name)
    L, E = case.load.shape
    start = Placement.trivial(L, E, case.cluster)
    calls = {p.name: partial(p.plan, *case.arguments) for p in planners}
    placed = {name: Placement(call(), case.cluster, E) for name, call in calls.items()}
    reached = {name: placement.balancedness(case.load) for name, placement in placed.items()}
    seconds = interleaved(calls, rounds)
    plan = solve(case.load, case.cluster, num_groups=case.num_groups)
    auto, settings = reached[OURS + "auto"], reached[OURS + "iterated-greedy"]
    return {
        "name": case.name,
        "size": f"{L} x {E} -> {case.cluster.num_slots} slots, {case.cluster.num_gpus} GPUs",
        "num_groups": case.num_groups,
        "planners": [
            {
                "name": name,
                "ms": summary(seconds[name]),
                "faster": {other: ratio(seconds[other], seconds[name])
                           for other in REFERENCES if other in seconds},
                "mean": float(reached[name].mean()),
                "worst": float(reached[name].min()),
                "duplicates": int(placement.duplicates.sum()),
                "moves": int(placement.moves_from(start).sum()),
            }
            for name, placement in placed.items()
        ],
        "bound": float(plan.bound.mean()),
        "auto_ran": plan.solver,
        "auto_at_least": float(np.mean(auto >= settings * (1 - 1e-12))),  # beyond rounding
    }  # fmt: skip


def packing(case: Case, rounds: int) -> dict[str, Any]:
    """Compare both backends of the packing at the published settings.

    The torch backend is timed in float32, as such code is run; the maximum loads are compared in
    float64, where both do the same arithmetic.
    """
    torch = require_torch()
    num_packs = case.cluster.num_gpus
    slots, _, count = eplb.replicate_experts(case.load, case.cluster.num_slots)
    weight = np.take_along_axis(case.load / count, slots, axis=1)
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


def max_load(
    weight: NDArray[np.float64], pack_index: NDArray[np.int64], num_packs: int
) -> NDArray[np.float64]:
    """Return the weight of the heaviest pack of each row, [X]."""
    rows = np.arange(len(weight))[:, None] * num_packs
    packs = np.bincount((rows + pack_index).ravel(), weight.ravel(), len(weight) * num_packs)
    heaviest: NDArray[np.float64] = packs.reshape(len(weight), num_packs).max(axis=1)
    return heaviest


def overhead(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Time ``solve``, and the solver alone on a problem that was checked before."""
    results = []
    for solver in ("iterated-greedy", "local-search", "joint"):
        call = partial(solve, case.load, case.cluster, solver=solver)
        calls: Calls = {"whole": call, "prepared": partial(get_solver(solver), call().problem)}
        seconds = interleaved(calls, rounds)
        result = {name: summary(values) for name, values in seconds.items()}
        results.append({"name": case.name, "solver": solver} | result)
    return results


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    cases = [case for case in result["main"] if case["num_groups"] == 1]
    parts = [
        f"Shape of the first tables: {NUM_LAYERS} layers x {NUM_EXPERTS} experts -> {NUM_SLOTS} "
        f"slots on {NUM_GPUS} GPUs. Medians of {result['rounds']} interleaved rounds; a ratio is "
        "the median of the ratios within a round.",
        "\n".join(f"- {name}: {source}." for name, (_, source) in PUBLISHED.items()),
        *(f"Not run: {sentence}" for sentence in result["missing"]),
        _in_short(cases),
        *(_render_case(case) for case in result["main"] + result["real"]),
    ]
    if not result["real"]:
        parts.append("The measured loads are not beside this checkout: their tables are missing.")
    parts += ["### The packing alone, compiled against torch on the CPU",
              _render_packing(result["packing"]),
              "### The whole call against its solver",
              "What checks, evaluation and the plan object add; `auto` runs joint on these loads.",
              _render_overhead(result["overhead"])]  # fmt: skip
    return "\n\n".join(parts)


def _in_short(cases: list[dict[str, Any]]) -> str:
    """Return the range over all loads without groups, a row a planner."""
    rows = []
    for name in (planner["name"] for planner in cases[0]["planners"]):
        planners = [p for case in cases for p in case["planners"] if p["name"] == name]
        mean, duplicates = ([p[key] for p in planners] for key in ("mean", "duplicates"))
        rows.append([
            name,
            *(_range(p["faster"].get(other) for p in planners) for other in REFERENCES),
            f"{min(mean):.4f} - {max(mean):.4f}",
            f"{min(p['worst'] for p in planners):.4f}",
            f"{min(duplicates)} - {max(duplicates)}",
        ])  # fmt: skip
    head = ["planner", *(f"faster than {name}" for name in REFERENCES), "balancedness, mean",
            "worst layer", "duplicates"]  # fmt: skip
    return table(head, rows)


def _range(ratios: Iterable[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{times(min(known))} - {times(max(known))}" if known else "-"


def _render_case(case: dict[str, Any]) -> str:
    rows = [
        [
            p["name"],
            number(p["ms"]["median"]),
            f"{number(p['ms']['min'])} - {number(p['ms']['max'])}",
            *(times(p["faster"].get(name)) for name in REFERENCES),
            f"{p['mean']:.5f}",
            f"{p['worst']:.5f}",
            str(p["duplicates"]),
            str(p["moves"]),
        ]
        for p in case["planners"]
    ]
    note = (
        f"Proven bound on the balancedness, mean over layers: {case['bound']:.5f}. auto ran "
        f"{case['auto_ran']}; it is at least as good as iterated-greedy on "
        f"{case['auto_at_least']:.1%} of the layers."
    )
    return f"### {case['name']} ({case['size']})\n\n{table(HEAD, rows)}\n\n{note}"


def _render_packing(results: list[dict[str, Any]]) -> str:
    head = ("load", "torch ms", "compiled ms", "compiled is faster by", "same maximum loads")
    return table(head, [
        (r["name"], number(r["torch"]["median"]), number(r["compiled"]["median"]),
         times(r["ratio"]), "yes" if r["agree"] else f"no, {r['largest_difference']:.1e} apart")
        for r in results
    ])  # fmt: skip


def _render_overhead(results: list[dict[str, Any]]) -> str:
    rows = []
    for r in results:
        whole, solver = r["whole"]["median"], r["prepared"]["median"]
        rows.append((r["name"], r["solver"], number(whole), number(solver), times(whole / solver)))
    head = ("load", "solver", "whole call ms", "solver ms", "whole call / solver")
    return table(head, rows)
