"""``evenload plan``: from a file of loads to a placement."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from evenload.cli import inputs, options, output

if TYPE_CHECKING:
    from evenload.io import LoadFile
    from evenload.plan import Plan
    from evenload.sizing import Advice

EXAMPLES = """
Examples:
  evenload plan loads.csv --gpus 8 --slots 40 -o placement.json
  evenload plan trace.npz --gpus 8 --redundant auto
  evenload plan trace.npz --gpus 32 --nodes 4 --slots 288 --next --current placement.json
"""

OPTIONS = {
    "arguments": options.LOADS,
    "loads": options.WINDOW | options.READING | options.ORDER,
    "cluster": options.CLUSTER | {
        "--redundant R|auto": "Instead of --slots: slots beyond one for each expert. auto takes "
        "what `evenload size` recommends for these GPUs.",
        "--speed A,B,...": "Speed of each GPU, where they differ: e.g. 1,1,2,2.",
        "--dead GPU*": "Number of a GPU that is gone. May be given repeatedly.",
        "--survive NAME": "gpu or node: keep copies of every expert on several of them, so that "
        "none is lost when any one dies.",
        "--survive-count N": "For --survive: how many may die at once. Default: 1.",
    },
    "groups of experts": options.GROUPS | {
        "--topology NAME": "strict (keep each group on one node), prefer (one replica of each "
        "expert on its group's node, others where that pays), or ignore. Default: strict where "
        "the groups divide evenly over the nodes, else ignore.",
        "--cross-node-price P": "For --topology prefer: price of a token computed away from its "
        "group's node, in tokens computed by a GPU. Default: 1.",
    },
    "dispatch": options.DISPATCH | options.LIVE_SHARE | options.COPY_SLACK,
    "seconds": options.BATCHES,
    "phases": options.PHASE_WEIGHT,
    "search": {
        "--solver NAME:auto": "auto (the best there is for the problem), greedy (DeepSeek EPLB's "
        "own plan), iterated-greedy, local-search, joint, exact (small layers), or one that a "
        "plug-in adds.",
        "--effort LEVEL": "How long to search, for the solvers auto, joint and exact: fast, "
        "standard, thorough, or a number of steps.",
        "--next": "Plan for the window after the trace: by a forecast, and so that the plan also "
        "fits the last windows.",
    },
    "moves": {
        "--current FILE": "Running placement: the plan moves few experts from it, see --move-cost "
        "and --max-moves.",
        "--current-format NAME": options.PLACEMENT_FORMAT,
        "--move-cost P": "With --current: minimum gain required per move in its layer, in "
        "balancedness. Default: 0.1 divided by the slots of a layer; with --hardware, the time "
        "of the move divided by the time of serving the loads once.",
        "--max-moves M": "With --current: most experts per layer that may move.",
        "--max-transfer-seconds X": "With --hardware: most seconds that all transfers may take, "
        "by the cost model. The layers that gain most move.",
        **options.PRICES,
        "--hardware NAME": "Machine for the seconds of moves (--current) and of experts "
        "(--tokens-per-batch), and for the memory (--redundant auto): h100-ib, h200-ib, h800-ib, "
        "ascend-910c, ascend-910b, l40s-pcie or h100-pcie.",
    },
    "output": options.JSON | options.PLOT | {
        "-o, --output FILE": "Write the placement to a file: .json or .npz (evenload's own), .pt "
        "(SGLang), .yaml (TensorRT-LLM), or what --output-format says.",
        "--output-format NAME": "Format of --output: evenload, evenload-npz, sglang, tensorrt-llm "
        "or vllm-ascend. Default: by its ending.",
    },
}  # fmt: skip


def run(args: Namespace) -> None:
    """Plan a placement for measured loads.

    Prints it beside the trivial placement (experts in order, as engines start), or beside the
    --current one. Without --window or --next a trace is summed over its windows. A file that tells
    phases apart gets one plan for all of them, unless --phase takes one.
    """
    _check(args)
    output.check_outputs(args.output, args.output_format, args.plot)
    file = inputs.open_loads(args)
    running = inputs.open_placement("current", args, file.load.shape[1], file.layers)
    if args.next and file.trace is None:
        raise ValueError(
            f"--next: {file.source} has one load and no windows; leave --next out, or use a trace "
            "[windows, layers, experts]"
        )
    loads, weights = _loads(args, file, windows=args.next)
    plan, seconds, advice = _plan(args, file, loads, weights, running)

    from evenload.planner import tell_of_groups
    from evenload.report.compare import Context, compare_plan, phases_entry, plan_lines
    from evenload.report.sizes import sizes_entry, sizes_lines

    plan = tell_of_groups(plan)
    cluster = plan.placement.cluster
    load = plan.problem.load if args.next or plan.by_phase else file.load
    summaries = compare_plan(load, plan, 1e3 * seconds, **inputs.extras(args, cluster))
    if args.output is not None:
        how = {"load": load, "layers": file.layers, "format": args.output_format}
        output.say_notes(plan.save(args.output, **how))
        output.say(f"wrote the placement to {args.output}")
    said = [] if advice is None else sizes_lines([advice])
    output.show(
        args,
        Context.of(
            file, cluster, args.groups, forecast=args.next, dispatch=inputs.sharing_words(args)
        ),
        summaries,
        [*plan_lines(summaries, plan), *_seconds_lines(args, plan), *said],
        solver=plan.solver,
        reason=plan.reason,
        notes=list(plan.notes),
        **_seconds_entry(args, plan),
        physical_to_logical=plan.placement.physical_to_logical.tolist(),
        **phases_entry(plan),
        **({} if advice is None else {"sizes": sizes_entry([advice])}),
    )


def _loads(args: Namespace, file: LoadFile, windows: bool) -> tuple[Any, dict[str, float] | None]:
    """Return what is planned for, by phase where there are several, and the weights of these.

    With `windows` as traces, else summed over them.
    """
    weights = None
    if args.phase_weight is not None:
        weights = inputs.by_phase("--phase-weight", args.phase_weight, float)
    if len(file.phases) <= 1:
        if weights:
            raise ValueError(
                "--phase-weight is for a plan for several phases, and this is of one load; leave "
                "it out"
            )
        return (file.trace if windows else file.load), None
    if not windows or file.trace is None:
        return dict(file.phases), weights
    return inputs.phases_of(file.trace), weights


def _plan(
    args: Namespace, file: LoadFile, loads: Any, weights: dict[str, float] | None, running: Any
) -> tuple[Plan, float, Advice | None]:
    """Plan; also return the seconds it took, and the advice on slots where that was asked for."""
    from evenload import solve
    from evenload.clock import Stopwatch

    names = (
        *("topology", "solver", "cross_node_price", "move_cost", "max_moves"),
        *("survive", "survive_count", "max_transfer_seconds"),
    )
    asked = {name: getattr(args, name) for name in names}
    asked |= {"current": running, "num_groups": args.groups}
    asked["effort"] = None if args.effort is None else inputs.effort_of(args.effort)
    how: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    how |= inputs.sharing(args) | ({} if weights is None else {"phase_weight": weights})
    shape = file.load.shape[0], file.load.shape[1]
    how |= inputs.batches_of(args, *shape)
    if args.hardware is not None and running is not None:
        how["cost"] = inputs.cost_of(args, *shape)
    advice = None
    with output.kernels():
        if args.redundant == "auto":
            advice = _advice(args, file, how)
            cluster = advice.chosen.cluster
        else:
            differ = {"speed": _speed(args.speed), "alive": _alive(args)}
            cluster = inputs.cluster_of(args, _slots(args, shape[1]), shape[1], **differ)
        with output.busy("planning"), Stopwatch() as watch:
            plan = solve(loads, cluster, **how)
    return plan, watch.seconds, advice


def _advice(args: Namespace, file: LoadFile, how: dict[str, Any]) -> Advice:
    """Find out how many slots to plan for, by windows of a trace unless one was picked."""
    from evenload.sizing import advise, clusters_to_try

    copies = 1 if args.survive is None else 1 + (args.survive_count or 1)
    clusters = clusters_to_try(file.load.shape[1], args.gpus, args.nodes, copies=copies)
    whole = file.trace is not None and file.window is None
    asked = how | {"hardware": args.hardware, "model": inputs.model_named(args, *file.load.shape)}
    with output.busy("sizes") as say:
        return advise(_loads(args, file, windows=whole)[0], clusters, say=say, **asked)


def _seconds_entry(args: Namespace, plan: Plan) -> dict[str, float]:
    """Return what the moves take by the cost model; nothing where none was told."""
    placement, current = plan.placement, plan.current
    if args.hardware is None or current is None or current.cluster != placement.cluster:
        return {}
    cost = inputs.cost_of(args, placement.num_layers, placement.num_experts)
    schedule = cost.schedule(current, placement)
    return {
        "transfer_seconds": schedule.seconds,
        "move_seconds": cost.move_seconds(schedule),
    }


def _seconds_lines(args: Namespace, plan: Plan) -> list[str]:
    from evenload.report.text import show_seconds

    told = _seconds_entry(args, plan)
    if not told:
        return []
    return [
        f"moves take {show_seconds(told['transfer_seconds'])} by the cost model, of which serving "
        f"stands still for {show_seconds(told['move_seconds'])}"
    ]


def _check(args: Namespace) -> None:
    """Raise `ValueError` for options that do not go together, before any work is done."""
    auto, price = args.redundant == "auto", args.cross_node_price
    for given, other, rule in (
        (price, args.topology == "prefer",
         f"--cross-node-price {price or 0:g} is for --topology prefer"),
        (args.move_cost, args.current, "--move-cost limits moves from --current"),
        (args.max_moves, args.current, "--max-moves limits moves from --current"),
        (args.hardware, args.current or args.tokens_per_batch or auto,
         "--hardware is for moves from --current or for --tokens-per-batch"),
        (args.max_transfer_seconds, args.hardware, "--max-transfer-seconds needs the --hardware"),
        (args.model, args.hardware or args.expert_time or auto,
         "--model is for --hardware or --expert-time"),
        (args.cost, args.hardware, "--cost changes numbers of --hardware"),
        (args.survive_count, args.survive, "--survive-count is for --survive"),
    ):  # fmt: skip
        options.both(given, other, rule)
    if args.next and args.window is not None:
        raise ValueError(
            "--window and --next are two ways to look at a trace; give one of them, or neither"
        )
    for clash, rule in (
        (args.current, "looks for the slots to plan anew on; leave out --current, or give --slots"),
        ((args.slots, args.speed, args.dead) != (None, None, None),
         "looks for the slots of equal living GPUs; leave out --slots, --speed and --dead"),
    ):  # fmt: skip
        if auto and clash:
            raise ValueError(f"--redundant auto {rule}")


def _slots(args: Namespace, num_experts: int) -> int | None:
    """Return the slots of a layer, from either way of giving them; None for neither."""
    slots: int | None = args.slots
    if args.redundant is None:
        return slots
    if slots is not None:
        raise ValueError(options.ONE_WAY)
    if not (args.redundant.isascii() and args.redundant.isdigit()):
        raise ValueError(
            f"--redundant {args.redundant} is not a number; use one of at least 0, or auto"
        )
    return num_experts + int(args.redundant)


def _speed(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--speed {text}: not numbers with commas between; use one for each GPU, e.g. 1,1,2,2"
        ) from None


def _alive(args: Namespace) -> list[bool] | None:
    """Return for each GPU whether it is alive; None if all are."""
    from evenload.checks import whole_number
    from evenload.cluster import MOST_GPUS

    if not args.dead:
        return None
    dead, gpus = set(args.dead), whole_number("num_gpus", args.gpus, 1, MOST_GPUS)
    for gpu in sorted(dead - set(range(gpus))):
        raise ValueError(f"--dead {gpu} is not a GPU number; use 0 to {gpus - 1}")
    if len(dead) == gpus:
        raise ValueError(f"--dead: all {gpus} GPUs are gone; leave 1 or more")
    return [gpu not in dead for gpu in range(gpus)]
