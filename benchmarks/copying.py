"""How many experts a balancer copies for a microbatch: homes in order, and homes planned for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import interleaved, number, summary, table
from benchmarks.problems import DATA, ORDERS, is_here
from evenload import Cluster, Placement, solve
from evenload.copying import SLACKS, copied_share, copies_by_slack

TITLE = "Copies of experts for a microbatch"
SEEN, EVERY, SLACK = 16, 8, 0.05  # windows planned from, and from one plan to the next
MODELS = ("gpt-oss-20b", "deepseek-v2-lite")
HEAD = ("trace, GPUs/slots", "homes", *(f"{slack:.0%} slack" for slack in SLACKS),
        "tokens moved at 5%", "moves per plan")  # fmt: skip

Load = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Microbatches of 1,024 tokens [T, L, E], and where experts live."""

    name: str
    trace: Load
    cluster: Cluster


def cases(quick: bool) -> list[Case]:
    """Return the measured traces: without residents beside the homes, and with one on each GPU."""
    found = []
    for model in filter(is_here, MODELS):
        with np.load(DATA / f"{model}.npz") as arrays:
            for order, told in ORDERS.items():
                trace = arrays[order].astype(float)
                E = trace.shape[2]
                for gpus, extra in ((8, 0),) if quick else ((8, 0), (16, 0), (8, 8), (16, 16)):
                    cluster = Cluster(gpus, num_slots=E + extra)
                    found.append(Case(f"{model} {told}", trace[: 40 if quick else None], cluster))
    return found


def in_order(case: Case) -> Placement:
    """Return homes as all that copy have them: no residents beside them."""
    _, L, E = case.trace.shape
    return Placement.trivial(L, E, Cluster(case.cluster.num_gpus, num_slots=E))


def plan(case: Case, t: int, current: Placement) -> Placement:
    """Plan before window t from the last ones; nobody is charged for leaving the trivial start."""
    price = 0.0 if t == SEEN else None
    how = {"current": current, "dispatch": "copy", "copy_slack": SLACK, "move_cost": price}
    how["effort"] = "fast"  # more steps gave nothing
    return solve(case.trace[t - SEEN : t], case.cluster, **how).placement


def measure(case: Case) -> dict[str, Any]:
    """Count what is copied in the windows that no plan had seen, from homes of both kinds."""
    T, L, E = case.trace.shape
    homes = {"in order": in_order(case), "planned": Placement.trivial(L, E, case.cluster)}
    copies: dict[str, list[Load]] = {name: [] for name in homes}
    moved: dict[str, list[float]] = {name: [] for name in homes}
    moves = []
    for t in range(SEEN, T, EVERY):
        planned = plan(case, t, homes["planned"])
        moves.append(int(planned.moves_from(homes["planned"]).sum()))
        homes["planned"] = planned
        windows = list(case.trace[t : t + EVERY])
        for name, place in homes.items():
            copies[name] += [copies_by_slack([load], place).mean(axis=1) for load in windows]
            moved[name] += [float(copied_share(load, place, SLACK).mean()) for load in windows]
    return {
        "name": case.name,
        "gpus": case.cluster.num_gpus,
        "slots": case.cluster.num_slots,
        "layers": L,
        "moves": float(np.mean(moves[1:])) if len(moves) > 1 else None,
        "homes": {
            name: {
                "copies": np.mean(copies[name], axis=0).tolist(),
                "moved": float(np.mean(moved[name])),
            }
            for name in homes
        },
    }


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every case, and time a plan and a balancer."""
    results, found = [], cases(quick)
    for case in found:
        say(f"{case.name}, {case.cluster.num_gpus} GPUs, {case.cluster.num_slots} slots")
        results.append(measure(case))
    seconds = {}
    if found:
        case, homes = found[0], in_order(found[0])
        calls = {
            "plan": lambda: plan(case, SEEN + EVERY, homes),
            "balance": lambda: copied_share(case.trace[SEEN], homes, SLACK),
        }
        timed = interleaved(calls, 2 if quick else 9)
        seconds = {name: summary(values)["median"] for name, values in timed.items()}
    return {"traces": results, "ms": seconds}


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    if not result["traces"]:
        return "Not run: the measured loads are not here."
    rows = []
    for trace in result["traces"]:
        cells = trace["layers"] * trace["slots"]
        for name, kind in trace["homes"].items():
            moves = trace["moves"] if name == "planned" else None
            rows.append([
                f"{trace['name']}, {trace['gpus']}/{trace['slots']}",
                name,
                *(f"{count:.2f}" for count in kind["copies"]),
                f"{kind['moved']:.1%}",
                "" if moves is None else f"{moves:.0f} ({moves / cells:.0%} of slots)",
            ])  # fmt: skip
    ms = result["ms"]
    return "\n\n".join([
        "Experts copied per layer and microbatch of 1,024 tokens, by the slack that is left on the "
        "largest rank; 0% is the exact balance that MoonEP makes. Homes in order, a slot for each "
        f"expert, against homes planned for {SLACK:.0%} from the last {SEEN} windows, every "
        f"{EVERY} windows, by `solve(..., dispatch='copy', current=, effort='fast')`; more slots "
        "than experts hold residents beside the homes. Nothing was copied on GPUs: these are "
        "counts.",
        table(HEAD, rows),
        f"A plan takes {number(ms['plan'])} ms, and the reference balancer "
        f"{number(ms['balance'])} ms for the layers of one window ({result['traces'][0]['name']}, "
        "first row).",
    ])  # fmt: skip
