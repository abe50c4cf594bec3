"""``evenload plan``: from a file of loads to a placement."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.cli import shared

if TYPE_CHECKING:
    from evenload.io import LoadFile
    from evenload.plan import Plan
    from evenload.redundancy import Redundancy

EXAMPLES = """
Examples:
  evenload plan loads.csv --gpus 8 --slots 40 -o placement.json
  evenload plan loads.csv --gpus 8 --redundant auto --target 0.98
  evenload plan trace.npz --gpus 32 --nodes 4 --slots 288 --next --current placement.json
"""

_TARGET = 0.99


def arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    shared.load_options(parser)
    cluster = shared.cluster_options(parser)
    cluster.add_argument("--redundant", metavar="R|auto",
        help="Instead of --slots: slots beyond one for each expert. auto finds the fewest, equally "
        "many on each GPU, that reach the --target.")  # fmt: skip
    cluster.add_argument("--target", metavar="B", type=float,
        help="Balancedness, mean over layers, for --redundant auto to reach. Default: 0.99."
    )  # fmt: skip
    cluster.add_argument(
        "--speed", metavar="A,B,...", help="Speed of each GPU, where they differ: e.g. 1,1,2,2."
    )
    cluster.add_argument("--dead", metavar="GPU", type=int, action="append",
        help="Number of a GPU that is gone. May be given repeatedly.")  # fmt: skip
    groups = parser.add_argument_group("groups of experts")
    shared.groups_option(groups)
    groups.add_argument("--topology", metavar="NAME",
        help="strict (all of a group on one node), prefer (one replica of each on its group's "
        "node, others where they pay), or ignore. Default: strict where the groups divide evenly "
        "over the nodes, else ignore.")  # fmt: skip
    groups.add_argument("--cross-node-price", metavar="P", type=float,
        help="For --topology prefer: what a token costs that is computed away from its group's "
        "node, in tokens computed by a GPU. Default: 1.")  # fmt: skip
    search = parser.add_argument_group("search")
    search.add_argument("--solver", metavar="NAME", default="auto",
        help="auto (the best there is for the problem), greedy (DeepSeek EPLB's own plan), "
        "iterated-greedy, local-search, joint, exact (small layers), or one that a plug-in adds."
    )  # fmt: skip
    search.add_argument("--effort", metavar="LEVEL",
        help="How long to search, for the solvers auto, joint and exact: fast, standard, thorough, "
        "or a number of steps.")  # fmt: skip
    search.add_argument("--next", action="store_true",
        help="Plan a trace for the window after it: for a forecast, and so that it holds under the "
        "last windows.")  # fmt: skip
    moves = parser.add_argument_group("moves")
    moves.add_argument("--current", metavar="FILE", type=Path,
        help="Running placement: the plan moves few experts from it, see --move-cost and "
        "--max-moves.")  # fmt: skip
    shared.placement_format_option(moves, "--current-format")
    moves.add_argument("--move-cost", metavar="P", type=float,
        help="With --current: minimum gain required per move in its layer, in balancedness. "
        "Default: 0.1 over the slots of a layer.")  # fmt: skip
    moves.add_argument("--max-moves", metavar="M", type=int,
        help="With --current: experts of each layer that may move at most.")  # fmt: skip
    output = shared.output_options(parser)
    output.add_argument("-o", "--output", metavar="FILE", type=Path,
        help="Write the placement to a file: .json or .npz (evenload's own), .pt (SGLang), .yaml "
        "(TensorRT-LLM), or what --output-format says.")  # fmt: skip
    output.add_argument("--output-format", metavar="NAME",
        help="Format of --output: evenload, evenload-npz, sglang, tensorrt-llm or vllm-ascend. "
        "Default: by its ending.")  # fmt: skip
    output.add_argument("--curve", metavar="FILE", type=Path,
        help="Draw what each number of slots reaches that --redundant auto tried, to a .png, .svg "
        "or .pdf.")  # fmt: skip


def run(args: Namespace) -> None:
    """Plan a placement for measured loads.

    Prints it beside the trivial placement (experts in order, as engines start), or beside the
    --current one. Without --window or --next a trace is summed over its windows.
    """
    how = _how(args)
    _check(args)
    shared.check_outputs(args.output, args.output_format, args.plot, args.curve)
    file = shared.open_loads(args)
    running = shared.open_placement("current", args, file.load.shape[1], file.layers)
    if running is not None:
        how["current"] = running
    tokens = _windows_of(file, args.window) if args.next else file.load
    plan, seconds, found = _plan(args, tokens, how)

    from evenload.report.compare import Context, compare_plan, plan_lines
    from evenload.report.tables import slots_entry, slots_lines

    expected = plan.problem.load if args.next else file.load
    context = Context.of(file, plan.placement.cluster, args.groups, forecast=args.next)
    more = shared.extras(args, plan.placement.cluster)
    summaries = compare_plan(expected, plan, 1e3 * seconds, **more)
    _write(args, plan, file, expected)
    if args.curve is not None and found is not None:
        from evenload.report.figures import draw_slots_curve, save_figure

        with shared.busy("drawing"):
            save_figure(args.curve, draw_slots_curve(found))
        shared.say(f"wrote the curve to {args.curve}")
    shared.show(
        args,
        context,
        summaries,
        [*plan_lines(summaries, plan), *slots_lines(found)],
        solver=plan.solver,
        reason=plan.reason,
        notes=list(plan.notes),
        physical_to_logical=plan.placement.physical_to_logical.tolist(),
        **slots_entry(found),
    )


def _plan(
    args: Namespace, tokens: Any, how: dict[str, Any]
) -> tuple[Plan, float, Redundancy | None]:
    """Plan once; also return the seconds it took, and how the slots were found if they were."""
    from evenload import solve
    from evenload.clock import Stopwatch

    if args.redundant == "auto":
        from evenload.redundancy import smallest_redundancy
        from evenload.report.text import counted

        wanted = _TARGET if args.target is None else args.target
        with (
            shared.kernels(),
            shared.busy("looking for the fewest slots") as tell,
            Stopwatch() as watch,
        ):
            found = smallest_redundancy(
                tokens, args.gpus, args.nodes, wanted=wanted, say=tell, **how
            )
        tried = counted(found.num_tried, "number")
        shared.say(f"tried {tried} of slots in {watch.seconds:.2f} s")
        return found.plan, found.plan_seconds, found
    experts = tokens.shape[-1]
    slots = _slots(args, experts)
    cluster = shared.cluster_of(args, slots, experts, _speed(args.speed), _alive(args))
    with shared.kernels(), shared.busy("planning"), Stopwatch() as watch:
        plan = solve(tokens, cluster, **how)
    return plan, watch.seconds, None


def _write(args: Namespace, plan: Plan, file: LoadFile, load: Any) -> None:
    if args.output is None:
        return
    from evenload.io import write_placement

    about: dict[str, Any] = {"solver": plan.solver, "load": load, "layers": file.layers}
    shared.say_notes(
        write_placement(args.output, plan.placement, format=args.output_format, **about)
    )
    shared.say(f"wrote the placement to {args.output}")


def _how(args: Namespace) -> dict[str, Any]:
    """Return further arguments of `evenload.solve`: those that were given.

    Raises
    ------
    ValueError
        For a price where no topology looks at it, or limits on moves without --current.
    """
    how = {"num_groups": args.groups, "topology": args.topology, "solver": args.solver}
    if args.cross_node_price is not None:
        if args.topology != "prefer":
            raise ValueError(
                f"--cross-node-price {args.cross_node_price:g} is for --topology prefer; give "
                "both, or neither"
            )
        how["cross_node_price"] = args.cross_node_price
    if args.effort is not None:
        number = args.effort.isascii() and args.effort.isdigit()
        how["effort"] = int(args.effort) if number else args.effort
    for name in ("move_cost", "max_moves"):
        if getattr(args, name) is None:
            continue
        if args.current is None:
            raise ValueError(
                f"--{name.replace('_', '-')} limits moves from --current; give both, or neither"
            )
        how[name] = getattr(args, name)
    return how


def _check(args: Namespace) -> None:
    """Raise `ValueError` for options that do not go together, before any work is done."""
    if args.redundant != "auto":
        for name in ("curve", "target"):
            if getattr(args, name) is not None:
                does = "is drawn for" if name == "curve" else "is for"
                raise ValueError(f"--{name} {does} --redundant auto; give both, or neither")
        return
    if args.target is not None and not 0.0 < args.target <= 1.0:
        raise ValueError(f"--target {args.target:g} is outside (0, 1]; use {_TARGET:g} for example")
    if args.next:
        raise ValueError("--redundant auto looks at one load; leave out --next, or take a --window")
    if args.current is not None:
        raise ValueError(
            "--redundant auto looks for the slots to plan anew on; leave out --current, or give "
            "--slots"
        )
    if (args.slots, args.speed, args.dead) != (None, None, None):
        raise ValueError(
            "--redundant auto looks for the slots of equal living GPUs; leave out --slots, --speed "
            "and --dead"
        )


def _windows_of(file: LoadFile, window: int | None) -> Any:
    """Return the trace, for planning what comes after it."""
    if window is not None:
        raise ValueError(
            "--window and --next are two ways to look at a trace; give one of them, or neither"
        )
    if file.trace is None:
        raise ValueError(
            f"--next: {file.source} has one load and no windows; leave --next out, or use a trace "
            "[windows, layers, experts]"
        )
    return file.trace


def _slots(args: Namespace, num_experts: int) -> int | None:
    """Return the slots of a layer, from either way of giving them; None for neither."""
    slots: int | None = args.slots
    redundant = args.redundant
    if redundant is None:
        return slots
    if slots is not None:
        raise ValueError("--slots and --redundant are two ways to say one thing; give one of them")
    if not redundant.isascii() or not redundant.isdigit():
        raise ValueError(f"--redundant {redundant} is no number; use one of at least 0, or auto")
    return num_experts + int(redundant)


def _speed(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--speed {text}: not numbers with commas between; use one for each GPU, e.g. 1,1,2,2"
        ) from None


def _alive(args: Namespace) -> list[bool] | None:
    """Return for each GPU whether it is alive; None if all are."""
    for gpu in args.dead or []:
        if not 0 <= gpu < args.gpus:
            raise ValueError(f"--dead {gpu} is no GPU; use 0 to {args.gpus - 1}")
    if not args.dead:
        return None
    alive = [gpu not in args.dead for gpu in range(args.gpus)]
    if not any(alive):
        raise ValueError(f"--dead: all {args.gpus} GPUs are gone; leave 1 or more")
    return alive
